"""What the page says, as numbers: taken from the study's state and target, before anything is drawn.

The page shows what the choice is made from: the cells the study wants as it is configured now, and its own judge's
verdicts on them. What earlier configurations left behind is in the ledger, not on the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluators.grid import confirm_cells
from evaluators.rates import epoch_rates, select
from orchestrator.core.study import (
    Cell,
    Checkpoint,
    Choice,
    EpochRate,
    FindingKind,
    StopAdvice,
    Verdict,
)
from orchestrator.deciding.choosing import recorded_cells
from orchestrator.deciding.policy import cells_beside, verdicts_of, wanted_cells
from orchestrator.deciding.stopping import as_stopped
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Event
from orchestrator.record.state import StudyState
from orchestrator.report.outlook import Cost, Outlook, Sureness, outlook
from orchestrator.report.shot import Shot

if TYPE_CHECKING:
    from orchestrator.planning.config import StudyConfig


@dataclass(frozen=True, slots=True)
class Series:
    """The counted rates of one trial at one weight, of epochs with a scored picture, by epoch."""

    trial: str
    weight: float
    rates: tuple[EpochRate, ...]


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
    beside: tuple[Shot, ...]
    """Controls and probes, which take part in no rate, by prompt in the order of the YAML."""
    checkpoints: tuple[Checkpoint, ...]
    epochs_asked: int
    """Epochs all trials together are to save."""
    failed_trials: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    """Seeds pictures were drawn on to choose by."""
    quarantined: int
    outlook: Outlook
    cost: Cost
    stops: tuple[tuple[StopAdvice, bool], ...]
    """What was said about ending training early, and whether it was done."""
    disputed: tuple[tuple[Shot, Verdict], ...]
    """Pictures of which another judge says otherwise, and what that one says."""

    @property
    def lead(self) -> Series | None:
        return self.series[0] if self.series else None

    def name_of(self, series: Series) -> str:
        """What tells a series from the others: its weight, and its trial where there are several."""
        trials = {s.trial for s in self.series}
        short = {trial.rpartition("-")[0] for trial in trials}
        trial = series.trial.rpartition("-")[0] if len(short) == len(trials) else series.trial
        return f"{trial}, weight {series.weight:g}" if len(trials) > 1 else f"weight {series.weight:g}"

    @property
    def lead_shots(self) -> list[Shot]:
        """Pictures of the adopted trial and weight, or of the best so far, that take part in choosing."""
        lead = self.lead
        return [s for s in self.shots if lead and (s.cell.trial, s.cell.weight) == (lead.trial, lead.weight)]

    @property
    def sureness(self) -> Sureness | None:
        """How the adopted epoch stands against everything else."""
        choice = self.choice
        return self.outlook.sureness(choice.trial, choice.epoch, choice.weight) if choice else None


def gather(state: StudyState, config: StudyConfig, target: Target, runs: Sequence[float] = ()) -> Evidence:
    """The evidence for a page about `state`; `runs` are the wall seconds of each run."""
    target = as_stopped(target, state)
    trials = [t.trial for t in target.trials]
    choice = state.choice if state.choice and state.choice.trial in trials else None
    wanted = wanted_cells(target, state)
    rates = [r for r in epoch_rates(wanted.values(), verdicts_of(target, state, wanted)) if r.scored]
    plateau, lead = None, None
    if choice is not None:
        plateau, lead = choice.plateau, (choice.trial, choice.weight)
    elif rates:
        best = select(rates, target.decide.margin)
        plateau, lead = best.plateau, (best.chosen.trial, best.chosen.weight)
    shots = _shots(wanted.values(), target, state)
    confirming = _confirming(choice, target, state)
    checkpoints = tuple(state.checkpoints[key] for key in sorted(state.checkpoints) if key[0] in trials)
    saved = {t.trial: [e for e in t.drawn if (t.trial, e) in state.checkpoints] for t in target.trials}
    weights = {prompt.name: prompt.weight for prompt in target.grid.rate_prompts}
    bare = {} if target.decide.policy == "full" else recorded_cells(target, state)
    controls = _shots((cell for cell in bare.values() if cell.weight == 0), target, state)
    drawn = [*shots, *confirming]
    order = [prompt.name for prompt in target.grid.prompts]
    beside = _shots(cells_beside(target, state).values(), target, state)
    return Evidence(
        study=state.study or config.study,
        choice=choice,
        plateau=plateau,
        series=_curves(rates, lead),
        shots=shots,
        confirming=confirming,
        beside=tuple(sorted(beside, key=lambda s: order.index(s.cell.prompt.name))),
        checkpoints=checkpoints,
        epochs_asked=sum(len(t.saved) for t in target.trials),
        failed_trials=tuple((t, state.trials[t].error) for t in trials if t in state.trials and state.trials[t].error),
        seeds=tuple(sorted({s.cell.seed for s in shots} | set(config.grid.seeds))),
        quarantined=len(state.quarantined),
        outlook=outlook((*shots, *confirming, *controls), saved, target.decide.margin, weights),
        cost=Cost(
            training_s=sum(c.seconds for c in checkpoints),
            drawing_s=sum(s.sample.seconds for s in (*drawn, *beside)),
            wall_s=sum(runs),
            pictures=len(drawn) + len(beside),
            dollars_per_hour=target.dollars_per_hour,
        ),
        stops=_stops(trials, state),
        disputed=_disputed(drawn, target, state),
    )


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


def _shots(cells: Iterable[Cell], target: Target, state: StudyState) -> tuple[Shot, ...]:
    """What is drawn of these cells, by trial, weight, prompt, epoch and seed."""
    drawn = {cell.key: cell for cell in cells if cell.key in state.samples}
    verdicts = verdicts_of(target, state, drawn)
    shots = [Shot(cell, state.samples[key], verdicts.get(key)) for key, cell in drawn.items()]
    return tuple(
        sorted(shots, key=lambda s: (s.cell.trial, s.cell.weight, s.cell.prompt.name, s.cell.epoch, s.cell.seed))
    )


def _confirming(choice: Choice | None, target: Target, state: StudyState) -> tuple[Shot, ...]:
    checkpoint = state.checkpoints.get((choice.trial, choice.epoch)) if choice else None
    if choice is None or checkpoint is None:
        return ()
    fresh = confirm_cells(checkpoint, choice.weight, target.grid, target.decide, target.base_sha256)
    return _shots(fresh.values(), target, state)


def _stops(trials: Sequence[str], state: StudyState) -> tuple[tuple[StopAdvice, bool], ...]:
    known = [state.trials[t] for t in trials if t in state.trials]
    return tuple((t.advice, t.stopped) for t in known if t.advice is not None)


def _disputed(shots: Sequence[Shot], target: Target, state: StudyState) -> tuple[tuple[Shot, Verdict], ...]:
    """Of several other judges that say otherwise, the one with the latest version of the first name."""
    by_key = {shot.cell.key: shot for shot in shots if shot.outcome in ("pass", "fail")}
    found: dict[str, Verdict] = {}
    for (key, *judge), verdict in sorted(state.verdicts.items(), key=lambda item: item[0]):
        if key in by_key and tuple(judge) != target.judge and verdict.outcome in ("pass", "fail"):
            found[key] = verdict
    return tuple((by_key[key], said) for key, said in found.items() if said.outcome != by_key[key].outcome)


def _curves(rates: Sequence[EpochRate], lead: tuple[str, float] | None) -> tuple[Series, ...]:
    keys = sorted({(r.trial, r.weight) for r in rates}, key=lambda key: (key != lead, key))
    curves = []
    for trial, weight in keys:
        own = sorted((r for r in rates if (r.trial, r.weight) == (trial, weight)), key=lambda r: r.epoch)
        curves.append(Series(trial, weight, tuple(own)))
    return tuple(curves)
