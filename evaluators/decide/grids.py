"""Policies that draw on a grid laid down beforehand: all of it, or every few epochs first and then the finalists."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evaluators.decide.local import local_mean
from evaluators.decide.process import Axes
from evaluators.decide.situation import Ask, Situation
from evaluators.grid import FINALISTS

NEIGHBOURHOOD = 0.04
"""Width of the local Beta that settles between epochs with equal counts."""


def full(situation: Situation, at_most: int) -> tuple[Ask, ...]:
    """Every saved epoch, weight, context and seed of the space, newest epoch first."""
    return _missing(situation, _product(situation, reversed(situation.saved)), at_most)


def coarse_to_fine(situation: Situation, at_most: int, *, stride: int = 4, again: int = 10) -> tuple[Ask, ...]:
    """Every `stride`-th planned epoch (and the last) on the space's seeds; then the best three on `again` others.

    The finalists are named once training is over and nothing of the first round is still expected, and they are drawn
    on the same seeds, which took no part in naming them.
    """
    space = situation.space
    coarse = tuple(e for i, e in enumerate(space.planned, 1) if i % stride == 0 or e == space.planned[-1])
    first = tuple(_product(situation, (e for e in reversed(coarse) if e in situation.saved)))
    missing = _missing(situation, iter(first), at_most)
    if missing or not situation.trained or situation.pending & set(first):
        return missing
    return _missing(situation, _second_round(situation, coarse, again), at_most)


def _product(situation: Situation, epochs: Iterator[int]) -> Iterator[Ask]:
    space = situation.space
    return (
        Ask(epoch, weight, context, seed)
        for epoch in epochs
        for weight in space.weights
        for context in space.contexts
        for seed in space.seeds
    )


def _missing(situation: Situation, wanted: Iterator[Ask], at_most: int) -> tuple[Ask, ...]:
    room = min(at_most, situation.left)
    missing: list[Ask] = []
    for ask in wanted:
        if len(missing) >= room:
            break
        if ask not in situation.asked:
            missing.append(ask)
    return tuple(missing)


def _second_round(situation: Situation, coarse: tuple[int, ...], again: int) -> Iterator[Ask]:
    space, first_seeds = situation.space, {str(seed) for seed in situation.space.seeds}
    table = situation.table()
    known = np.array([name in first_seeds for _, name in table.seeds], dtype=np.bool_)
    table = table.rows_where(table.scored & known[table.seed] if table.images else table.scored)
    passes, scored, _ = (count.sum(axis=1) for count in table.counts())
    axes = Axes.of(table)
    near = local_mean(axes, axes.points(table), table.passed, NEIGHBOURHOOD)
    near = near.reshape(axes.shape).mean(axis=1)[:, axes.knot]
    candidates = [
        (-passes[w, e] / scored[w, e], -near[w, e], -int(table.epochs[e]), weight)
        for w, weight in enumerate(table.weights)
        for e in range(table.epochs.size)
        if scored[w, e] and table.epochs[e] in coarse
    ]
    seeds = [seed for seed, _ in zip(space.unused_seeds(space.seeds), range(again), strict=False)]
    for _, _, epoch, weight in sorted(candidates)[:FINALISTS]:
        yield from (Ask(-epoch, weight, context, seed) for context in space.contexts for seed in seeds)
