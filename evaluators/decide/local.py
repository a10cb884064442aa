"""The rate curve without a model of its shape: every epoch counts its neighbours' pictures, the nearer the more.

A local Beta posterior, closed form: passes and failures of all epochs enter with a Gaussian weight of the distance in
epochs. It is the floor that a cleverer curve has to beat on pictures it has not seen.
"""

from __future__ import annotations

import numpy as np

from evaluators.decide.process import Axes
from evaluators.decide.table import Floats, Ints, tally

WIDTHS = (0.002, 0.02, 0.04, 0.08, 0.16)
"""Widths of the weight (SD as a share of all epochs) to choose from by held-out pictures; the first leaves every epoch
to itself."""
PRIOR = 0.5
"""Passes and failures every epoch starts with (Jeffreys)."""


def local_mean(axes: Axes, point: Ints, passed: Floats, width: float) -> Floats:
    """The rate at every point, shape (points,)."""
    passes, fails = _pooled(axes, point, passed, width)
    return ((PRIOR + passes) / (2 * PRIOR + passes + fails)).ravel()


def local_draws(
    axes: Axes, point: Ints, passed: Floats, width: float, alike: float, count: int, rng: np.random.Generator
) -> Floats:
    """Draws of the rate at every point (weights, contexts, knots, count); neighbouring epochs move together.

    Every picture's vote is a Gamma variable that all epochs counting it share, so that each epoch's rate is close to
    its Beta and the draws are smooth. `alike` < 1 is the share of independent information in the pictures.
    """
    shape = (*axes.shape, count)
    passes, fails = (
        rng.gamma(np.maximum(c * alike, 1e-9)[..., None], size=shape) for c in _counts(axes, point, passed)
    )
    start = rng.gamma(PRIOR, size=(2, *axes.shape, count))
    near = _nearness(axes, width)
    up, down = start[0] + near @ passes, start[1] + near @ fails
    return up / (up + down)


def independent_share(axes: Axes, point: Ints, seed: Ints, width: float, likeness: float) -> float:
    """One over the design effect: 1 when pictures that are counted together never share a seed."""
    if not point.size:
        return 1.0
    series = point // axes.knots.size
    cell, at = np.unique(series * (int(seed.max()) + 1) + seed, return_inverse=True)
    together = tally(at, cell.size)[at]
    reach = min(1.0, 2.5 * width)
    return float(1 / (1 + np.maximum(together * reach - 1, 0).mean() * likeness))


def _counts(axes: Axes, point: Ints, passed: Floats) -> tuple[Floats, Floats]:
    size = int(np.prod(axes.shape))
    passes, n = tally(point, size, passed), tally(point, size)
    return passes.reshape(axes.shape), (n - passes).reshape(axes.shape)


def _pooled(axes: Axes, point: Ints, passed: Floats, width: float) -> tuple[Floats, Floats]:
    near = _nearness(axes, width)
    passes, fails = _counts(axes, point, passed)
    return passes @ near, fails @ near


def _nearness(axes: Axes, width: float) -> Floats:
    span = max(float(axes.knots[-1] - axes.knots[0]), 1.0)
    return np.exp(-0.5 * ((axes.knots[:, None] - axes.knots) / (width * span)) ** 2)
