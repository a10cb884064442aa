"""What is told, as values: each says which run it is for, and what to remember once it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.rates import epoch_rate, wilson
from orchestrator.core.layout import Layout
from orchestrator.core.study import COUNTED_KINDS, Cell, Checkpoint, Choice, EpochRate, Verdict
from orchestrator.record.state import StudyState
from orchestrator.tracking.told import Value
from trainer.sampled import Sampled

SHOWN = 12
"""Pictures of the best cells in the table of a choice, and as many of the worst."""

Mark = tuple[str, Value]
"""Name of a thing told, and what tells one version of it from another."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of history."""

    run: str
    values: Mapping[str, float]
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A row of a picture table."""

    image: Path
    group: str
    trial: str
    epoch: int
    weight: float
    prompt: str
    seed: int
    purpose: str
    verdict: str
    findings: str
    seen: str


@dataclass(frozen=True, slots=True)
class Pictures:
    """Rows to add to the growing table of a trial."""

    run: str
    pictures: tuple[Picture, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checkpoint as a version of the trial's model. Told again with another alias, it is the same version."""

    run: str
    checkpoint: Checkpoint
    aliases: tuple[str, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Figures:
    """The report's charts as PNG, by name."""

    run: str
    images: Mapping[str, bytes]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Live:
    """The curve of a trial as it stands."""

    run: str
    rates: tuple[EpochRate, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Samples:
    """What training drew after an epoch, to look at."""

    run: str
    epoch: int
    samples: tuple[Sampled, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What is told once an epoch is adopted."""

    run: str
    summary: Mapping[str, Any]
    rates: tuple[EpochRate, ...]
    pictures: tuple[Picture, ...]
    mark: Mark


Message = Row | Pictures | Adapter | Figures | Live | Samples | Conclusion


def checkpoint_values(checkpoint: Checkpoint) -> dict[str, float]:
    """A saved epoch as a row."""
    told = {"loss": checkpoint.loss, "seconds": checkpoint.seconds, "exposures": checkpoint.exposures_per_image}
    return {"epoch": checkpoint.epoch, **{f"epochs/{name}": value for name, value in told.items()}}


def rate_values(rate: EpochRate, judged: Iterable[tuple[Cell, Verdict]], suffix: str) -> dict[str, float]:
    """A judged epoch as a row: rate with interval, counts, findings by kind, rates by character and by prompt.

    `suffix` keeps weights apart. Unscored pictures are no rate at all: where none is scored, no rate is told.
    """
    judged = [(cell, verdict) for cell, verdict in judged]
    kinds = kind_counts(verdict for _, verdict in judged)
    told: dict[str, float] = {"rate": rate.rate, "low": rate.low, "high": rate.high} if rate.scored else {}
    told |= {"passes": rate.passes, "scored": rate.scored, "unscored": rate.unscored}
    values = {f"eval/{name}{suffix}": value for name, value in told.items()}
    values |= {f"findings/{kind}{suffix}": kinds[kind] for kind in COUNTED_KINDS}
    scored = [(cell, verdict) for cell, verdict in judged if verdict.outcome != "unscored"]
    for name in sorted({who for cell, _ in scored for who in cell.prompt.cast}):
        right = [not _concerns(verdict, name) for cell, verdict in scored if name in cell.prompt.cast]
        values |= _share(f"characters/{name}", right, suffix)
    prompts = sorted({cell.prompt.name for cell, _ in scored})
    for name in prompts if len(prompts) > 1 else ():
        right = [verdict.outcome == "pass" for cell, verdict in scored if cell.prompt.name == name]
        values |= _share(f"prompts/{name}", right, suffix)
    return {"epoch": rate.epoch, **values}


def _concerns(verdict: Verdict, character: str) -> bool:
    """Whether a finding is about this character: she lacks something, or wears what is another's."""
    return any(character in (finding.character, finding.other) for finding in verdict.findings)


def _share(name: str, right: list[bool], suffix: str) -> dict[str, float]:
    low, high = wilson(sum(right), len(right))
    told = {"rate": sum(right) / len(right), "low": low, "high": high}
    return {f"{name}/{what}{suffix}": value for what, value in told.items()}


def kind_counts(verdicts: Iterable[Verdict]) -> Counter[str]:
    """How many findings of each kind."""
    return Counter(f.kind for v in verdicts for f in v.findings)


def picture(cell: Cell, verdict: Verdict, state: StudyState, layout: Layout, group: str = "") -> Picture:
    """A drawn cell with what was said of it."""
    return Picture(
        image=layout.resolve(state.samples[cell.key].image),
        group=group,
        trial=cell.trial,
        epoch=cell.epoch,
        weight=cell.weight,
        prompt=cell.prompt.name,
        seed=cell.seed,
        purpose=cell.purpose,
        verdict=verdict.outcome,
        findings="; ".join(f.sentence() for f in verdict.findings),
        seen=" | ".join(verdict.seen),
    )


def conclusion(
    run: str, state: StudyState, choice: Choice, judge: tuple[str, int], layout: Layout, mark: Mark
) -> Conclusion:
    """The choice, every rate there is, and the best and worst pictures, by this judge's (name, version) verdicts."""
    drawn = [c for key, c in state.cells.items() if key in state.samples and _stands(c, state)]
    judged = [(c, state.verdicts[c.key, *judge]) for c in drawn if (c.key, *judge) in state.verdicts]
    pictures = tuple(_best_and_worst(judged, choice, state, layout))
    return Conclusion(run, _summary(choice), tuple(_curve(judged)), pictures, mark)


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
            yield picture(cell, verdict, state, layout, group)
