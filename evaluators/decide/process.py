"""The rate curve as a logit Gaussian process, with an effect of the seed where pictures share one.

The model. logit p(weight, context, epoch) = mean + curve(epoch) + what is the weight's own + what is the context's own
+ a small wiggle(epoch); all of them Gaussian with stated covariances. `p` is the rate over all seeds. A seed that
several pictures share shifts all of their logits by its own Gaussian amount u; given u a picture passes with
probability sigmoid(c f + u), where c = sqrt(1 + pi sd^2 / 8) makes the average over u come out as sigmoid(f)
(MacKay 1992).

The fit. u is integrated out seed by seed with adaptive Gauss-Hermite nodes, what remains is a Laplace approximation at
the mode (Rasmussen and Williams 2006, chapter 3). Nobody knows how smooth the curve is or how much seeds matter, so
a grid of answers is fitted and weighted by evidence; draws come from the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import pi, sqrt

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import expit

from evaluators.decide.table import Floats, Ints, Table, tally

LENGTHS = (0.06, 0.12, 0.24)
"""Over which share of the epochs the curve keeps its height, equally likely at first."""
SEED_SDS = (0.0, 0.8, 1.5, 2.5)
"""How much seeds differ (SD on the logit scale), equally likely at first."""
MEAN, MEAN_SD, CURVE_SD = 0.5, 2.0, 1.5
WIGGLE_SD, WIGGLE_LENGTH = 0.25, 0.013
"""From one epoch to the next the rate moves a little by chance, however smooth the training."""
OWN_SD, OWN_LENGTH = 0.7, 0.25
"""What a weight or a context has for itself: an offset and a slow curve, of this SD each."""
KNOTS = 1024
"""Points at which rates are worked out, all weights and contexts together; further epochs use the nearest knot."""

_X, _W = np.polynomial.hermite_e.hermegauss(5)
NODES, LOG_NODE_WEIGHTS = _X, np.log(_W / _W.sum())


@dataclass(frozen=True, eq=False)
class Axes:
    """Where rates are worked out: `knots` are epochs, `knot` says which of them stands for each epoch of the table."""

    weights: int
    contexts: int
    knots: Floats
    knot: Ints

    @classmethod
    def of(cls, table: Table) -> Axes:
        """All epochs are knots while there are not too many of them; then evenly spaced ones."""
        epochs = table.epochs.astype(np.float64)
        weights, contexts = len(table.weights), len(table.contexts)
        most = int(np.clip(KNOTS // (weights * contexts), 32, 256))
        if epochs.size <= most:
            return cls(weights, contexts, epochs, np.arange(epochs.size))
        step = (epochs[-1] - epochs[0]) / (most - 1)
        return cls(
            weights,
            contexts,
            np.linspace(epochs[0], epochs[-1], most),
            np.rint((epochs - epochs[0]) / step).astype(np.intp),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.weights, self.contexts, self.knots.size

    def points(self, table: Table) -> Ints:
        """The point each row of the table lies at."""
        if not table.images:
            return np.zeros(0, dtype=np.intp)
        return np.ravel_multi_index((table.weight, table.context, self.knot[table.epoch]), self.shape)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Outcomes, counted. Pictures with a seed of their own are counts per point; the others are counts per point and
    seed, in the order of the seeds, `start` being where each seed begins."""

    point: Ints
    passes: Floats
    n: Floats
    shared_point: Ints
    shared_passes: Floats
    shared_n: Floats
    start: Ints
    seeds: Ints
    """The table's numbers of the shared seeds."""

    @classmethod
    def of(cls, point: Ints, seed: Ints, passed: Floats) -> Evidence:
        """Count scored rows."""
        several = np.bincount(seed)[seed] > 1 if seed.size else np.zeros(0, dtype=np.bool_)
        alone = point[~several]
        size = int(point.max()) + 1 if point.size else 1
        n, passes = tally(alone, size), tally(alone, size, passed[~several])
        there = np.flatnonzero(n)
        together, row = np.unique(seed[several] * size + point[several], return_inverse=True)
        shared_n, shared_passes = tally(row, together.size), tally(row, together.size, passed[several])
        seeds, start = np.unique(together // size, return_index=True)
        return cls(there, passes[there], n[there], together % size, shared_passes, shared_n, start, seeds)


@dataclass(frozen=True, eq=False)
class Fit:
    """One answer to how smooth the curve is and how much seeds matter, fitted."""

    length: float
    seed_sd: float
    features: Floats
    theta: Floats
    root: Floats
    """Lower Cholesky factor of the precision of theta."""
    evidence: float
    """Log marginal likelihood, up to a constant all answers share."""
    effects: Floats
    """Most likely effect of each shared seed, on the logit scale."""

    @property
    def scale(self) -> float:
        """How much steeper one seed's curve is than the curve over all seeds."""
        return sqrt(1 + pi * self.seed_sd**2 / 8)

    def logits(self) -> Floats:
        """The most likely curve at every point."""
        return MEAN + self.features @ self.theta


@dataclass(frozen=True, eq=False)
class Process:
    """The fitted mixture."""

    axes: Axes
    evidence: Evidence
    fits: tuple[Fit, ...]
    shares: Floats
    """How much each fit counts; sums to 1."""

    def draws(self, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Draws of the rate at every point (weights, contexts, knots, count), and of how much seeds differ (count,)."""
        rates, seed_sds = [], []
        for fit, times in zip(self.fits, rng.multinomial(count, self.shares), strict=True):
            if times:
                noise = solve_triangular(fit.root, rng.standard_normal((fit.theta.size, times)), lower=True, trans="T")
                logit = (MEAN + fit.features @ (fit.theta[:, None] + noise)).reshape(*self.axes.shape, times)
                rates.append(expit(logit))
                seed_sds.append(np.full(times, fit.seed_sd))
        return np.concatenate(rates, axis=-1), np.concatenate(seed_sds)

    def mean(self) -> Floats:
        """The rate at every point at the modes of the fits, shape (points,)."""
        return np.sum([share * expit(fit.logits()) for fit, share in zip(self.fits, self.shares, strict=True)], axis=0)

    @property
    def seeds_matter(self) -> float:
        """How likely it is that seeds differ at all."""
        return float(sum(share for fit, share in zip(self.fits, self.shares, strict=True) if fit.seed_sd > 0))


def fit_process(
    axes: Axes, evidence: Evidence, *, previous: Process | None = None, likely: Process | None = None
) -> Process:
    """Fit the mixture. `previous` is where to start; `likely` limits the grid to the answers that counted there."""
    shared = evidence.seeds.size > 0
    answers = [(length, sd) for length in LENGTHS for sd in (SEED_SDS if shared else SEED_SDS[:1])]
    if likely is not None:
        counted = {(f.length, f.seed_sd): s for f, s in zip(likely.fits, likely.shares, strict=True)}
        answers = [a for a in answers if counted.get(a, 0.0) > 0.02] or answers
    known = {(f.length, f.seed_sd): (f, previous.evidence.seeds) for f in previous.fits} if previous else {}
    fits = []
    for length, sd in answers:
        features = _features(axes.weights, axes.contexts, tuple(axes.knots), length)
        before, seeds = known.get((length, sd)) or known.get((length, 0.0)) or (None, evidence.seeds)
        theta = before.theta if before is not None else np.zeros(features.shape[1])
        effects = np.zeros(evidence.seeds.size)
        if before is not None and sd and before.seed_sd:
            both, here, there = np.intersect1d(evidence.seeds, seeds, assume_unique=True, return_indices=True)
            effects[here] = before.effects[there] if both.size else 0.0
        fits.append(_fit(features, evidence, length, sd, theta, effects))
    logs = np.array([fit.evidence for fit in fits])
    shares = np.exp(logs - logs.max())
    return Process(axes, evidence, tuple(fits), shares / shares.sum())


def _fit(features: Floats, data: Evidence, length: float, sd: float, theta: Floats, effects: Floats) -> Fit:
    """Newton's method to the mode; steps are cut so that no logit moves by more than 4 at once."""
    alone, shared = features[data.point], sqrt(1 + pi * sd * sd / 8) * features[data.shared_point]
    shift = sqrt(1 + pi * sd * sd / 8) * MEAN
    size = theta.size
    for _ in range(30):
        logit = MEAN + alone @ theta
        p = expit(logit)
        value = float(data.passes @ logit - data.n @ np.logaddexp(0, logit) - theta @ theta / 2)
        slope = alone.T @ (data.passes - data.n * p) - theta
        precision = (alone * (data.n * p * (1 - p))[:, None]).T @ alone
        precision.flat[:: size + 1] += 1
        if data.seeds.size:
            effects, more = _shared(shared, shift + shared @ theta, data, sd, effects)
            value, slope, precision = value + more[0], slope + more[1], precision + more[2]
        step = np.linalg.solve(precision, slope)
        moves = np.abs(features @ step).max()
        if moves < 0.02:
            break
        theta = theta + step * min(1.0, 4.0 / moves)
    root = np.linalg.cholesky(precision)
    return Fit(length, sd, features, theta, root, value - float(np.log(np.diag(root)).sum()), effects)


def _shared(
    features: Floats, logit: Floats, data: Evidence, sd: float, effects: Floats
) -> tuple[Floats, tuple[float, Floats, Floats]]:
    """Effects of the shared seeds at these logits, and what their pictures add to (value, slope, precision)."""
    k, n, start = data.shared_passes, data.shared_n, data.start
    if sd == 0:
        p = expit(logit)
        value = float(k @ logit - n @ np.logaddexp(0, logit))
        return effects, (value, features.T @ (k - n * p), (features * (n * p * (1 - p))[:, None]).T @ features)
    own = np.repeat(np.arange(start.size), np.diff(np.append(start, k.size)))
    for _ in range(2):
        p = expit(logit + effects[own])
        curvature = np.add.reduceat(n * p * (1 - p), start) + 1 / sd**2
        effects = effects + np.clip((np.add.reduceat(k - n * p, start) - effects / sd**2) / curvature, -2, 2)
    width = 1 / np.sqrt(curvature)
    nodes = effects[:, None] + width[:, None] * NODES
    at = logit[:, None] + nodes[own]
    p = expit(at)
    log_share = np.add.reduceat(k[:, None] * at - n[:, None] * np.logaddexp(0, at), start, axis=0)
    log_share += LOG_NODE_WEIGHTS + NODES**2 / 2 + np.log(width / sd)[:, None] - nodes**2 / (2 * sd**2)
    most = log_share.max(axis=1, keepdims=True)
    share = np.exp(log_share - most)
    total = share.sum(axis=1, keepdims=True)
    share /= total
    value = float((most + np.log(total)).sum())
    residual, row_share = k[:, None] - n[:, None] * p, share[own]
    slope = features.T @ (row_share * residual).sum(axis=1)
    curve = (row_share * p * (1 - p)).sum(axis=1) * n
    precision = (features * curve[:, None]).T @ features
    # The seed's uncertainty gives back part of the precision: the covariance of its slope over the nodes.
    pulls = np.stack([np.add.reduceat(residual[:, [q]] * features, start, axis=0) for q in range(NODES.size)], axis=1)
    pulls -= (share[:, :, None] * pulls).sum(axis=1, keepdims=True)
    pulls = (pulls * np.sqrt(share)[:, :, None]).reshape(-1, features.shape[1])
    return effects, (value, slope, precision - pulls.T @ pulls)


@lru_cache(maxsize=32)
def _features(weights: int, contexts: int, knots: tuple[float, ...], length: float) -> Floats:
    """Columns such that theta ~ N(0, 1) gives a curve of the prior, one row per point."""
    epochs = np.array(knots)
    apart = np.abs(epochs[:, None] - epochs) / max(float(epochs[-1] - epochs[0]), 1.0)
    curve = _columns(MEAN_SD**2 + CURVE_SD**2 * _bell(apart, length), 1e-3)
    wiggle = _columns(WIGGLE_SD**2 * _bell(apart, WIGGLE_LENGTH), 5e-3)
    blocks: list[Floats] = [np.tile(np.hstack([curve, wiggle]), (weights * contexts, 1))]
    own = _columns(OWN_SD**2 * (1 + _bell(apart, OWN_LENGTH)), 1e-2)
    if weights > 1:
        blocks.append(np.asarray(np.kron(np.eye(weights), np.tile(own, (contexts, 1))), dtype=np.float64))
    if contexts > 1:
        blocks.append(np.tile(np.kron(np.eye(contexts), own), (weights, 1)))
    return np.hstack(blocks)


def _bell(apart: Floats, length: float) -> Floats:
    return np.exp(-0.5 * (apart / length) ** 2)


def _columns(covariance: Floats, least: float) -> Floats:
    """Principal columns of a covariance, those below a variance of `least` left out."""
    variance, direction = np.linalg.eigh(covariance)
    kept = variance > least
    return direction[:, kept] * np.sqrt(variance[kept])
