"""The charts about the rate: the curve with its band, how near each epoch is to the best, and the training loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, sqrt

from orchestrator.core.study import Checkpoint, Choice
from orchestrator.report.evidence import Evidence, Series
from orchestrator.report.frame import (
    LEFT,
    RIGHT,
    Frame,
    clamped,
    percent_grid,
    polyline,
    ribbon,
    svg,
    text,
    whisker,
)
from orchestrator.report.markup import Markup, element
from orchestrator.report.outlook import CurveBand

OTHERS = 3
"""Curves of other weights and trials beside the adopted one's."""
CROWDED = 9.0
"""Below so many units per epoch intervals step back, so that the smoothed line can be followed."""


def rate_chart(evidence: Evidence, width: int) -> Markup:
    """The share of pictures that pass, per epoch, with the smoothed curve, plateau, onset and the adopted epoch."""
    lead = evidence.series[0]
    frame = Frame(width, LEFT, width - RIGHT, 44, 296, span(evidence))
    parts = percent_grid(frame)
    adopted = evidence.choice.epoch if evidence.choice else None
    parts += frame.epoch_axis(adopted=adopted)
    band = evidence.outlook.band(lead.trial, lead.weight)
    if band is not None:
        parts.append(ribbon(frame, band.epochs, band.low, band.high))
    if evidence.plateau:
        parts += _plateau(frame, evidence.plateau)
    for number, other in enumerate(_others(evidence)):
        parts.append(polyline(frame, _curve(evidence, other), f"other other-{number % 4}"))
    crowded = frame.step < CROWDED
    parts += _points(frame, lead, adopted, crowded=crowded)
    parts.append(polyline(frame, _curve(evidence, lead), "smooth"))
    if len(evidence.series) > 1:
        parts += _curve_names(frame, evidence)
    if onset := evidence.outlook.onset(lead.trial):
        parts += _onset(frame, onset)
    if evidence.choice:
        parts += _adopted(frame, evidence.choice)
    height = 340 + 18 * (1 + len(_others(evidence)) if len(evidence.series) > 1 else 0)
    return svg(width, height, "First-try rate per epoch", _describe_rates(lead, evidence), parts)


def nearness_chart(evidence: Evidence, width: int) -> Markup | None:
    """The plateau bar: how likely each epoch is near the best, and how likely overtraining has begun by it."""
    lead = evidence.series[0]
    band = evidence.outlook.band(lead.trial, lead.weight)
    if band is None:
        return None
    points = f"{100 * evidence.outlook.margin:g} points"
    wide = ", in percent" if width > 500 else ""
    rows = [
        (f"chance to be within {points} of the best{wide}", band.within),
        (f"chance that overtraining has begun{wide}", band.past),
    ]
    frame = Frame(width, LEFT, width - RIGHT, 0, 104, span(evidence))
    parts: list[Markup] = []
    for row, (name, values) in enumerate(rows):
        top = 20 + 54 * row
        parts.append(text(frame.left, top - 5, name, "start", "soft"))
        parts += shaded_row(frame, band.epochs, values, top, 22)
    if evidence.plateau:
        first, last = evidence.plateau
        start, end = frame.x(first - 0.5) + 1, frame.x(last + 0.5) - 1
        parts.append(element("path", d=f"M{start:.1f} 45V50H{end:.1f}V45", class_="bracket"))
    parts += frame.epoch_axis(adopted=evidence.choice.epoch if evidence.choice else None, words=False)
    sure = ", ".join(f"{e}: {w:.0%}" for e, w in zip(band.epochs, band.within, strict=True))
    return svg(width, 128, "Probability of being near the best, per epoch", sure, parts)


def shaded_row(
    frame: Frame, epochs: Sequence[int], values: Sequence[float | None], top: float, height: float
) -> list[Markup]:
    """A rectangle per epoch, the darker the higher its value, with figures where there is room; None is hatched."""
    edges = [frame.x(epochs[0] - 0.5), *(frame.x((a + b) / 2) for a, b in pairwise(epochs))]
    edges.append(frame.x(epochs[-1] + 0.5))
    parts = []
    for epoch, value, left, right in zip(epochs, values, edges[:-1], edges[1:], strict=True):
        box = {"x": left, "y": top, "width": max(right - left, 0.5), "height": height}
        if value is None:
            parts.append(element("rect", element("title", f"epoch {epoch}: not drawn"), fill="url(#band)", **box))
            continue
        title = element("title", f"epoch {epoch}: {value:.0%}")
        parts.append(element("rect", title, class_="shade", fill_opacity=round(0.05 + 0.95 * value, 2), **box))
        if right - left >= 22:
            light = "on-dark" if value > 0.5 else ""
            parts.append(text((left + right) / 2, top + height / 2 + 4.5, f"{100 * value:.0f}", "middle", light))
    outline = {"x": edges[0], "y": top, "width": edges[-1] - edges[0], "height": height}
    return [*parts, element("rect", class_="outline", **outline)]


def loss_chart(checkpoints: Sequence[Checkpoint], evidence: Evidence, width: int) -> Markup:
    """Mean training loss per epoch, on the rate curve's epochs."""
    known = [(c.epoch, c.loss) for c in checkpoints if isfinite(c.loss)]
    low, high = min(v for _, v in known), max(v for _, v in known)
    room = (high - low) * 0.15 or abs(high) * 0.15 or 1.0
    frame = Frame(width, LEFT, width - RIGHT, 38, 104, span(evidence), low - room, high + room)
    parts: list[Markup] = [text(frame.left, 14, "training loss, mean of each epoch", "start", "strong")]
    parts += frame.epoch_axis(adopted=evidence.choice.epoch if evidence.choice else None, words=False)
    if evidence.choice:
        x = frame.x(evidence.choice.epoch)
        parts.append(element("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="leader"))
    parts.append(polyline(frame, known, "curve"))
    radius = min(2.4, frame.step / 3)
    parts += [element("circle", cx=frame.x(e), cy=frame.y(v), r=radius, class_="dot") for e, v in known]
    for epoch, value in dict.fromkeys((known[0], known[-1])):
        anchor = "end" if epoch == known[-1][0] and len(known) > 1 else "start"
        parts.append(text(frame.x(epoch), frame.y(value) - 8, f"{value:.3g}", anchor, "halo"))
    words = f"from {known[0][1]:.4g} in epoch {known[0][0]} to {known[-1][1]:.4g} in epoch {known[-1][0]}"
    return svg(width, 128, "Training loss per epoch", words, parts)


def span(evidence: Evidence) -> list[int]:
    """First and last epoch of the page's charts: whatever was trained or judged."""
    epochs = {c.epoch for c in evidence.checkpoints} | {r.epoch for s in evidence.series for r in s.rates}
    return [min(epochs), max(epochs)]


def _points(frame: Frame, lead: Series, adopted: int | None, *, crowded: bool) -> list[Markup]:
    """Intervals and dots; the adopted epoch's own are drawn by `_adopted`, on top of everything."""
    parts = []
    cap = min(4.0, frame.step / 4)
    most = max((r.scored for r in lead.rates), default=1)
    for rate in lead.rates:
        x = frame.x(rate.epoch)
        words = f"epoch {rate.epoch}: {rate.passes} of {rate.scored} passed, interval {rate.low:.0%} to {rate.high:.0%}"
        marks = [element("title", words)]
        if rate.epoch != adopted:
            if not crowded:
                marks += whisker(frame, x, rate.low, rate.high, cap)
            radius = min(4.5, max(1.8, frame.step / 2.6)) * (0.45 + 0.55 * sqrt(rate.scored / most))
            marks.append(element("circle", cx=x, cy=frame.y(rate.rate), r=radius, class_="dot"))
        parts.append(element("g", *marks, class_="quiet"))
    return parts


def _adopted(frame: Frame, choice: Choice) -> list[Markup]:
    """The adopted epoch as a diamond with its label above the plot, and its fresh seeds as an open square beside it."""
    x, y, size = frame.x(choice.epoch), frame.y(choice.selection.rate), 8.0
    outline = f"M{x:.1f} {y - size:.1f}l{size} {size}l-{size} {size}l-{size} -{size}z"
    diamond = element("path", d=outline, class_="adopted")
    label = f"adopted: epoch {choice.epoch}, {choice.selection.passes} of {choice.selection.scored}"
    leader = element("line", x1=x, x2=x, y1=24, y2=max(y - size - 2, 26), class_="leader")
    own = whisker(frame, x, choice.selection.low, choice.selection.high, 4.0)
    parts = [leader, *own, diamond, clamped(frame, x, 17, label, "strong")]
    if choice.n:
        beside = min(15.0, max(11.0, frame.step * 0.42))
        side = x + beside if x + beside < frame.right else x - beside
        low, high = choice.interval
        fresh = frame.y(choice.first_try_rate)
        parts += whisker(frame, side, low, high, 4.0)
        parts.append(element("rect", x=side - 5, y=fresh - 5, width=10, height=10, class_="fresh"))
        said = f"fresh seeds: {round(choice.first_try_rate * choice.n)} of {choice.n}"
        lowest = min(low, choice.selection.low)
        parts.append(clamped(frame, side, frame.y(lowest) + 17, said, "halo"))
    return parts


def _plateau(frame: Frame, plateau: tuple[int, int]) -> list[Markup]:
    first, last = plateau
    x, end = frame.x(first - 0.5), frame.x(last + 0.5)
    box = {"x": x, "y": frame.top, "width": end - x, "height": frame.bottom - frame.top}
    band = element("rect", class_="band", fill="url(#band)", **box)
    words = f"plateau: epoch {first}" if first == last else f"plateau: epochs {first}–{last}"
    return [band, clamped(frame, (x + end) / 2, frame.bottom - 9, words, "halo")]


def _onset(frame: Frame, onset: tuple[int, int, int]) -> list[Markup]:
    """Where overtraining begins: a flag at the most likely place, and a line over where it may be."""
    early, middle, late = (frame.x(e - 0.5) for e in onset)
    y = frame.bottom - 30
    words = f"overtraining from about {onset[1]}"
    anchor = "end" if middle > (frame.left + frame.right) / 2 else "start"
    parts: list[Markup] = [element("line", x1=middle, x2=middle, y1=y - 8, y2=frame.bottom, class_="onset")]
    parts.append(element("path", d=f"M{middle:.1f} {y - 8:.1f}l9 4l-9 4z", class_="flag-shape"))
    if late > early:
        parts.append(element("line", x1=early, x2=late, y1=frame.bottom - 3, y2=frame.bottom - 3, class_="reach"))
    return [*parts, text(middle + (-6 if anchor == "end" else 13), y, words, anchor, "halo")]


def _curve_names(frame: Frame, evidence: Evidence) -> list[Markup]:
    """Which line is whose, below the chart."""
    parts: list[Markup] = []
    for row, series in enumerate([evidence.series[0], *_others(evidence)]):
        x, y = frame.left, frame.bottom + 58 + 18 * row
        style = f"other other-{(row - 1) % 4}" if row else "smooth"
        said = evidence.name_of(series) if row else f"{evidence.name_of(series)}, with dots"
        parts.append(element("line", x1=x, x2=x + 30, y1=y - 4, y2=y - 4, class_=style))
        parts.append(text(x + 38, y, said, "start"))
    return parts


def _others(evidence: Evidence) -> list[Series]:
    """The three other curves that reach highest, in the order of the page; maps show all of them."""
    peaks = {id(s): max(v for _, v in _curve(evidence, s)) for s in evidence.series[1:]}
    kept = sorted(evidence.series[1:], key=lambda s: -peaks[id(s)])[:OTHERS]
    return [s for s in evidence.series[1:] if s in kept]


def _curve(evidence: Evidence, series: Series) -> list[tuple[float, float]]:
    band: CurveBand | None = evidence.outlook.band(series.trial, series.weight)
    if band is None:
        return [(rate.epoch, rate.rate) for rate in series.rates]
    return list(zip(band.epochs, band.mean, strict=True))


def _describe_rates(lead: Series, evidence: Evidence) -> str:
    said = ", ".join(f"{r.epoch}: {r.passes}/{r.scored}" for r in lead.rates)
    adopted = f"; adopted epoch {evidence.choice.epoch}" if evidence.choice else ""
    return f"passed of judged by epoch {said}{adopted}"
