"""What the statistics say about a study: the smoothed curves, how sure the choice is, and what more would buy.

The choice itself is the study's own (`choice`); here it is only held against the posterior of the whole curve.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from evaluators.decide.analysis import TrialAnalysis, analyse_trial
from evaluators.decide.band import band_of
from evaluators.decide.table import Floats, make_table, row_of
from orchestrator.core.study import Choice

if TYPE_CHECKING:
    from orchestrator.report.shot import Shot


@dataclass(frozen=True, eq=False)
class CurveBand:
    """The smoothed rate of one trial at one weight, by epoch; all sequences are as long as `epochs`."""

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    within: tuple[float, ...]
    """Probability of a rate within the margin of the best of this weight."""
    past: tuple[float, ...]
    """Probability that overtraining has begun."""
    looked_at: tuple[bool, ...]
    """Whether a picture of the epoch was scored."""


@dataclass(frozen=True, slots=True)
class Sureness:
    """An epoch held against everything else that was drawn, over all trials and weights."""

    chance: float
    """Probability that nothing drawn is better by more than the margin."""
    regret: float
    """By how much the best is expected to be better, as a share."""
    rate: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Outlook:
    """The analysis of every trial that has a scored picture."""

    trials: Mapping[str, TrialAnalysis]
    margin: float

    @cached_property
    def _tops(self) -> dict[str, Floats]:
        """By trial: the best rate of each posterior draw, equally many of each trial."""
        tops = {name: t.curve.draws.max(axis=(0, 1)) for name, t in self.trials.items() if t.curve is not None}
        count = min((top.size for top in tops.values()), default=0)
        return {name: top[:count] for name, top in tops.items()}

    def band(self, trial: str, weight: float) -> CurveBand | None:
        """The curve of a trial at a weight; None where nothing was scored."""
        found = self.trials.get(trial)
        if found is None or found.curve is None or weight not in found.table.weights:
            return None
        at = found.table.weights.index(weight)
        low, high = found.curve.interval()
        around = band_of(found.curve.draws[at], self.margin)
        scored = found.table.counts()[1][at].sum(axis=0)
        return CurveBand(
            epochs=tuple(int(e) for e in found.table.epochs),
            mean=tuple(found.curve.mean[at].tolist()),
            low=tuple(low[at].tolist()),
            high=tuple(high[at].tolist()),
            within=tuple(around.within.tolist()),
            past=tuple(around.past.tolist()),
            looked_at=tuple((scored > 0).tolist()),
        )

    def sureness(self, trial: str, epoch: int, weight: float) -> Sureness | None:
        """How an epoch stands against the best; trials are independent of one another."""
        found = self.trials.get(trial)
        if found is None or found.curve is None or weight not in found.table.weights:
            return None
        where = np.flatnonzero(found.table.epochs == epoch)
        if not where.size:
            return None
        at = found.table.weights.index(weight), int(where[0])
        own, best = found.curve.draws[at], np.maximum.reduce(list(self._tops.values()))
        mine = own[: best.size]
        low, high = found.curve.interval()
        return Sureness(
            chance=float((mine >= best - self.margin).mean()),
            regret=float((best - mine).mean()),
            rate=float(own.mean()),
            low=float(low[at]),
            high=float(high[at]),
        )

    def onset(self, trial: str) -> tuple[int, int, int] | None:
        """Where overtraining begins at the decided weight: 10 %, 50 %, 90 %; None when more likely not at all."""
        found = self.trials.get(trial)
        if found is None or found.decision is None:
            return None
        begun = np.cumsum(found.decision.band.onset[:-1])
        if not begun.size or begun[-1] < 0.5:
            return None
        epochs = found.table.epochs
        at = [int(epochs[min(int(np.searchsorted(begun, q)), epochs.size - 1)]) for q in (0.1, 0.5, 0.9)]
        return at[0], at[1], at[2]


def outlook(
    shots: Iterable[Shot], saved: Mapping[str, Sequence[int]], margin: float, weights: Mapping[str, float]
) -> Outlook:
    """From all judged pictures that speak about a rate, those on fresh seeds and controls without adapter among them.

    `saved` names each trial's epochs, drawn or not; `weights` is by prompt.
    """
    by_trial: dict[str, list[Shot]] = {}
    for shot in shots:
        by_trial.setdefault(shot.cell.trial, []).append(shot)
    found = {}
    for trial, mine in by_trial.items():
        rows = [row_of(s.cell, s.verdict) for s in mine if s.verdict is not None]
        table = make_table(rows, epochs=saved.get(trial, ()))
        if table.scored.any():
            found[trial] = analyse_trial(table, margin=margin, context_weights=weights)
    return Outlook(found, margin)


@dataclass(frozen=True, slots=True)
class Cost:
    """What the study took so far. Dollars are None when nobody said what an hour costs."""

    training_s: float
    drawing_s: float
    wall_s: float
    pictures: int
    dollars_per_hour: float | None

    @property
    def dollars(self) -> float | None:
        """For the time the machine was held, which is the wall time of the runs."""
        return None if self.dollars_per_hour is None else self.wall_s / 3600 * self.dollars_per_hour

    @property
    def picture_s(self) -> float:
        """Mean time to draw a picture."""
        return self.drawing_s / self.pictures if self.pictures else 0.0


@dataclass(frozen=True, slots=True)
class Purchase:
    """What some more drawing would buy. Uncertainty shrinks with the square root of the pictures it rests on."""

    pictures: int
    seconds: float
    half_now: float
    """Half the width of the fresh rate's interval, now and after drawing as many fresh pictures more."""
    half_then: float
    regret_now: float
    regret_then: float


def another(cost: Cost, choice: Choice | None, sure: Sureness | None, judged: int) -> Purchase | None:
    """One more dollar's worth of pictures; where no price is known, a hundred pictures."""
    if not cost.picture_s or choice is None or not choice.n or sure is None:
        return None
    seconds = 3600 / cost.dollars_per_hour if cost.dollars_per_hour else 100 * cost.picture_s
    more = max(1, round(seconds / cost.picture_s))
    low, high = choice.interval
    half = (high - low) / 2
    return Purchase(
        pictures=more,
        seconds=seconds,
        half_now=half,
        half_then=half * sqrt(choice.n / (choice.n + more)),
        regret_now=sure.regret,
        regret_then=sure.regret * sqrt(judged / (judged + more)),
    )
