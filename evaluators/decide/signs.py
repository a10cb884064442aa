"""Who breaks first, and how: the share of pictures with each kind of failure and on each character, over epochs.

And the early warnings: what rises while the rate still stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluators.decide.local import local_draws
from evaluators.decide.process import Axes
from evaluators.decide.table import Floats, Ints, Sign, Table

WIDTH = 0.05
"""Width of the local Beta, as a share of all epochs."""
SURE = 0.9
DRAWS = 1000


@dataclass(frozen=True, eq=False)
class SignCurve:
    """The share of scored pictures with a sign, over the epochs of the table; arrays are (epochs,)."""

    about: Literal["kind", "character"]
    name: str
    mean: Floats
    low: Floats
    high: Floats
    pictures: int
    """With this sign, in all."""
    breaks_at: int | None
    """First epoch from which on the share is surely more than the margin above what it was where it was least."""


@dataclass(frozen=True, slots=True)
class EarlyWarning:
    """Something that goes wrong from an epoch on, in words."""

    epoch: int
    sentence: str


def sign_curves(table: Table, margin: float, *, weight: int | None = None) -> tuple[SignCurve, ...]:
    """Curves of all kinds, then of all characters, each the commonest first; contexts count alike."""
    chosen = table.scored if weight is None else table.scored & (table.weight == weight)
    rows = np.flatnonzero(chosen)
    if not rows.size:
        return ()
    axes = Axes.of(table)
    single = Axes(1, 1, axes.knots, axes.knot)
    point = axes.knot[table.epoch[rows]]
    seen = [table.signs[row] for row in rows]
    curves = []
    for about, names in (("kind", _names(seen, lambda s: s.kind)), ("character", _names(seen, lambda s: s.character))):
        for name in names:
            has = np.array([any(getattr(sign, about) == name for sign in signs) for signs in seen], dtype=np.float64)
            curves.append(_curve(about, name, has, single, point, table, margin))  # type: ignore[arg-type]
    return tuple(curves)


def _names(seen: Iterable[tuple[Sign, ...]], part: Callable[[Sign], str]) -> list[str]:
    counts: dict[str, int] = {}
    for signs in seen:
        for name in {part(sign) for sign in signs} - {""}:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))


def _curve(
    about: Literal["kind", "character"], name: str, has: Floats, axes: Axes, point: Ints, table: Table, margin: float
) -> SignCurve:
    rng = np.random.default_rng(0)
    draws = local_draws(axes, point, has, WIDTH, 1.0, DRAWS, rng)[0, 0][axes.knot]
    low, high = np.quantile(draws, [0.025, 0.975], axis=-1)
    return SignCurve(
        about=about,
        name=name,
        mean=draws.mean(axis=-1),
        low=low,
        high=high,
        pictures=int(has.sum()),
        breaks_at=_break(draws, table.epochs, margin),
    )


def _break(draws: Floats, epochs: Ints, margin: float) -> int | None:
    least = int(draws.mean(axis=-1).argmin())
    risen = (draws > draws[least] + margin).mean(axis=-1) >= SURE
    for at in range(least + 1, epochs.size):
        if risen[at]:
            return int(epochs[at])
    return None


def early_warnings(table: Table, curves: Iterable[SignCurve], past: Floats, *, weight: int) -> tuple[EarlyWarning, ...]:
    """What rises, which seeds are lost again, and where overtraining is likelier than not to have begun; by epoch.

    `past` is (epochs,): the probability that overtraining has begun.
    """
    found = []
    for curve in curves:
        if curve.breaks_at is not None:
            at = int(np.searchsorted(table.epochs, curve.breaks_at))
            what = (
                f"pictures with {curve.name}" if curve.about == "kind" else f"pictures with something on {curve.name}"
            )
            share = f"{100 * curve.mean.min():.0f} % at best, {100 * curve.mean[at]:.0f} % here"
            found.append(EarlyWarning(curve.breaks_at, f"{what} have become more: {share}"))
    found += [
        EarlyWarning(epoch, f"seed {name} fails again: it had passed at {passed}")
        for name, epoch, passed in _lost_seeds(table, weight)
    ]
    begun = np.flatnonzero(past >= 0.5)
    if begun.size:
        epoch = int(table.epochs[begun[0]])
        found.append(EarlyWarning(epoch, "overtraining has begun, more likely than not"))
    return tuple(sorted(found, key=lambda warning: warning.epoch))


def _lost_seeds(table: Table, weight: int) -> list[tuple[str, int, int]]:
    """Named seeds that fail at their last epochs after having passed: (seed, first failing epoch, last passed one).

    Of at least two pictures each way, so that one unlucky picture is no loss.
    """
    lost = []
    mine = table.scored & (table.weight == weight)
    for number, (_, name) in enumerate(table.seeds):
        rows = np.flatnonzero(mine & (table.seed == number))
        rows = rows[np.argsort(table.epoch[rows], kind="stable")]
        passed = table.passed[rows] > 0
        if not name or not passed.any():
            continue
        last_pass = int(np.flatnonzero(passed)[-1])
        if passed.sum() >= 2 and passed.size - last_pass - 1 >= 2:
            after, before = table.epochs[table.epoch[rows[last_pass + 1]]], table.epochs[table.epoch[rows[last_pass]]]
            lost.append((name, int(after), int(before)))
    return lost
