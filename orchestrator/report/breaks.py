"""Who breaks first, and how: the share of pictures with something wrong on each character, and the kinds of failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.decide.signs import SignCurve
from orchestrator.core.study import COUNTED_KINDS, FindingKind
from orchestrator.report.frame import LEFT, RIGHT, Frame, percent_grid, polyline, svg, text
from orchestrator.report.markup import Markup, element
from orchestrator.report.shot import Shot

BARS = 40
"""Of more epochs than this, neighbours share a bar."""
SHAPES = ("circle", "square", "triangle", "diamond", "ring")


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring epochs and what their judged pictures came to."""

    first: int
    last: int
    judged: int
    kinds: Counter[FindingKind]

    @property
    def name(self) -> str:
        return f"epoch {self.first}" if self.first == self.last else f"epochs {self.first} to {self.last}"


def groups(shots: Sequence[Shot], most: int = BARS) -> list[Group]:
    """Findings by epoch, or by stretches of epochs where there are more than `most`."""
    epochs = sorted({s.cell.epoch for s in shots if s.outcome in ("pass", "fail")})
    size = -(-len(epochs) // most) if epochs else 1
    found = []
    for at in range(0, len(epochs), size):
        first, last = epochs[at], epochs[min(at + size, len(epochs)) - 1]
        mine = [s for s in shots if first <= s.cell.epoch <= last and s.outcome in ("pass", "fail")]
        kinds = Counter(f.kind for s in mine if s.verdict for f in s.verdict.findings)
        found.append(Group(first, last, len(mine), kinds))
    return found


def who_chart(curves: Sequence[SignCurve], epochs: Sequence[int], adopted: int | None, width: int) -> Markup:
    """A line per character: how many of the pictures have something wrong on her. Marks differ in shape."""
    mine = [c for c in curves if c.about == "character"][: len(SHAPES)]
    room = 96 if width > 500 else 78
    frame = Frame(width, LEFT, width - room, 14, 214, [epochs[0], epochs[-1]])
    parts = percent_grid(frame) + frame.epoch_axis(adopted=adopted)
    if adopted is not None:
        x = frame.x(adopted)
        parts.append(element("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="leader"))
    every = max(1, len(epochs) // 12)
    heights = _apart([frame.y(float(c.mean[-1])) for c in mine], frame)
    for number, (curve, height) in enumerate(zip(mine, heights, strict=True)):
        points = [(e, float(v)) for e, v in zip(epochs, curve.mean, strict=True)]
        parts.append(polyline(frame, points, f"who who-{number}"))
        shape = SHAPES[number]
        parts += [_mark(shape, frame.x(e), frame.y(v)) for e, v in points[number % every :: every]]
        end = frame.y(points[-1][1])
        parts.append(
            element("path", d=f"M{frame.right + 2:.1f} {end:.1f}L{frame.right + 9:.1f} {height:.1f}", class_="tie")
        )
        parts += [_mark(shape, frame.right + 15, height), text(frame.right + 23, height + 4.5, curve.name, "start")]
        if curve.breaks_at is not None:
            at, low = frame.x(curve.breaks_at), frame.top + 12 + 17 * number
            parts.append(
                element("line", x1=at, x2=at, y1=low - 8, y2=frame.y(dict(points)[curve.breaks_at]), class_="onset")
            )
            left = at > (frame.left + frame.right) / 2
            words = f"{curve.name} breaks at {curve.breaks_at}"
            parts.append(text(at + (-5 if left else 5), low, words, "end" if left else "start", "halo"))
    said = "; ".join(f"{c.name}: {float(c.mean[0]):.0%} at first, {float(c.mean[-1]):.0%} in the end" for c in mine)
    return svg(width, 258, "Share of pictures with something wrong, by character", said, parts)


def kind_chart(found: Sequence[Group], epochs: Sequence[int], width: int) -> Markup:
    """Findings per judged picture, stacked by kind; each kind has its pattern."""
    most = max((g.kinds.total() / g.judged for g in found), default=0.0) or 1.0
    top = next(t for t in (0.1, 0.2, 0.4, 0.8, 1, 2, 4, 6, 8, 12, 20, 40, 1e9) if t >= most)
    frame = Frame(width, LEFT, width - RIGHT, 12, 200, [epochs[0], epochs[-1]], 0, top)
    parts: list[Markup] = []
    for part in range(5):
        value = top * part / 4
        y = frame.y(value)
        parts.append(element("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"))
        parts.append(text(frame.left - 7, y + 4, f"{value:g}", "end"))
    for group in found:
        left, right = frame.x(group.first - 0.5), frame.x(group.last + 0.5)
        wide = min(44.0, (right - left) * 0.8)
        below = 0.0
        for kind in COUNTED_KINDS:
            if not group.kinds[kind]:
                continue
            share = group.kinds[kind] / group.judged
            high, low = frame.y(below + share), frame.y(below)
            title = element("title", f"{group.name}: {group.kinds[kind]} x {kind} in {group.judged} pictures")
            box = {"x": (left + right - wide) / 2, "y": high, "width": wide, "height": low - high}
            parts.append(element("rect", title, class_="bar", fill=f"url(#{kind})", **box))
            below += share
    parts += frame.epoch_axis()
    words = "; ".join(f"{g.name}: " + ", ".join(f"{n} {k}" for k, n in g.kinds.items()) for g in found if g.kinds)
    return svg(width, 244, "Findings per judged picture by kind", words or "no findings", parts)


def swatch(kind: FindingKind) -> Markup:
    """The pattern of a kind, as a small square to stand in a legend."""
    box = element("rect", x=0.5, y=0.5, width=19, height=13, class_="bar", fill=f"url(#{kind})")
    return element("svg", box, viewBox="0 0 20 14", class_="swatch", aria_hidden="true")


def _apart(heights: Sequence[float], frame: Frame, least: float = 17.0) -> list[float]:
    """The heights, moved so that labels do not touch, in their order."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = dict.fromkeys(order, 0.0)
    last = frame.top - least
    for at in order:
        placed[at] = last = max(heights[at], last + least)
    over = max(0.0, last - frame.bottom)
    return [placed[i] - over for i in range(len(heights))]


def _mark(shape: str, x: float, y: float, size: float = 4.0) -> Markup:
    match shape:
        case "circle":
            return element("circle", cx=x, cy=y, r=size, class_="point")
        case "square":
            box = {"x": x - size + 0.4, "y": y - size + 0.4, "width": 2 * size - 0.8, "height": 2 * size - 0.8}
            return element("rect", class_="hollow", **box)
        case "triangle":
            outline = f"M{x:.1f} {y - size:.1f}l{size} {2 * size - 1}h-{2 * size}z"
            return element("path", d=outline, class_="point")
        case "diamond":
            outline = f"M{x:.1f} {y - size - 1:.1f}l{size} {size + 1}l-{size} {size + 1}l-{size} -{size + 1}z"
            return element("path", d=outline, class_="hollow")
        case _:
            return element("circle", cx=x, cy=y, r=size, class_="hollow")
