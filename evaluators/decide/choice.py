"""The epoch to adopt: the smallest expected loss, stated in points of the first-try rate.

    loss(epoch, weight) =  E[best rate - rate]                                what is given away on all seeds
                         + HARD   * E[best hard-seed rate - hard-seed rate]   the same on hard seeds
                         + margin * P(overtraining has begun)                 a fall is no place to be in

On the flat top the first term says next to nothing; there the second pulls towards the right as long as hard seeds
still improve, and the third holds back before the fall: the right edge of the plateau, when the data speak for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.decide.band import Band, band_of
from evaluators.decide.curve import Curve
from evaluators.decide.seeds import Effects
from evaluators.decide.table import Context, Floats

HARD = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """One epoch at one weight, with what speaks for and against it."""

    epoch: int
    weight: float
    rate: float
    low: float
    high: float
    hard_rate: float
    regret: float
    """Expected distance to the best, in points of the rate."""
    hard_regret: float
    past: float
    """Probability that overtraining has begun."""
    loss: float
    best: float
    """Probability of being the best of all."""
    within: float
    """Probability of being within the margin of the best of all."""
    passes: int
    scored: int
    unscored: int


@dataclass(frozen=True, slots=True)
class HardSeed:
    """A seed that fails where others pass."""

    seed: str
    context: Context
    passes: int
    scored: int
    chance: float
    """Probability that it is at least one SD harder than the average seed."""
    passed_at: tuple[int, ...]
    failed_at: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Decision:
    """The chosen candidate and all it was compared with. `losses` is (weights, epochs)."""

    chosen: Candidate
    runner_up: Candidate | None
    losses: Floats
    band: Band
    plateau: tuple[int, int]
    chance_of_regret: float
    """Probability that the chosen epoch is more than the margin below the best."""
    hard_seeds: tuple[HardSeed, ...]
    margin: float


def decide(curve: Curve, margin: float) -> Decision:
    """The candidate of smallest loss; of equals the weight nearest to 1, then the later epoch.

    Only epochs of which a picture was scored are candidates: what nobody has looked at is not adopted.
    """
    table, draws = curve.table, curve.draws
    hard = curve.hard_draws()
    regret = draws.max(axis=(0, 1)).mean() - draws.mean(axis=-1)
    hard_regret = hard.max(axis=(0, 1)).mean() - hard.mean(axis=-1)
    past = np.stack([band_of(of_weight, margin).past for of_weight in draws])
    losses = regret + HARD * hard_regret + margin * past
    best = np.bincount(draws.reshape(-1, draws.shape[-1]).argmax(axis=0), minlength=losses.size) / draws.shape[-1]
    within = (draws >= draws.max(axis=(0, 1)) - margin).mean(axis=-1)
    low, high = curve.interval()
    passes, scored, unscored = (count.sum(axis=1) for count in table.counts())

    def candidate(weight: int, epoch: int) -> Candidate:
        at = weight, epoch
        return Candidate(
            epoch=int(table.epochs[epoch]),
            weight=table.weights[weight],
            rate=float(curve.mean[at]),
            low=float(low[at]),
            high=float(high[at]),
            hard_rate=float(hard[at].mean()),
            regret=float(regret[at]),
            hard_regret=float(hard_regret[at]),
            past=float(past[at]),
            loss=float(losses[at]),
            best=float(best.reshape(losses.shape)[at]),
            within=float(within[at]),
            passes=int(passes[at]),
            scored=int(scored[at]),
            unscored=int(unscored[at]),
        )

    order = _order(losses, scored, table.weights)
    weight, epoch = order[0]
    band = band_of(draws[weight], margin, epoch)
    chosen = candidate(weight, epoch)
    return Decision(
        chosen=chosen,
        runner_up=candidate(*order[1]) if len(order) > 1 else None,
        losses=losses,
        band=band,
        plateau=(int(table.epochs[band.first]), int(table.epochs[band.last])),
        chance_of_regret=float((draws[weight, epoch] < draws.max(axis=(0, 1)) - margin).mean()),
        hard_seeds=hard_seeds(curve),
        margin=margin,
    )


def _order(losses: Floats, scored: Floats, weights: Sequence[float]) -> list[tuple[int, int]]:
    rounded = np.round(losses, 9)
    candidates = [(int(w), int(e)) for w, e in np.argwhere(scored if scored.any() else losses > -1)]
    return sorted(candidates, key=lambda at: (rounded[at], abs(weights[at[0]] - 1), -at[1]))


def hard_seeds(curve: Curve, most: int = 5) -> tuple[HardSeed, ...]:
    """Named seeds that are more likely than not a good deal harder than the average one, the surest first."""
    table = curve.table
    scored = table.rows_where(table.scored)
    point = curve.process.axes.points(scored)
    effects = Effects.of(curve.process, point, scored.seed, scored.passed, len(table.seeds))
    chances = effects.harder_than_most()
    found = []
    for at in np.argsort(-chances, kind="stable")[:most]:
        context, name = table.seeds[at]
        mine = scored.seed == at
        if chances[at] < 0.5 or not name or not mine.any():
            continue
        passed = scored.passed[mine] > 0
        epochs = table.epochs[scored.epoch[mine]]
        found.append(
            HardSeed(
                seed=name,
                context=context,
                passes=int(passed.sum()),
                scored=int(mine.sum()),
                chance=float(chances[at]),
                passed_at=tuple(sorted({int(e) for e in epochs[passed]})),
                failed_at=tuple(sorted({int(e) for e in epochs[~passed]})),
            )
        )
    return tuple(found)
