"""When the best epoch of a trial is behind: its training ends, or somebody is told; and what that saves.

Pure, like the rest of the policy. The controller asks whenever an epoch was saved, records what it is told, and acts.
A stop that is recorded holds for every later run with `decide.stop: on`: the trial then wants the epochs that had been
saved when it was given, and no more.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING

from orchestrator.core.study import StopAdvice
from orchestrator.deciding.choosing import recorded_cells
from orchestrator.record.state import StudyState

if TYPE_CHECKING:
    from orchestrator.planning.wanted import Target, TrialTarget


def as_stopped(target: Target, state: StudyState) -> Target:
    """What the study wants in the end: of trials that were stopped, only what was saved until then.

    An epoch that came after the stop is there, so it counts.
    """
    if target.decide.stop != "on":
        return target
    return replace(target, trials=tuple(_shortened(trial, state) for trial in target.trials))


def stopped(target: Target, state: StudyState, trial: str) -> bool:
    """Whether training of this trial was ended early and all that was saved until then is there."""
    wanted = next(t for t in as_stopped(target, state).trials if t.trial == trial)
    known = state.trials.get(trial)
    ended = target.decide.stop == "on" and known is not None and known.stopped
    return ended and all((trial, e) in state.checkpoints for e in wanted.saved)


def _shortened(trial: TrialTarget, state: StudyState) -> TrialTarget:
    known = state.trials.get(trial.trial)
    if known is None or not known.stopped or known.advice is None:
        return trial
    last = known.advice.epoch
    there = tuple(e for e in trial.saved if e <= last or (trial.trial, e) in state.checkpoints)
    drawn = tuple(e for e in trial.drawn if e in there)
    return replace(trial, epochs=max(there, default=0), saved=there, drawn=drawn)


def advise(target: Target, state: StudyState, trial: str) -> StopAdvice | None:
    """That the best epoch of this trial is behind; None while it may not be, and once it was said.

    Whatever is left is taken to last as long as the epochs so far did on average.
    """
    mode, known = target.decide.stop, state.trials.get(trial)
    if mode == "off" or (known is not None and (known.stopped or (known.advice and mode == "advise"))):
        return None
    wanted = next(t for t in target.trials if t.trial == trial)
    saved = [state.checkpoints[trial, e] for e in wanted.saved if (trial, e) in state.checkpoints]
    if not saved or len(saved) == len(wanted.saved):
        return None
    newest = saved[-1]
    found = _behind(target, state, wanted, newest.exposures_per_image)
    if found is None:
        return None
    best_epoch, chance, reason = found
    left = wanted.epochs - newest.epoch
    hours = left * mean(c.seconds for c in saved) / 3600
    price = target.dollars_per_hour
    dollars = None if price is None else round(hours * price, 2)
    return StopAdvice(trial, newest.epoch, best_epoch, round(chance, 4), left, round(hours, 4), dollars, reason)


def _behind(target: Target, state: StudyState, trial: TrialTarget, exposures: float) -> tuple[int, float, str] | None:
    """(best epoch, probability, reason) when the verdicts say that the best is behind."""
    from evaluators.decide.curve import estimate
    from evaluators.decide.stopping import training_advice
    from evaluators.decide.table import make_table, rows_of

    decide = target.decide
    if target.judge is None or exposures < decide.stop_exposures:
        return None
    cells = {key: c for key, c in recorded_cells(target, state).items() if c.trial == trial.trial and c.weight}
    said = {key: state.verdicts.get((key, *target.judge)) for key in cells}
    table = make_table(rows_of(cells.values(), {key: verdict for key, verdict in said.items() if verdict}))
    if not table.scored.any():
        return None
    found = training_advice(
        estimate(table, context_weights={p.name: p.weight for p in target.grid.prompts}),
        planned_epochs=trial.epochs,
        exposures=exposures,
        mode="on",
        threshold=decide.stop_threshold,
        min_exposures=decide.stop_exposures,
        margin=decide.margin,
    )
    if found.action == "train" or found.best_epoch is None:
        return None
    return found.best_epoch, found.chance, found.reason
