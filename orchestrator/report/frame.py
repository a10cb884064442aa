"""What the page's charts share: a plotting area with epochs along x, text, whiskers, lines, and patterns.

A chart is drawn twice, for wide and for narrow windows, so that its text keeps its size. Nothing is told by colour:
shapes, dashes, patterns and luminance carry the meaning, and labels stand beside what they name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.report.markup import Markup, element

WIDE, NARROW = 760, 350
LEFT, RIGHT = 46.0, 14.0
"""Margins of every chart, so that epochs stand below one another from chart to chart."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A plotting area: epochs run along x, values from `bottom_value` to `top_value` up y, in SVG units."""

    width: int
    left: float
    right: float
    top: float
    bottom: float
    epochs: Sequence[int]
    bottom_value: float = 0.0
    top_value: float = 1.0

    @property
    def step(self) -> float:
        """Distance between two neighbouring whole epochs."""
        return (self.right - self.left) / (self.epochs[-1] - self.epochs[0] + 1)

    def x(self, epoch: float) -> float:
        return self.left + (epoch - self.epochs[0] + 0.5) * self.step

    def y(self, value: float) -> float:
        share = (value - self.bottom_value) / (self.top_value - self.bottom_value)
        return self.bottom - share * (self.bottom - self.top)

    def epoch_axis(self, *, adopted: int | None = None, words: bool = True) -> list[Markup]:
        """Tick labels along the bottom, as many as there is room for, the adopted epoch's in bold; the word `epoch`."""
        every = tick_distance(self.epochs[-1] - self.epochs[0] + 1, int((self.right - self.left) / 34))
        ticks = [e for e in range(self.epochs[0], self.epochs[-1] + 1) if e % every == 0 or self.epochs[-1] < every]
        if adopted is not None:
            ticks = [e for e in ticks if e == adopted or abs(e - adopted) * self.step >= 26] + [adopted]
        below = self.bottom + 18
        labels = [text(self.x(e), below, str(e), "middle", "strong" * (e == adopted)) for e in sorted({*ticks})]
        base = element("line", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom, class_="axis")
        caption = [text((self.left + self.right) / 2, self.bottom + 36, "epoch", "middle", "soft")] if words else []
        return [base, *labels, *caption]


def both_widths(draw: Callable[[int], Markup]) -> Markup:
    """A chart for wide and for narrow windows; the style sheet shows one of them."""
    wide = element("div", draw(WIDE), class_="wide")
    return element("div", wide, element("div", draw(NARROW), class_="narrow"), class_="chart")


def whisker(frame: Frame, x: float, low: float, high: float, cap: float) -> list[Markup]:
    """An interval as a vertical line with caps."""
    top, bottom = frame.y(high), frame.y(low)
    return [
        element("line", x1=x, x2=x, y1=top, y2=bottom, class_="whisker"),
        element("line", x1=x - cap, x2=x + cap, y1=top, y2=top, class_="whisker"),
        element("line", x1=x - cap, x2=x + cap, y1=bottom, y2=bottom, class_="whisker"),
    ]


def polyline(frame: Frame, points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """A line through (epoch, value)."""
    return element("polyline", points=" ".join(f"{frame.x(e):.1f},{frame.y(v):.1f}" for e, v in points), class_=kind)


def ribbon(frame: Frame, epochs: Sequence[int], low: Sequence[float], high: Sequence[float]) -> Markup:
    """The area between two curves."""
    ends = [0.5, -0.5] if len(epochs) == 1 else [0.0, 0.0]
    there = [(epochs[0] - ends[0], high[0]), *zip(epochs, high, strict=True), (epochs[-1] + ends[0], high[-1])]
    back = [
        (epochs[-1] + ends[0], low[-1]),
        *reversed(list(zip(epochs, low, strict=True))),
        (epochs[0] - ends[0], low[0]),
    ]
    outline = " ".join(f"{frame.x(e):.1f},{frame.y(v):.1f}" for e, v in (*there, *back))
    return element("polygon", points=outline, class_="ribbon")


def text(x: float, y: float, words: str, anchor: str, kind: str = "") -> Markup:
    """Words at a point; `anchor` is start, middle or end."""
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=kind or None)


def clamped(frame: Frame, x: float, y: float, words: str, kind: str) -> Markup:
    """Text centred on x, moved inwards where it would leave the plot (7 units per character)."""
    half = len(words) * 3.5
    return text(max(frame.left + half, min(frame.right - half, x)), y, words, "middle", kind)


def percent_grid(frame: Frame) -> list[Markup]:
    """Lines at quarters, labelled."""
    parts: list[Markup] = []
    for percent in (0, 25, 50, 75, 100):
        y = frame.y(percent / 100)
        parts.append(element("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"))
        parts.append(text(frame.left - 7, y + 4, f"{percent} %" if percent else "0", "end"))
    return parts


def tick_distance(span: int, room: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 ... that needs at most `room` ticks."""
    distance = 1
    while span / distance > max(1, room):
        distance = distance * 5 // 2 if str(distance)[0] == "2" else distance * 2
    return distance


def svg(width: int, height: int, title: str, words: str, parts: Sequence[Markup]) -> Markup:
    """A chart with what it shows in words."""
    named = f"{title}: {words}"
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=named)


_PATTERNS: dict[str, str] = {
    "missing": '<rect width="8" height="8" class="paper"/>',
    "absorbed": '<rect width="8" height="8" class="ink"/>',
    "migrated": '<rect width="8" height="8" class="paper"/><path d="M-2 2L2 -2M0 8L8 0M6 10L10 6" class="hatch"/>',
    "duplicated": '<rect width="8" height="8" class="paper"/><path d="M0 0L8 8M0 8L8 0" class="hatch"/>',
    "drift": '<rect width="8" height="8" class="middle"/><circle cx="2" cy="2" r="1.6" class="paper"/>'
    '<circle cx="6" cy="6" r="1.6" class="paper"/>',
    "count": '<rect width="8" height="8" class="paper"/><path d="M0 2H8M0 6H8" class="hatch"/>',
    "band": '<path d="M-2 2L2 -2M0 8L8 0M6 10L10 6" class="faint"/>',
}


def patterns() -> list[Markup]:
    """Pattern definitions, to stand once in the page: one per kind of finding, and the plateau's band."""
    return [
        element("pattern", Markup(drawn), id=name, width=8, height=8, patternUnits="userSpaceOnUse")
        for name, drawn in _PATTERNS.items()
    ]
