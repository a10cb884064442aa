"""What the page says, as numbers: taken from the study's state and configuration, before anything is drawn.

Only pictures that belong to the study as it is configured now count: of adapters that are still there, at its weights,
prompts and drawing settings. The latest verdict on a picture is the one that holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluators.rates import epoch_rates, select, smoothed
from orchestrator.core.study import Cell, Checkpoint, Choice, EpochRate, FindingKind, Outcome, Sample, Verdict
from orchestrator.ledger import Event
from orchestrator.state import StudyState

if TYPE_CHECKING:
    from orchestrator.config import StudyConfig


@dataclass(frozen=True, slots=True)
class Shot:
    """A drawn picture and what was said of it; None while nobody has looked."""

    cell: Cell
    sample: Sample
    verdict: Verdict | None

    @property
    def outcome(self) -> Outcome | None:
        return self.verdict.outcome if self.verdict else None

    @property
    def kinds(self) -> tuple[FindingKind, ...]:
        """Kinds of its findings, each once, in the order they were found."""
        return tuple(dict.fromkeys(f.kind for f in self.verdict.findings)) if self.verdict else ()


@dataclass(frozen=True, slots=True)
class Series:
    """The rate curve of one trial at one weight; `rates` are scored, by epoch, and `smooth` goes with them."""

    trial: str
    weight: float
    rates: tuple[EpochRate, ...]
    smooth: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the page is drawn from. `series[0]` is the adopted one, or the best so far."""

    study: str
    choice: Choice | None
    plateau: tuple[int, int] | None
    series: tuple[Series, ...]
    shots: tuple[Shot, ...]
    """Pictures that take part in choosing, by trial, weight, prompt, epoch and seed."""
    confirming: tuple[Shot, ...]
    """Pictures on fresh seeds of the adopted epoch."""
    checkpoints: tuple[Checkpoint, ...]
    epochs_asked: int
    """Epochs all trials together are to train."""
    failed_trials: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    quarantined: int

    @property
    def lead(self) -> Series | None:
        return self.series[0] if self.series else None


def gather(state: StudyState, config: StudyConfig) -> Evidence:
    """The evidence for a page about `state`."""
    verdicts = latest_verdicts(state)
    current = [cell for cell in state.cells.values() if cell.key in state.samples and _belongs(cell, state, config)]
    shots = tuple(
        Shot(cell, state.samples[cell.key], verdicts.get(cell.key))
        for cell in sorted(current, key=lambda c: (c.trial, c.weight, c.prompt.name, c.epoch, c.seed))
    )
    selecting = tuple(s for s in shots if s.cell.purpose == "select")
    choice = state.choice
    plateau = choice.plateau if choice else None
    lead = (choice.trial, choice.weight) if choice else None
    rates = [r for r in epoch_rates(current, verdicts) if r.scored]
    if choice is None and rates:
        provisional = select(rates, config.decide.margin)
        plateau, lead = provisional.plateau, (provisional.chosen.trial, provisional.chosen.weight)
    return Evidence(
        study=state.study or config.study,
        choice=choice,
        plateau=plateau,
        series=_curves(rates, lead),
        shots=selecting,
        confirming=tuple(s for s in shots if choice and _confirms(s.cell, choice)),
        checkpoints=tuple(state.checkpoints[key] for key in sorted(state.checkpoints)),
        epochs_asked=sum(trial.epochs for trial in state.trials.values()),
        failed_trials=tuple((name, trial.error) for name, trial in sorted(state.trials.items()) if trial.error),
        seeds=tuple(sorted({*config.grid.seeds, *(s.cell.seed for s in selecting)})),
        quarantined=len(state.quarantined),
    )


def latest_verdicts(state: StudyState) -> dict[str, Verdict]:
    """Cell key -> the verdict given last, whichever judge gave it."""
    return {verdict.cell_key: verdict for verdict in state.verdicts.values()}


def kind_counts(shots: Iterable[Shot]) -> Counter[FindingKind]:
    """How many findings of each kind."""
    return Counter(f.kind for s in shots if s.verdict for f in s.verdict.findings)


def character_counts(shots: Iterable[Shot]) -> dict[str, Counter[FindingKind]]:
    """Character -> how many findings of each kind; findings on the whole picture are under ''."""
    counts: dict[str, Counter[FindingKind]] = {}
    for finding in (f for s in shots if s.verdict for f in s.verdict.findings):
        counts.setdefault(finding.character, Counter())[finding.kind] += 1
    return dict(sorted(counts.items(), key=lambda item: (item[0] == "", -item[1].total(), item[0])))


def sentence_counts(shots: Iterable[Shot]) -> list[tuple[str, int]]:
    """Findings in words with how often each was made, commonest first."""
    counts = Counter(f.sentence() for s in shots if s.verdict for f in s.verdict.findings)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True, slots=True)
class SeedRecord:
    """How one seed fared: passes of scored pictures, and its commonest finding."""

    seed: int
    passes: int
    scored: int
    commonest: str


def seed_records(shots: Sequence[Shot]) -> list[SeedRecord]:
    """Every seed, the one that passes least first."""
    records = []
    for seed in sorted({s.cell.seed for s in shots}):
        mine = [s for s in shots if s.cell.seed == seed and s.outcome in ("pass", "fail")]
        if mine:
            said = sentence_counts(mine)
            passes = sum(s.outcome == "pass" for s in mine)
            records.append(SeedRecord(seed, passes, len(mine), said[0][0] if said else ""))
    return sorted(records, key=lambda r: (r.passes / r.scored, r.seed))


def run_seconds(events: Iterable[Event]) -> list[float]:
    """Wall time of each run of the study: from its opening to its last fact, in seconds."""
    spans: list[tuple[float, float]] = []
    for event in events:
        if event.kind == "study_opened":
            spans.append((event.time, event.time))
        elif spans:
            spans[-1] = (spans[-1][0], event.time)
    return [last - first for first, last in spans]


def _belongs(cell: Cell, state: StudyState, config: StudyConfig) -> bool:
    checkpoint = state.checkpoints.get((cell.trial, cell.epoch))
    return (
        checkpoint is not None
        and checkpoint.sha256 == cell.adapter_sha256
        and cell.weight in config.grid.weights
        and cell.prompt in [p.prompt() for p in config.grid.prompts]
        and cell.drawing == config.grid.drawing.drawing()
    )


def _confirms(cell: Cell, choice: Choice) -> bool:
    adopted = (choice.trial, choice.epoch, choice.weight)
    return cell.purpose == "confirm" and (cell.trial, cell.epoch, cell.weight) == adopted


def _curves(rates: Sequence[EpochRate], lead: tuple[str, float] | None) -> tuple[Series, ...]:
    keys = sorted({(r.trial, r.weight) for r in rates}, key=lambda key: (key != lead, key))
    curves = []
    for trial, weight in keys:
        own = sorted((r for r in rates if (r.trial, r.weight) == (trial, weight)), key=lambda r: r.epoch)
        curves.append(Series(trial, weight, tuple(own), tuple(smoothed(own))))
    return tuple(curves)
