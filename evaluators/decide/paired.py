"""Two adapters, epochs, weights or studies on the same seeds: which passes more, how sure, and what would settle it.

Only seeds on which the two differ say who is better. Four answers to one question: the exact McNemar test (valid for a
number of seeds fixed beforehand), the posterior of the difference, an e-process that stays valid however often one
looks and whenever one stops, and how many more seeds it would take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb, exp, inf, log

import numpy as np
from scipy.special import betainc, betaln

from evaluators.decide.table import Context, Floats, Table

ALPHA = 0.05
LONGEST = 1000
"""Seeds beyond which nobody would go."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """How many seeds passed with both, with the first alone, with the second alone, and with neither."""

    both: int
    first: int
    second: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.first + self.second + self.neither


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the pairs say about `first` against `second`; differences are rate of the first minus rate of the second."""

    pairs: Pairs
    first_rate: float
    second_rate: float
    p_value: float
    """Exact McNemar, two-sided."""
    difference: float
    low: float
    high: float
    first_better: float
    """Posterior probability."""
    equal_enough: float
    """Posterior probability that they differ by less than the margin."""
    e_value: float
    """Evidence against equality; at 1 / ALPHA it may be called settled, whenever one looked."""
    settled: bool
    more_seeds: int | None
    """Further seeds after which it is settled as likely as not; None: not within LONGEST."""


def pairs_of(first: Mapping[tuple[Context, str], bool], second: Mapping[tuple[Context, str], bool]) -> Pairs:
    """Seeds both were drawn and scored on; the values say whether they passed."""
    said = [(first[seed], second[seed]) for seed in first if seed in second]
    return Pairs(*(said.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))


def outcomes(table: Table, epoch: int, weight: float | None = None) -> dict[tuple[Context, str], bool]:
    """Whether each named seed passed at one epoch (and weight, when there are several), scored pictures only."""
    known = np.array([bool(name) for _, name in table.seeds], dtype=np.bool_)
    mine = table.scored & (table.epochs[table.epoch] == epoch) & known[table.seed]
    if weight is not None:
        mine &= np.isclose(np.array(table.weights)[table.weight], weight)
    return {table.seeds[table.seed[at]]: bool(table.passed[at]) for at in np.flatnonzero(mine)}


def control_outcomes(table: Table) -> dict[tuple[Context, str], bool]:
    """The same for the base without the adapter."""
    return {
        (row.context, row.seed): row.outcome == "pass"
        for row in table.control
        if row.seed and row.outcome != "unscored"
    }


def compare(pairs: Pairs, *, margin: float = 0.05, draws: int = 20_000, seed: int = 0) -> Comparison:
    """All four answers. The posterior of the four shares is Dirichlet with 1/2 added to each count (Jeffreys)."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.array([pairs.both, pairs.first, pairs.second, pairs.neither]) + 0.5, draws)
    differences = shares[:, 1] - shares[:, 2]
    low, high = np.quantile(differences, [0.025, 0.975])
    e_value = exp(min(log_e(pairs.first, pairs.second), 700.0))
    n = pairs.n
    return Comparison(
        pairs=pairs,
        first_rate=(pairs.both + pairs.first) / n if n else float("nan"),
        second_rate=(pairs.both + pairs.second) / n if n else float("nan"),
        p_value=mcnemar(pairs.first, pairs.second),
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        first_better=float(1 - betainc(pairs.first + 0.5, pairs.second + 0.5, 0.5)),
        equal_enough=float((np.abs(differences) < margin).mean()),
        e_value=e_value,
        settled=e_value >= 1 / ALPHA,
        more_seeds=0 if e_value >= 1 / ALPHA else seeds_to_settle(pairs, shares[:300], rng),
    )


def mcnemar(first: int, second: int) -> float:
    """Two-sided exact p-value of `first` against `second` discordant seeds under a fair coin (McNemar 1947)."""
    n = first + second
    tail = sum(comb(n, k) for k in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**n)


def log_e(first: int, second: int) -> float:
    """Log of the e-process against equality: B(1/2 + first, 1/2 + second) / B(1/2, 1/2) * 2^n.

    A bet on the direction of every discordant seed, spread over all biases by Jeffreys' Beta(1/2, 1/2). Under equality
    its expectation never exceeds 1, so it reaches 1/alpha at any time at all with probability at most alpha (Ville).
    """
    return float(betaln(0.5 + first, 0.5 + second) - betaln(0.5, 0.5)) + (first + second) * log(2)


def seeds_to_settle(pairs: Pairs, shares: Floats, rng: np.random.Generator) -> int | None:
    """Further seeds until the e-process settles it in half of the futures drawn from the posterior; None when that
    takes too long, or nothing is known yet."""
    if not pairs.n:
        return None
    chance = shares[:, 1:3]
    steps = rng.random((shares.shape[0], LONGEST))
    first = pairs.first + np.cumsum(steps < chance[:, :1], axis=1)
    second = pairs.second + np.cumsum((steps >= chance[:, :1]) & (steps < chance.sum(axis=1, keepdims=True)), axis=1)
    evidence = betaln(0.5 + first, 0.5 + second) - betaln(0.5, 0.5) + (first + second) * log(2)
    reached = evidence >= log(1 / ALPHA)
    needed = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, inf)
    median = float(np.median(needed))
    return None if median == inf else int(np.ceil(median))
