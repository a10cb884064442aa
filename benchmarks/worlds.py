"""Simulated studies: a true rate curve, seeds that matter, and a judge that errs, all from one number.

The curves rise, stay and fall on the logit scale, with a small wiggle from epoch to epoch. A picture's outcome is a
pure function of (world, epoch, seed), so that every policy that asks for it gets the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.special import expit

from evaluators.decide.intervals import Calibration
from evaluators.decide.situation import Ask
from evaluators.decide.table import Floats, Row

EPOCHS = 150
Shape = Literal["usual", "flat", "cliff", "rising", "two tops"]
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(31)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a world is like: how much seeds differ (SD, logit), and the judge's sensitivity and specificity."""

    seed_sd: float = 0.0
    sensitivity: float = 1.0
    specificity: float = 1.0
    shape: Shape = "usual"

    @property
    def name(self) -> str:
        judge = "" if self.sensitivity == self.specificity == 1 else ", judge errs"
        shape = "" if self.shape == "usual" else f", {self.shape}"
        return f"seed SD {self.seed_sd:g}{judge}{shape}"


SETTINGS = tuple(Setting(sd, sens, spec) for sens, spec in ((1.0, 1.0), (0.95, 0.85)) for sd in (0.0, 1.5))
"""What promises are made for."""


@dataclass
class World:
    """One simulated study of 150 epochs."""

    setting: Setting
    number: int
    logits: Floats = field(init=False, repr=False)
    rates: Floats = field(init=False, repr=False)
    """(epochs,): true rate over all seeds."""
    _luck: dict[int, tuple[float, Floats]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.logits = logits(np.random.default_rng((self.number, 0)), self.setting.shape)
        at = self.logits[:, None] + self.setting.seed_sd * _NODES
        self.rates = expit(at) @ (_WEIGHTS / _WEIGHTS.sum())

    def row(self, ask: Ask) -> Row:
        """The verdict on a picture. Without the adapter one picture in fifty is good by luck."""
        if ask.seed not in self._luck:
            rng = np.random.default_rng((self.number, 1, ask.seed))
            self._luck[ask.seed] = float(self.setting.seed_sd * rng.standard_normal()), rng.random((EPOCHS + 1, 2))
        effect, luck = self._luck[ask.seed]
        epoch = 0 if ask.weight == 0 else ask.epoch
        chance = 0.02 if ask.weight == 0 else float(expit(self.logits[epoch - 1] + effect))
        good = bool(luck[epoch, 0] < chance)
        said = self.setting.sensitivity if good else self.setting.specificity
        passed = good == bool(luck[epoch, 1] < said)
        return Row(ask.epoch, "pass" if passed else "fail", str(ask.seed), ask.weight, ask.context)

    def regret(self, epoch: int) -> float:
        """How far the rate of an epoch lies below the best."""
        return float(self.rates.max() - self.rates[epoch - 1])

    def calibration(self, labels: int = 50) -> Calibration | None:
        """What labels of as many good and as many bad pictures say of the judge; None when it never errs."""
        if self.setting.sensitivity == self.setting.specificity == 1:
            return None
        rng = np.random.default_rng((self.number, 2))
        good = int(rng.binomial(labels, self.setting.sensitivity))
        return Calibration(labels, good, labels, int(rng.binomial(labels, self.setting.specificity)))


def logits(rng: np.random.Generator, shape: Shape) -> Floats:
    """A true curve, (epochs,) on the logit scale."""
    x = np.arange(EPOCHS)
    rise, stay, top = rng.uniform(60, 110), rng.uniform(15, 35), rng.uniform(1.8, 3.2)
    fall = max(rng.uniform(110, 150), rise + stay)
    base, drop = rng.uniform(-2, 0), rng.uniform(1, 3)
    wiggle = 0.25 * np.convolve(rng.standard_normal(EPOCHS + 10), np.ones(5) / np.sqrt(5), "same")[5 : EPOCHS + 5]
    curve = {
        "usual": base + (top - base) * expit((x - rise) / 8) - drop * expit((x - fall) / 5),
        "flat": np.full(EPOCHS, top),
        "cliff": np.where(x < rise, base, np.where(x < fall, top, top - drop)),
        "rising": base + (top - base) * x / EPOCHS,
        "two tops": base + (top - base) * (np.exp(-(((x - 50) / 15) ** 2)) + 0.9 * np.exp(-(((x - 110) / 20) ** 2))),
    }[shape]
    return curve + wiggle
