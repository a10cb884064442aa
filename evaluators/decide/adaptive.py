"""The adaptive policy: draw where it teaches most about which epoch is best.

Smoothed top-two Thompson sampling (Russo 2020) on the posterior of the whole curve: one draw of it names a leader,
another a challenger. Some pictures go to fresh seeds of one of the two, which say how good it is; the others to a seed
both share, which says who is better, and to the seed where that teaches most: one near the edge between pass and fail.
Before that every stretch of epochs is looked at, and all along a share of pictures goes to the control.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from zlib import crc32

import numpy as np

from evaluators.decide.curve import context_shares
from evaluators.decide.process import Axes, Evidence, Process, fit_process
from evaluators.decide.seeds import Effects
from evaluators.decide.situation import Ask, Situation
from evaluators.decide.table import Floats, Ints, Table

FIRST_LOOKS, LOOKS = 15, 2
"""Pictures of every weight, at this many places along the epochs, before anything is compared."""
FRESH = 0.35
"""Share of pictures on fresh seeds."""
PACE = 0.5
"""Share of the budget that may be spent before training ends, in proportion to what is saved."""
CONTROL_EVERY = 16
"""One in so many pictures is of the control."""
DRAWS = 300


@dataclass(frozen=True, eq=False)
class Proposal:
    """What to draw next, and the fit it rests on (None while every stretch is only being looked at)."""

    asks: tuple[Ask, ...]
    process: Process | None = None


def adaptive(situation: Situation, at_most: int, *, control: bool = True, pace: float = PACE) -> Proposal:
    """Up to `at_most` pictures. The same situation always gives the same answer.

    Until training ends, no more than the share `pace` of the budget is spent, in proportion to what is saved: pictures
    that are drawn when all epochs are there go to those that count.
    """
    room = min(at_most, _affordable(situation, pace))
    if room <= 0 or not situation.saved:
        return Proposal(())
    asks = _controls(situation, room)[:room] if control else []
    asks += islice(_first_looks(situation), room - len(asks))
    if len(asks) >= room:
        return Proposal(tuple(asks))
    contest = _Contest.of(situation)
    rng = np.random.default_rng(_fingerprint(situation))
    taken = set(situation.asked) | set(asks)
    stale = 0
    while len(asks) < room and stale < 50:
        fresh = [ask for ask in contest.next_pair(rng, taken) if ask not in taken]
        stale = 0 if fresh else stale + 1
        taken.update(fresh)
        asks += fresh
    return Proposal(tuple(asks[:room]), contest.process)


def _affordable(situation: Situation, pace: float) -> int:
    if situation.trained or situation.budget is None:
        return situation.left
    saved = len(set(situation.saved) & set(situation.space.planned)) / len(situation.space.planned)
    return int(situation.budget * pace * saved) - len(situation.asked)


def _fingerprint(situation: Situation) -> int:
    facts = (sorted(situation.asked), sum(row.outcome == "pass" for row in situation.rows), len(situation.rows))
    return crc32(repr(facts).encode())


def _first_looks(situation: Situation) -> Iterator[Ask]:
    """Two pictures on fresh seeds (one, when there are several weights) at each place along the epochs that is saved.

    Contexts take turns. A place is the planned epoch in the middle of its stretch.
    """
    space = situation.space
    places = np.unique(np.linspace(0, len(space.planned), FIRST_LOOKS * 2 + 1)[1::2].astype(int))
    seen = Counter((ask.epoch, ask.weight) for ask in situation.asked)
    seeds = space.unused_seeds(ask.seed for ask in situation.asked)
    turn = sum(ask.weight != 0 for ask in situation.asked)
    looks = LOOKS if len(space.weights) == 1 else 1
    saved = set(situation.saved)
    for epoch in (space.planned[place] for place in places):
        for weight in space.weights:
            for _ in range(looks - seen[epoch, weight] if epoch in saved else 0):
                yield Ask(epoch, weight, space.contexts[turn % len(space.contexts)], next(seeds))
                turn += 1


def _controls(situation: Situation, coming: int) -> list[Ask]:
    """As many controls as are due among the pictures so far and those coming.

    They are drawn on seeds the adapter was drawn with, so that the two can be compared seed by seed.
    """
    there = sum(ask.weight == 0 for ask in situation.asked)
    due = (len(situation.asked) + coming) // CONTROL_EVERY - there
    used = {(ask.context, ask.seed) for ask in situation.asked if ask.weight == 0}
    shared = Counter((ask.context, ask.seed) for ask in situation.asked if ask.weight != 0)
    open_seeds = sorted((s for s in shared if s not in used), key=lambda s: (-shared[s], s))
    return [Ask(situation.saved[0], 0.0, context, seed) for context, seed in open_seeds[: max(0, due)]]


@dataclass(frozen=True, eq=False)
class _Contest:
    """Who may be best, by posterior draws, and which seeds could settle it."""

    situation: Situation
    table: Table
    process: Process
    effects: Effects
    best: Ints
    """(draws,): number of the best arm (weight, epoch) among those that can be drawn."""
    shares: Floats

    @classmethod
    def of(cls, situation: Situation) -> _Contest:
        table = situation.table()
        axes = Axes.of(table)
        scored = table.rows_where(table.scored)
        point = axes.points(scored)
        evidence = Evidence.of(point, scored.seed, scored.passed)
        process = fit_process(axes, evidence, previous=situation.previous, likely=_recent(situation))
        shares = context_shares(table, dict(situation.space.prompt_weights))
        rng = np.random.default_rng(_fingerprint(situation) + 1)
        draws = np.einsum("wckd,c->wkd", process.draws(DRAWS, rng)[0], shares)[:, axes.knot]
        draws[:, ~np.isin(table.epochs, situation.saved)] = -1.0
        effects = Effects.of(process, point, scored.seed, scored.passed, len(table.seeds))
        best = draws.reshape(-1, DRAWS).argmax(axis=0)
        return cls(situation, table, process, effects, best, shares)

    def next_pair(self, rng: np.random.Generator, taken: set[Ask]) -> list[Ask]:
        """A fresh picture of leader or challenger, or both on the seed that teaches most about them."""
        leader = int(rng.choice(self.best))
        others = self.best[self.best != leader]
        challenger = int(rng.choice(others)) if others.size else leader
        context = int(rng.choice(self.shares.size, p=self.shares))
        if rng.random() < FRESH or leader == challenger:
            return [self._ask(leader if rng.random() < 0.5 else challenger, context, self._new_seed(taken))]
        pair = (leader, challenger)
        seed = self._telling_seed(pair, context, taken)
        return [self._ask(arm, context, seed) for arm in pair]

    def _telling_seed(self, pair: tuple[int, int], context: int, taken: set[Ask]) -> int:
        known, fresh = self.effects.teaching(np.array([self._point(arm, context) for arm in pair]))
        there = self.table.contexts[context]
        best, seed = float(fresh.sum()), -1
        for at in np.argsort(-known.sum(axis=0)):
            of, name = self.table.seeds[at]
            if of != there or not name.isdigit():
                continue
            gain = sum(
                k for k, arm in zip(known[:, at], pair, strict=True) if self._ask(arm, context, int(name)) not in taken
            )
            if gain > best:
                best, seed = gain, int(name)
            if known[:, at].sum() <= best:
                break
        return seed if seed >= 0 else self._new_seed(taken)

    def _new_seed(self, taken: set[Ask]) -> int:
        return next(self.situation.space.unused_seeds(ask.seed for ask in taken))

    def _point(self, arm: int, context: int) -> int:
        weight, epoch = divmod(arm, self.table.epochs.size)
        axes = self.process.axes
        return int(np.ravel_multi_index((weight, context, axes.knot[epoch]), axes.shape))

    def _ask(self, arm: int, context: int, seed: int) -> Ask:
        weight, epoch = divmod(arm, self.table.epochs.size)
        return Ask(int(self.table.epochs[epoch]), self.table.weights[weight], self.table.contexts[context], seed)


def _recent(situation: Situation) -> Process | None:
    """The answers that counted in the previous fit; all of them are asked again every few rounds."""
    previous = situation.previous
    shared = previous is not None and previous.evidence.seeds.size > 0
    return previous if shared and len(situation.rows) % 32 >= 8 else None
