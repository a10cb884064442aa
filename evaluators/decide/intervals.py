"""The posterior of a rate from pictures, some of which may share a seed, read by a judge who may err.

`rates.wilson` is what a page shows beside `k of n`; here is what decisions are made from. With every seed its own the
posterior is Jeffreys' Beta(k + 1/2, n - k + 1/2). Where seeds are shared, passes come in clusters: each seed then has
its own pass probability, drawn from a Beta around the rate, and how alike the pictures of one seed are is averaged out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, betaincinv, betaln

from evaluators.decide.table import Floats, Ints, tally

GRID = 400
"""Points of the rate at which a clustered posterior is worked out."""
LIKENESS = (0.02, 0.06, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""How alike two pictures of one seed are (correlation of their outcomes), equally likely before anything is seen."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """A rate: its mean, its standard deviation, and an interval that holds it with the confidence asked for."""

    mean: float
    sd: float
    low: float
    high: float


def jeffreys(passes: float, n: float, confidence: float = 0.95) -> Posterior:
    """Jeffreys' posterior of `passes` in `n` independent pictures (Brown, Cai, DasGupta 2001).

    As there, the interval reaches 0 when nothing passed and 1 when everything did.
    """
    if not 0 <= passes <= n:
        raise ValueError(f"{passes} passes of {n}")
    a, b, tail = passes + 0.5, n - passes + 0.5, (1 - confidence) / 2
    mean = a / (a + b)
    low = 0.0 if passes == 0 else float(betaincinv(a, b, tail))
    high = 1.0 if passes == n else float(betaincinv(a, b, 1 - tail))
    return Posterior(mean, float(np.sqrt(mean * (1 - mean) / (a + b + 1))), low, high)


def chance_above(rate: float, passes: float, n: float) -> float:
    """How likely the rate is above `rate`, by Jeffreys' posterior."""
    return float(1 - betainc(passes + 0.5, n - passes + 0.5, rate))


def clustered(passed: Floats, seed: Ints, confidence: float = 0.95) -> Posterior:
    """The posterior of the rate over all seeds, from pictures some of which share a seed.

    `passed` is 1.0 or 0.0 and `seed` the number of the seed, one entry per scored picture. Seeds are beta-binomial:
    with likeness rho, a seed's own probability is Beta(p (1 - rho) / rho, (1 - p) (1 - rho) / rho). The rate has
    Jeffreys' prior, so without shared seeds this is `jeffreys`.
    """
    k, n = _by_seed(passed, seed)
    if not np.any(n > 1):
        return jeffreys(float(k.sum()), float(n.sum()), confidence)
    rate, joint = _clustered_grid(k, n)
    share = joint.sum(axis=1)
    return _summary(rate, share, bool(k.sum() == 0), bool(k.sum() == n.sum()), confidence)


def likeness(passed: Floats, seed: Ints) -> float:
    """How alike two pictures of one seed come out, by the posterior mean of their correlation; 0 if none share one."""
    k, n = _by_seed(passed, seed)
    return float(_clustered_grid(k, n)[1].sum(axis=0) @ np.array(LIKENESS)) if np.any(n > 1) else 0.0


def _by_seed(passed: Floats, seed: Ints) -> tuple[Floats, Floats]:
    _, own = np.unique(seed, return_inverse=True)
    size = int(own.max()) + 1 if own.size else 0
    return tally(own, size, passed), tally(own, size)


def _clustered_grid(k: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Points of the rate, and the joint posterior of rate and likeness over the grid."""
    kinds, times = np.unique(np.column_stack([k, n]), axis=0, return_counts=True)
    # Equal steps of arcsine(sqrt(p)) are equal shares of Jeffreys' prior, so no point needs a weight of its own.
    rate = np.sin((np.arange(GRID) + 0.5) * np.pi / (2 * GRID)) ** 2
    spread = (1 - np.array(LIKENESS)) / np.array(LIKENESS)
    a = rate[:, None, None] * spread[:, None]
    b = (1 - rate)[:, None, None] * spread[:, None]
    likelihood: Floats = (betaln(a + kinds[:, 0], b + kinds[:, 1] - kinds[:, 0]) - betaln(a, b)) @ times
    joint = np.exp(likelihood - likelihood.max())
    return rate, joint / joint.sum()


def _summary(rate: Floats, share: Floats, none: bool, every: bool, confidence: float) -> Posterior:
    mean = float(rate @ share)
    sd = float(np.sqrt((rate - mean) ** 2 @ share))
    edges, tail = np.cumsum(share), (1 - confidence) / 2
    low = 0.0 if none else float(np.interp(tail, edges, rate))
    high = 1.0 if every else float(np.interp(1 - tail, edges, rate))
    return Posterior(mean, sd, low, high)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a judge said of pictures a person had sorted: how many of the good ones it passed, of the bad it failed."""

    good: int
    good_passed: int
    bad: int
    bad_failed: int

    def __post_init__(self) -> None:
        if not (0 <= self.good_passed <= self.good and 0 <= self.bad_failed <= self.bad):
            raise ValueError(f"{self.good_passed} of {self.good} passed and {self.bad_failed} of {self.bad} failed")

    @property
    def sensitivity(self) -> float:
        """Share of good pictures the judge passes, after Jeffreys."""
        return (self.good_passed + 0.5) / (self.good + 1)

    @property
    def specificity(self) -> float:
        """Share of bad pictures the judge fails, after Jeffreys."""
        return (self.bad_failed + 0.5) / (self.bad + 1)

    @property
    def informative(self) -> bool:
        """Whether the judge tells good from bad better than a coin: without that no rate can be corrected."""
        return self.sensitivity + self.specificity > 1.1

    def correct(self, draws: Floats, rng: np.random.Generator) -> Floats:
        """True rates behind judged ones: (rate + specificity - 1) / (sensitivity + specificity - 1), within [0, 1].

        Rogan and Gladen (1978). The last axis of `draws` holds posterior draws; each is corrected by its own draw of
        sensitivity and specificity, so that the labels' own uncertainty is in the result.
        """
        count = (draws.shape[-1],)
        sensitivity = rng.beta(self.good_passed + 0.5, self.good - self.good_passed + 0.5, count)
        specificity = rng.beta(self.bad_failed + 0.5, self.bad - self.bad_failed + 0.5, count)
        return np.clip((draws + specificity - 1) / np.maximum(sensitivity + specificity - 1, 0.05), 0.0, 1.0)


def pooled_weights(weights: Sequence[float]) -> Floats:
    """Weights of contexts as shares that sum to 1."""
    shares = np.asarray(weights, dtype=np.float64)
    if shares.size == 0 or np.any(shares < 0) or not shares.sum() > 0:
        raise ValueError("weights of contexts must be positive somewhere and negative nowhere")
    return shares / shares.sum()
