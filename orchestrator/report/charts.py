"""The page's charts as inline SVG: the rate curve, the training loss beside it, and the kinds of failure per epoch.

Each chart is drawn twice, for wide and for narrow windows, so that its text keeps its size. Nothing is told by colour:
shapes, dashes and patterns carry the meaning, and labels stand beside what they name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from orchestrator.core.study import FINDING_KINDS, Checkpoint, Choice, FindingKind
from orchestrator.report.evidence import Evidence, Series
from orchestrator.report.markup import Markup, element

WIDE, NARROW = 760, 350
CROWDED = 9.0
"""Below so many units per epoch intervals step back, so that the smoothed line can be followed."""


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
        every = _tick_distance(self.epochs[-1] - self.epochs[0] + 1, int((self.right - self.left) / 34))
        ticks = [e for e in range(self.epochs[0], self.epochs[-1] + 1) if e % every == 0 or self.epochs[-1] < every]
        if adopted is not None:
            ticks = [e for e in ticks if e == adopted or abs(e - adopted) * self.step >= 26] + [adopted]
        below = self.bottom + 18
        labels = [_text(self.x(e), below, str(e), "middle", "strong" * (e == adopted)) for e in sorted({*ticks})]
        base = element("line", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom, class_="axis")
        caption = [_text((self.left + self.right) / 2, self.bottom + 36, "epoch", "middle", "soft")] if words else []
        return [base, *labels, *caption]


def both_widths(draw: Callable[[int], Markup]) -> Markup:
    """A chart for wide and for narrow windows; the style sheet shows one of them."""
    wide = element("div", draw(WIDE), class_="wide")
    return element("div", wide, element("div", draw(NARROW), class_="narrow"), class_="chart")


def rate_chart(evidence: Evidence, width: int) -> Markup:
    """The share of pictures that pass, per epoch, with intervals, plateau and the adopted epoch."""
    lead = evidence.series[0]
    frame = Frame(width, 46, width - 14, 44, 296, _span(evidence))
    parts: list[Markup] = []
    for percent in (0, 25, 50, 75, 100):
        y = frame.y(percent / 100)
        parts.append(element("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"))
        parts.append(_text(frame.left - 7, y + 4, f"{percent} %" if percent else "0", "end"))
    adopted = evidence.choice.epoch if evidence.choice else None
    parts += frame.epoch_axis(adopted=adopted)
    if evidence.plateau:
        parts += _plateau(frame, evidence.plateau)
    for number, other in enumerate(evidence.series[1:]):
        parts.append(_polyline(frame, _smooth_points(other), f"other other-{number % 4}"))
    crowded = frame.step < CROWDED
    parts += _points(frame, lead, adopted, crowded=crowded)
    parts.append(_polyline(frame, _smooth_points(lead), "smooth crowded" if crowded else "smooth"))
    if len(evidence.series) > 1:
        parts += _curve_names(frame, evidence)
    if evidence.choice:
        parts += _adopted(frame, evidence.choice)
    return _svg(width, 340, "First-try rate per epoch", _describe_rates(lead, evidence), parts)


def loss_chart(checkpoints: Sequence[Checkpoint], evidence: Evidence, width: int) -> Markup:
    """Mean training loss per epoch, on the rate curve's epochs."""
    known = [(c.epoch, c.loss) for c in checkpoints if isfinite(c.loss)]
    low, high = min(v for _, v in known), max(v for _, v in known)
    room = (high - low) * 0.15 or abs(high) * 0.15 or 1.0
    frame = Frame(width, 46, width - 14, 38, 104, _span(evidence), low - room, high + room)
    parts: list[Markup] = [_text(frame.left, 14, "training loss, mean of each epoch", "start", "strong")]
    parts += frame.epoch_axis(adopted=evidence.choice.epoch if evidence.choice else None, words=False)
    if evidence.choice:
        x = frame.x(evidence.choice.epoch)
        parts.append(element("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="leader"))
    parts.append(_polyline(frame, known, "curve"))
    radius = min(2.4, frame.step / 3)
    parts += [element("circle", cx=frame.x(e), cy=frame.y(v), r=radius, class_="dot") for e, v in known]
    for epoch, value in dict.fromkeys((known[0], known[-1])):
        anchor = "end" if epoch == known[-1][0] and len(known) > 1 else "start"
        parts.append(_text(frame.x(epoch), frame.y(value) - 8, f"{value:.3g}", anchor, "halo"))
    words = f"from {known[0][1]:.4g} in epoch {known[0][0]} to {known[-1][1]:.4g} in epoch {known[-1][0]}"
    return _svg(width, 128, "Training loss per epoch", words, parts)


def failure_chart(counts: Mapping[int, Counter[FindingKind]], epochs: Sequence[int], width: int) -> Markup:
    """Findings per epoch, stacked by kind; each kind has its pattern."""
    most = max(1, *(c.total() for c in counts.values()))
    frame = Frame(width, 46, width - 14, 12, 200, epochs, 0, most)
    parts: list[Markup] = []
    every = _tick_distance(most, 5)
    for value in range(0, most + 1, every):
        y = frame.y(value)
        parts.append(element("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"))
        parts.append(_text(frame.left - 7, y + 4, str(value), "end"))
    wide = min(44.0, frame.step * 0.78)
    for epoch, kinds in counts.items():
        below = 0
        for kind in FINDING_KINDS:
            if not kinds[kind]:
                continue
            top, bottom = frame.y(below + kinds[kind]), frame.y(below)
            title = element("title", f"epoch {epoch}: {kinds[kind]} x {kind}")
            box = {"x": frame.x(epoch) - wide / 2, "y": top, "width": wide, "height": bottom - top}
            parts.append(element("rect", title, class_="bar", fill=f"url(#{kind})", **box))
            below += kinds[kind]
    parts += frame.epoch_axis()
    words = "; ".join(f"epoch {e}: " + ", ".join(f"{n} {k}" for k, n in c.items()) for e, c in counts.items() if c)
    return _svg(width, 244, "Findings per epoch by kind", words or "no findings", parts)


def swatch(kind: FindingKind) -> Markup:
    """The pattern of a kind, as a small square to stand in a legend."""
    box = element("rect", x=0.5, y=0.5, width=19, height=13, class_="bar", fill=f"url(#{kind})")
    return element("svg", box, viewBox="0 0 20 14", class_="swatch", aria_hidden="true")


def _span(evidence: Evidence) -> list[int]:
    """First and last epoch of the page's charts: whatever was trained or judged."""
    epochs = {c.epoch for c in evidence.checkpoints} | {r.epoch for s in evidence.series for r in s.rates}
    return [min(epochs), max(epochs)]


def _points(frame: Frame, lead: Series, adopted: int | None, *, crowded: bool) -> list[Markup]:
    """Intervals and dots; the adopted epoch's own are drawn by `_adopted`, on top of everything."""
    parts = []
    radius, cap = min(4.5, max(1.8, frame.step / 2.6)), min(4.0, frame.step / 4)
    for rate in lead.rates:
        x = frame.x(rate.epoch)
        words = f"epoch {rate.epoch}: {rate.passes} of {rate.scored} passed, interval {rate.low:.0%} to {rate.high:.0%}"
        marks = [element("title", words)]
        if rate.epoch != adopted:
            marks += _whisker(frame, x, rate.low, rate.high, 0 if crowded else cap)
            marks.append(element("circle", cx=x, cy=frame.y(rate.rate), r=radius, class_="dot"))
        parts.append(element("g", *marks, class_="crowded" if crowded else None))
    return parts


def _adopted(frame: Frame, choice: Choice) -> list[Markup]:
    """The adopted epoch as a diamond with its label above the plot, and its fresh seeds as an open square beside it."""
    x, y, size = frame.x(choice.epoch), frame.y(choice.selection.rate), 8.0
    outline = f"M{x:.1f} {y - size:.1f}l{size} {size}l-{size} {size}l-{size} -{size}z"
    diamond = element("path", d=outline, class_="adopted")
    label = f"adopted: epoch {choice.epoch}, {choice.selection.passes} of {choice.selection.scored}"
    leader = element("line", x1=x, x2=x, y1=24, y2=max(y - size - 2, 26), class_="leader")
    own = _whisker(frame, x, choice.selection.low, choice.selection.high, 4.0)
    parts = [leader, *own, diamond, _clamped(frame, x, 17, label, "strong")]
    if choice.n:
        beside = min(15.0, max(11.0, frame.step * 0.42))
        side = x + beside if x + beside < frame.right else x - beside
        low, high = choice.interval
        fresh = frame.y(choice.first_try_rate)
        parts += _whisker(frame, side, low, high, 4.0)
        parts.append(element("rect", x=side - 5, y=fresh - 5, width=10, height=10, class_="fresh"))
        said = f"fresh seeds: {round(choice.first_try_rate * choice.n)} of {choice.n}"
        lowest = min(low, choice.selection.low)
        parts.append(_clamped(frame, side, frame.y(lowest) + 17, said, "halo"))
    return parts


def _plateau(frame: Frame, plateau: tuple[int, int]) -> list[Markup]:
    first, last = plateau
    x, end = frame.x(first - 0.5), frame.x(last + 0.5)
    box = {"x": x, "y": frame.top, "width": end - x, "height": frame.bottom - frame.top}
    band = element("rect", class_="band", fill="url(#band)", **box)
    words = f"plateau: epoch {first}" if first == last else f"plateau: epochs {first}–{last}"
    return [band, _clamped(frame, (x + end) / 2, frame.bottom - 9, words, "halo")]


def _curve_names(frame: Frame, evidence: Evidence) -> list[Markup]:
    """Which line is whose, in the corner that curves leave free: they start low and rise."""
    several_trials = len({s.trial for s in evidence.series}) > 1
    parts: list[Markup] = []
    for row, series in enumerate(evidence.series):
        name = f"{series.trial}, weight {series.weight:g}" if several_trials else f"weight {series.weight:g}"
        x, y = frame.left + 10, frame.top + 18 + 17 * row
        style = f"other other-{(row - 1) % 4}" if row else "smooth"
        said = name if row else f"{name}, with dots"
        parts.append(element("line", x1=x, x2=x + 26, y1=y - 4, y2=y - 4, class_=style))
        parts.append(_text(x + 32, y, said, "start", "halo"))
    return parts


def _smooth_points(series: Series) -> list[tuple[float, float]]:
    return [(rate.epoch, smooth) for rate, smooth in zip(series.rates, series.smooth, strict=True)]


def _whisker(frame: Frame, x: float, low: float, high: float, cap: float) -> list[Markup]:
    top, bottom = frame.y(high), frame.y(low)
    return [
        element("line", x1=x, x2=x, y1=top, y2=bottom, class_="whisker"),
        element("line", x1=x - cap, x2=x + cap, y1=top, y2=top, class_="whisker"),
        element("line", x1=x - cap, x2=x + cap, y1=bottom, y2=bottom, class_="whisker"),
    ]


def _polyline(frame: Frame, points: Sequence[tuple[float, float]], kind: str) -> Markup:
    return element("polyline", points=" ".join(f"{frame.x(e):.1f},{frame.y(v):.1f}" for e, v in points), class_=kind)


def _text(x: float, y: float, words: str, anchor: str, kind: str = "") -> Markup:
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=kind or None)


def _clamped(frame: Frame, x: float, y: float, words: str, kind: str) -> Markup:
    """Text centred on x, moved inwards where it would leave the plot (7 units per character)."""
    half = len(words) * 3.5
    return _text(max(frame.left + half, min(frame.right - half, x)), y, words, "middle", kind)


def _tick_distance(span: int, room: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 ... that needs at most `room` ticks."""
    distance = 1
    while span / distance > max(1, room):
        distance = distance * 5 // 2 if str(distance)[0] == "2" else distance * 2
    return distance


def _svg(width: int, height: int, title: str, words: str, parts: Sequence[Markup]) -> Markup:
    named = f"{title}: {words}"
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=named)


def _describe_rates(lead: Series, evidence: Evidence) -> str:
    said = ", ".join(f"{r.epoch}: {r.passes}/{r.scored}" for r in lead.rates)
    adopted = f"; adopted epoch {evidence.choice.epoch}" if evidence.choice else ""
    return f"passed of judged by epoch {said}{adopted}"


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
