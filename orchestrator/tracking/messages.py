"""What is told, as values: rows of history, and the conclusion with its tables. Made from the study's state alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.rates import epoch_rate
from orchestrator.core.layout import Layout
from orchestrator.core.study import FINDING_KINDS, Cell, Checkpoint, Choice, EpochRate, Verdict
from orchestrator.state import StudyState

SHOWN = 12
"""Pictures of the best cells in the table, and as many of the worst."""

Mark = tuple[str, str | int]
"""Name of a thing told, and what tells one version of it from another."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of history; `mark` is remembered once it is written."""

    values: Mapping[str, float]
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A row of the picture table."""

    image: Path
    group: str
    trial: str
    epoch: int
    weight: float
    seed: int
    purpose: str
    verdict: str
    findings: str
    seen: str


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What is told once an epoch is adopted."""

    summary: Mapping[str, Any]
    rates: tuple[EpochRate, ...]
    pictures: tuple[Picture, ...]
    mark: Mark


Message = Row | Conclusion


def checkpoint_values(checkpoint: Checkpoint, suffix: str) -> dict[str, float]:
    """A saved epoch as a row; `suffix` keeps trials apart."""
    told = {"loss": checkpoint.loss, "seconds": checkpoint.seconds, "exposures": checkpoint.exposures_per_image}
    return {"epoch": checkpoint.epoch, **{f"epochs/{name}{suffix}": value for name, value in told.items()}}


def rate_values(rate: EpochRate, verdicts: Iterable[Verdict], suffix: str) -> dict[str, float]:
    """A judged epoch as a row: rate with interval, counts, findings of each kind; unscored is no rate at all."""
    kinds = kind_counts(verdicts)
    told: dict[str, float] = {"rate": rate.rate, "low": rate.low, "high": rate.high} if rate.scored else {}
    told |= {"passes": rate.passes, "scored": rate.scored, "unscored": rate.unscored}
    told |= {f"findings_{kind}": kinds[kind] for kind in FINDING_KINDS}
    return {"epoch": rate.epoch, **{f"eval/{name}{suffix}": value for name, value in told.items()}}


def kind_counts(verdicts: Iterable[Verdict]) -> Counter[str]:
    """How many findings of each kind."""
    return Counter(f.kind for v in verdicts for f in v.findings)


def conclusion(state: StudyState, choice: Choice, judge: tuple[str, int], layout: Layout, mark: Mark) -> Conclusion:
    """The choice, every rate there is, and the best and worst pictures, by this judge's (name, version) verdicts."""
    drawn = [c for key, c in state.cells.items() if key in state.samples and _stands(c, state)]
    judged = [(c, state.verdicts[c.key, *judge]) for c in drawn if (c.key, *judge) in state.verdicts]
    pictures = tuple(_best_and_worst(judged, choice, state, layout))
    return Conclusion(_summary(choice), tuple(_curve(judged)), pictures, mark)


def _stands(cell: Cell, state: StudyState) -> bool:
    """Whether the adapter it was drawn with is still the one of its epoch."""
    checkpoint = state.checkpoints.get((cell.trial, cell.epoch))
    return checkpoint is not None and checkpoint.sha256 == cell.adapter_sha256


def _summary(choice: Choice) -> dict[str, Any]:
    low, high = choice.interval
    first, last = choice.plateau
    facts = {
        "trial": choice.trial,
        "epoch": choice.epoch,
        "weight": choice.weight,
        "first_try_rate": choice.first_try_rate,
        "low": low,
        "high": high,
        "n": choice.n,
        "plateau_first": first,
        "plateau_last": last,
        "selection_rate": choice.selection.rate,
        "adapter": choice.adapter,
        "reason": choice.reason,
    }
    return {f"choice/{name}": value for name, value in facts.items()}


def _curve(judged: Iterable[tuple[Cell, Verdict]]) -> Iterator[EpochRate]:
    """The whole curve in order, so that its table is complete whatever single rows say."""
    groups: dict[tuple[str, float, int], list[Verdict]] = {}
    for cell, verdict in judged:
        if cell.purpose == "select":
            groups.setdefault((cell.trial, cell.weight, cell.epoch), []).append(verdict)
    for trial, weight, epoch in sorted(groups):
        rate = epoch_rate(trial, epoch, weight, groups[trial, weight, epoch])
        if rate.scored:
            yield rate


def _best_and_worst(
    judged: list[tuple[Cell, Verdict]], choice: Choice, state: StudyState, layout: Layout
) -> Iterator[Picture]:
    """Passed pictures nearest to the adopted epoch, fresh seeds first; failed ones with the most findings."""

    def nearness(place: tuple[Cell, Verdict]) -> tuple[Any, ...]:
        cell = place[0]
        elsewhere = (cell.trial, cell.weight) != (choice.trial, choice.weight)
        return elsewhere, abs(cell.epoch - choice.epoch), cell.purpose, cell.seed

    def badness(place: tuple[Cell, Verdict]) -> tuple[Any, ...]:
        return -len(place[1].findings), *nearness(place)

    best = sorted((p for p in judged if p[1].outcome == "pass"), key=nearness)[:SHOWN]
    worst = sorted((p for p in judged if p[1].outcome == "fail"), key=badness)[:SHOWN]
    for group, places in (("best", best), ("worst", worst)):
        for cell, verdict in places:
            yield Picture(
                image=layout.resolve(state.samples[cell.key].image),
                group=group,
                trial=cell.trial,
                epoch=cell.epoch,
                weight=cell.weight,
                seed=cell.seed,
                purpose=cell.purpose,
                verdict=verdict.outcome,
                findings="; ".join(f.sentence() for f in verdict.findings),
                seen=" | ".join(verdict.seen),
            )
