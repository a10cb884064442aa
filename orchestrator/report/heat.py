"""Rates over two axes at once: weight or prompt down, epoch across. Darker is higher, with figures where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.report.charts import shaded_row
from orchestrator.report.evidence import Evidence
from orchestrator.report.frame import RIGHT, Frame, svg, text
from orchestrator.report.markup import Markup, element

HEIGHT = 26


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One row: its name, and the rate of each epoch; None where nothing was scored. `adopted` is outlined."""

    name: str
    epochs: tuple[int, ...]
    rates: tuple[float | None, ...]
    adopted: int | None = None


def heat_chart(rows: Sequence[HeatRow], title: str, width: int) -> Markup:
    """The rows over common epochs."""
    epochs = sorted({e for row in rows for e in row.epochs})
    left = min(max(len(row.name) for row in rows) * 7.0 + 14, width * 0.4)
    bottom = 8 + (HEIGHT + 4) * len(rows)
    beside = 128 if width > 500 else 0
    frame = Frame(width, left, width - RIGHT - beside, 0, bottom, [epochs[0], epochs[-1]])
    parts: list[Markup] = []
    for number, row in enumerate(rows):
        top = 4 + (HEIGHT + 4) * number
        parts.append(text(frame.left - 8, top + HEIGHT / 2 + 4.5, _short(row.name, left), "end"))
        parts += shaded_row(frame, row.epochs, row.rates, top, HEIGHT)
        if beside:
            parts.append(text(frame.right + 8, top + HEIGHT / 2 + 4.5, _peak(row), "start", "soft"))
        if row.adopted is not None:
            x, end = frame.x(row.adopted - 0.5), frame.x(row.adopted + 0.5)
            box = {"x": x + 1, "y": top - 2, "width": end - x - 2, "height": HEIGHT + 4}
            parts.append(element("rect", class_="framed", **box))
    parts += frame.epoch_axis(words=False)
    parts.append(text((frame.left + frame.right) / 2, bottom + 36, "epoch; figures are percent", "middle", "soft"))
    said = "; ".join(
        f"{r.name}: " + ", ".join(_pair(e, v) for e, v in zip(r.epochs, r.rates, strict=True)) for r in rows
    )
    return svg(width, int(bottom + 44), title, said, parts)


def weight_rows(evidence: Evidence) -> list[HeatRow]:
    """A row per trial and weight, of the smoothed rate; where few epochs were drawn, of those between them too."""
    rows = []
    for series in sorted(evidence.series, key=lambda s: (s.trial, s.weight)):
        band = evidence.outlook.band(series.trial, series.weight)
        if band is None:
            continue
        sparse = sum(band.looked_at) < 0.7 * len(band.looked_at)
        rates = tuple(v if seen or sparse else None for v, seen in zip(band.mean, band.looked_at, strict=True))
        choice = evidence.choice
        chosen = choice is not None and (choice.trial, choice.weight) == (series.trial, series.weight)
        rows.append(HeatRow(evidence.name_of(series), band.epochs, rates, choice.epoch if choice and chosen else None))
    return rows


def prompt_rows(evidence: Evidence) -> list[HeatRow]:
    """A row per prompt and size of the adopted trial and weight, of the smoothed rate."""
    lead = evidence.lead
    found = evidence.outlook.trials.get(lead.trial) if lead else None
    if lead is None or found is None or found.curve is None or lead.weight not in found.table.weights:
        return []
    at = found.table.weights.index(lead.weight)
    scored = found.table.counts()[1][at]
    epochs = tuple(int(e) for e in found.table.epochs)
    sizes = {context.layout for context in found.table.contexts}
    return [
        HeatRow(
            name=str(context) if len(sizes) > 1 else context.prompt,
            epochs=epochs,
            rates=tuple(
                float(found.curve.context_mean[at, number, e]) if scored[number, e] else None
                for e in range(len(epochs))
            ),
            adopted=evidence.choice.epoch if evidence.choice else None,
        )
        for number, context in enumerate(found.table.contexts)
    ]


def _peak(row: HeatRow) -> str:
    known = [(rate, epoch) for epoch, rate in zip(row.epochs, row.rates, strict=True) if rate is not None]
    if not known:
        return "nothing drawn"
    rate, epoch = max(known)
    return f"best {100 * rate:.0f} % at {epoch}"


def _short(name: str, room: float) -> str:
    most = max(4, int(room / 7))
    return name if len(name) <= most else name[: most - 1] + "…"


def _pair(epoch: int, rate: float | None) -> str:
    return f"{epoch}: not drawn" if rate is None else f"{epoch}: {rate:.0%}"
