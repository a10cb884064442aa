"""When to stop: drawing, because another picture is not worth it; training, because the best is behind.

Pure functions: facts in, a value out. Hours and dollars are for whoever knows what an epoch costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evaluators.decide.choice import Decision
from evaluators.decide.curve import Curve
from evaluators.decide.table import Floats

Mode = Literal["off", "advise", "on"]
LEARNT = 0.5
"""A rate that was never this high has nothing to lose by overtraining."""


@dataclass(frozen=True, slots=True)
class Enough:
    """Drawing may stop, and why."""

    rule: Literal["regret", "chance", "budget", "time"]
    sentence: str


def enough_pictures(
    decision: Decision,
    *,
    drawn: int,
    at_least: int = 40,
    target_regret: float = 0.02,
    tolerated_chance: float = 0.1,
    budget: int | None = None,
    seconds_left: float | None = None,
) -> Enough | None:
    """The first rule that says that drawing may stop; None: go on.

    Budget and time always hold. The others wait for `at_least` pictures: the expected regret of the chosen epoch is at
    most `target_regret`, or it is more than the margin below the best with a probability below `tolerated_chance`.
    """
    if budget is not None and drawn >= budget:
        return Enough("budget", f"all {budget} pictures of the budget are drawn")
    if seconds_left is not None and seconds_left <= 0:
        return Enough("time", "the time for drawing is over")
    if drawn < at_least:
        return None
    chosen = decision.chosen
    if chosen.regret <= target_regret:
        return Enough("regret", f"epoch {chosen.epoch} is expected to give away {100 * chosen.regret:.1f} points")
    if decision.chance_of_regret < tolerated_chance:
        return Enough(
            "chance",
            f"epoch {chosen.epoch} is more than {100 * decision.margin:g} points below the best with a probability of"
            f" {100 * decision.chance_of_regret:.0f} % only",
        )
    return None


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do with a trial that is still training. `saved_epochs` are those that would not be trained."""

    action: Literal["train", "advise", "stop"]
    chance: float
    """Probability that the best epoch is behind."""
    best_epoch: int | None
    saved_epochs: int
    reason: str


def training_advice(
    curve: Curve | None,
    *,
    planned_epochs: int,
    exposures: float,
    mode: Mode = "advise",
    threshold: float = 0.95,
    min_exposures: float = 0.0,
    margin: float = 0.1,
    window: float = 0.06,
) -> Advice:
    """Whether training may stop because the best epoch is behind with at least the `threshold`'s probability.

    `curve` is of the epochs saved so far, `exposures` how often every picture has been seen. The best is behind when
    an older epoch had LEARNT and every epoch of the newest `window` (share of the planned epochs, at least three) is
    more than `margin` below it: a rate that overtraining has brought down does not come back while the same training
    goes on, whereas a low rate that falls may only not have risen yet.
    """
    if mode == "off":
        return Advice("train", 0.0, None, 0, "stopping by itself is off")
    if curve is None or not curve.table.scored.any():
        return Advice("train", 0.0, None, 0, "no picture is judged yet")
    epochs = curve.table.epochs
    left = max(0, planned_epochs - int(epochs[-1]))
    newest = epochs > epochs[-1] - max(3.0, window * planned_epochs)
    looked_at = np.unique(curve.table.epoch[curve.table.scored & newest[curve.table.epoch]]).size
    chance, best_at = behind(curve.draws, newest, margin)
    best = int(epochs[best_at])
    if exposures < min_exposures:
        reason = f"{exposures:g} of the {min_exposures:g} exposures asked for are done"
    elif not left:
        reason = "training is over"
    elif looked_at < min(3, int(newest.sum())):
        reason = "too few of the newest epochs are judged"
    elif chance < threshold:
        reason = f"the best epoch is behind with a probability of {100 * chance:.0f} %, below {100 * threshold:g} %"
    else:
        action: Literal["advise", "stop"] = "stop" if mode == "on" else "advise"
        reason = (
            f"epoch {best} is better than anything since epoch {int(epochs[newest][0])} by more than"
            f" {100 * margin:g} points, with a probability of {100 * chance:.0f} %"
        )
        return Advice(action, chance, best, left, reason)
    return Advice("train", chance, best, 0, reason)


def behind(draws: Floats, newest: NDArray[np.bool_], margin: float) -> tuple[float, int]:
    """Probability that one older epoch had learnt and is more than `margin` above all `newest` ones; which it is.

    `draws` are (weights, epochs, draws). The older epoch is the one of the highest mean, settled before the draws are
    compared: the best of many uncertain epochs, each draw naming its own, would always seem to be behind.
    """
    if newest.all() or not newest.any():
        return 0.0, int(draws.mean(axis=-1).max(axis=0).argmax())
    mean = np.where(newest, -1.0, draws.mean(axis=-1))
    weight, epoch = np.unravel_index(int(mean.argmax()), mean.shape)
    best = draws[weight, epoch]
    fallen = (best >= LEARNT) & (draws[:, newest].max(axis=(0, 1)) < best - margin)
    return float(fallen.mean()), int(epoch)
