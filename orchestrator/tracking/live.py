"""The curve as it stands, for policies that draw part of the grid: an epoch is judged to no fixed end while they go on.

History rows by epoch would not do: a chart over `epoch` averages all rows of one epoch. So the whole curve is one table
and one chart, told anew as evidence grows; W&B shows the latest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from orchestrator.core.study import EpochRate
from orchestrator.deciding.policy import rates
from orchestrator.planning.wanted import Target
from orchestrator.record.state import StudyState

FEWEST, GROWTH = 4, 0.1
"""It is told again after this many verdicts, and where there are many, when they have grown by this share: some 40
tellings for 1,000 pictures."""
TABLE, CHART = "live_rates", "live_curve"
COLUMNS = ("weight", "epoch", "n", "passes", "rate", "low", "high", "unscored")


class LiveCurve:
    """Counts verdicts, and says when and what to tell of a trial."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._judged: Counter[str] = Counter()
        self._told: Counter[str] = Counter()

    def one_more(self, trial: str) -> bool:
        """Take one verdict in; whether the curve is worth telling now."""
        self._judged[trial] += 1
        if self._judged[trial] - self._told[trial] < max(FEWEST, GROWTH * self._told[trial]):
            return False
        self._told[trial] = self._judged[trial]
        return True

    def curves(self, state: StudyState) -> dict[str, tuple[EpochRate, ...]]:
        """The rate of every epoch and weight with a scored picture, by trial; counting goes on from here."""
        scored = [rate for rate in rates(self.target, state) if rate.scored]
        found = {t.trial: tuple(r for r in scored if r.trial == t.trial) for t in self.target.trials}
        for trial, curve in found.items():
            self._judged[trial] = self._told[trial] = sum(rate.scored + rate.unscored for rate in curve)
        return {trial: curve for trial, curve in found.items() if curve}


def leader(curve: Iterable[EpochRate]) -> EpochRate:
    """The epoch whose interval begins highest, of equals the later one: one lucky picture does not lead."""
    return max(curve, key=lambda rate: (rate.low, rate.epoch))


def live_values(curve: Iterable[EpochRate]) -> dict[str, Any]:
    """The curve as W&B's table and chart: `n` scored pictures, rate, and the ends of its 95 % interval."""
    import wandb

    ordered = sorted(curve, key=lambda rate: (rate.weight, rate.epoch))
    weights = {rate.weight for rate in ordered}
    told = [(r.weight, r.epoch, r.scored, r.passes, r.rate, r.low, r.high, r.unscored) for r in ordered]
    lines = [
        [r.epoch, name if len(weights) == 1 else f"{name}, weight {r.weight:g}", getattr(r, name)]
        for r in ordered
        for name in ("rate", "low", "high")
    ]
    series = wandb.Table(columns=["epoch", "line", "share"], data=lines)
    chart = wandb.plot_table(
        "wandb/lineseries/v0",
        series,
        {"step": "epoch", "lineKey": "line", "lineVal": "share"},
        {"title": "First-try rate so far, with 95 % interval", "xname": "epoch"},
    )
    return {TABLE: wandb.Table(columns=[*COLUMNS], data=[list(row) for row in told]), CHART: chart}
