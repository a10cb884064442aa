"""Where the flat top of the curve lies, and where overtraining begins, as probabilities over posterior draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluators.decide.table import Floats, Ints

LEVEL = 0.8
"""An epoch belongs to the plateau when it is this likely, relative to the likeliest, to be within the margin."""


@dataclass(frozen=True, eq=False)
class Band:
    """The plateau of one weight and what follows it. Epochs are numbers of the curve's epoch axis."""

    first: int
    last: int
    within: Floats
    """(epochs,): probability of a rate within the margin of the best of this weight."""
    onset: Floats
    """(epochs + 1,): probability that overtraining begins at that epoch; the last entry: not by the last epoch."""

    @property
    def past(self) -> Floats:
        """(epochs,): probability that overtraining has begun."""
        return np.cumsum(self.onset[:-1])


def band_of(draws: Floats, margin: float, around: int | None = None) -> Band:
    """The band of one weight's draws, shape (epochs, draws); the plateau is the run `around` an epoch or the likeliest.

    In each draw the epochs within `margin` of its best are the top. What follows the best is split where the rates
    before and after differ most; if those after are on average more than `margin` below the best, and most of them are
    not of the top, overtraining has begun right after the last top epoch before the split.
    """
    top = draws >= draws.max(axis=0) - margin
    within = top.mean(axis=1)
    onset = np.bincount(_onsets(draws, top, margin), minlength=top.shape[0] + 1) / top.shape[1]
    at = int(within.argmax()) if around is None else around
    level = min(LEVEL * float(within.max()), float(within[at]))
    first = last = at
    while first > 0 and within[first - 1] >= level:
        first -= 1
    while last + 1 < within.size and within[last + 1] >= level:
        last += 1
    return Band(first, last, within, onset)


def _onsets(draws: Floats, top: NDArray[np.bool_], margin: float) -> Ints:
    """(draws,): where overtraining begins in each draw; the number of epochs when it does not."""
    epochs, count = draws.shape
    best, every = draws.argmax(axis=0), np.arange(count)
    until = np.vstack([np.zeros(count), np.cumsum(draws, axis=0)])
    split = np.arange(epochs)[:, None]
    before, after = np.maximum(split - best, 1), epochs - split
    mean_before = (until[:-1] - until[best, every]) / before
    mean_after = (until[-1] - until[:-1]) / after
    contrast = np.where(split > best, before * after / (before + after) * (mean_before - mean_after) ** 2, -1.0)
    contrast = np.where(mean_before > mean_after, contrast, -1.0)
    at = contrast.argmax(axis=0)
    later = split >= at
    rare = (top & later).sum(axis=0) < 0.5 * later.sum(axis=0)
    fallen = (contrast[at, every] >= 0) & (mean_after[at, every] < draws.max(axis=0) - margin) & rare
    still = np.where(top & (split < at), split, -1).max(axis=0)
    return np.where(fallen, still + 1, epochs)
