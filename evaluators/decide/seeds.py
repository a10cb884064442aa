"""Which seeds are hard, and what a picture on each would teach.

A seed that all good epochs pass says nothing about which of them is best; one that is as likely to pass as to fail says
most. So contrasts between epochs are drawn on the seeds whose effect, as far as known, lies near the edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from evaluators.decide.process import MEAN, NODES, Fit, Process
from evaluators.decide.table import Floats, Ints

_WEIGHTS = np.polynomial.hermite_e.hermegauss(NODES.size)[1]
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True, eq=False)
class Effects:
    """The effect of every seed of a table, per fit of a process: logits added to what that fit says."""

    process: Process
    effect: Floats
    """(fits, seeds): most likely value."""
    width: Floats
    """(fits, seeds): its SD."""

    @classmethod
    def of(cls, process: Process, point: Ints, seed: Ints, passed: Floats, size: int) -> Effects:
        """From the scored pictures the process was fitted to; those of `size` seeds with none keep the prior."""
        effects, widths = np.zeros((len(process.fits), size)), np.zeros((len(process.fits), size))
        for row, fit in enumerate(process.fits):
            if fit.seed_sd == 0:
                continue
            logit = fit.scale * fit.logits()[point]
            effect, curvature = np.zeros(size), np.full(size, 1 / fit.seed_sd**2)
            for _ in range(6):
                p = expit(logit + effect[seed])
                curvature = np.bincount(seed, p * (1 - p), size) + 1 / fit.seed_sd**2
                slope = np.bincount(seed, passed - p, size) - effect / fit.seed_sd**2
                effect = effect + np.clip(slope / curvature, -2, 2)
            effects[row], widths[row] = effect, 1 / np.sqrt(curvature)
        return cls(process, effects, widths)

    def foretell(self, point: Ints, seed: Ints) -> Floats:
        """The probability that a picture at `point` on `seed` passes, one per pair."""
        chance = np.zeros(point.size)
        for share, fit, effect, width in self._each():
            logit = MEAN + fit.features[point] @ fit.theta
            if fit.seed_sd == 0:
                chance += share * expit(logit)
            else:
                at = fit.scale * logit[:, None] + effect[seed][:, None] + width[seed][:, None] * NODES
                chance += share * (expit(at) @ _WEIGHTS)
        return chance

    def _each(self) -> Iterator[tuple[float, Fit, Floats, Floats]]:
        return zip(self.process.shares, self.process.fits, self.effect, self.width, strict=True)

    def mean(self) -> Floats:
        """(seeds,): effect averaged over the fits; negative is hard."""
        return self.process.shares @ self.effect

    def harder_than_most(self) -> Floats:
        """(seeds,): probability that the seed is harder than the average seed by one SD or more."""
        chances = np.zeros(self.effect.shape[1])
        for share, fit, effect, width in self._each():
            if fit.seed_sd > 0:
                chances += share * expit(1.7 * (-fit.seed_sd - effect) / width)
        return chances

    def teaching(self, points: Ints) -> tuple[Floats, Floats]:
        """What a picture at each of `points` would teach about the curve there: on each seed, and on a fresh one.

        Shapes (points, seeds) and (points,). Fisher information of the curve's logit, the seed's effect averaged out.
        """
        known, fresh = np.zeros((points.size, self.effect.shape[1])), np.zeros(points.size)
        for share, fit, effect, width in self._each():
            logit = MEAN + fit.features[points] @ fit.theta
            p = expit(logit)
            fresh += share * p * (1 - p)
            if fit.seed_sd == 0:
                known += share * (p * (1 - p))[:, None]
                continue
            at = expit(fit.scale * logit[:, None, None] + effect[:, None] + width[:, None] * NODES)
            chance, slope = at @ _WEIGHTS, fit.scale * ((at * (1 - at)) @ _WEIGHTS)
            known += share * slope**2 / np.maximum(chance * (1 - chance), 1e-9)
        return known, fresh
