"""Who breaks first, and how: the share of pictures with each kind of failure and on each character, over epochs.

And the early warnings: what is seen for the first time on pictures that still pass, what has surely become more, and
seeds that are lost again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from evaluators.decide.local import local_draws
from evaluators.decide.process import Axes
from evaluators.decide.table import Floats, Ints, Sign, Table, tally

_Name = TypeVar("_Name", str, Sign)

WIDTH = 0.05
"""Width of the local Beta, as a share of all epochs."""
SURE = 0.9
"""Probability from which on a share is said to have risen."""
DRAWS = 1000
LATE = 0.95
"""Probability of overtraining from which on a seed that fails is news to nobody."""
UNSEEN = 10
"""Pictures without a sign after which its first one is worth a word."""


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
    """First epoch at which, and on average after which, the share is surely more than the margin above its least."""


@dataclass(frozen=True, slots=True)
class EarlyWarning:
    """Something that goes wrong from an epoch on, in words."""

    epoch: int
    sentence: str


def sign_curves(table: Table, margin: float, *, weight: int | None = None) -> tuple[SignCurve, ...]:
    """Curves of all kinds, then of all characters, each the commonest first; contexts count alike."""
    view = _View.of(table, weight)
    by_kind = [_curve("kind", name, view.has(kind=name), view, margin) for name in view.names(lambda s: s.kind)]
    names = view.names(lambda s: s.character)
    return (*by_kind, *(_curve("character", name, view.has(character=name), view, margin) for name in names))


@dataclass(frozen=True, eq=False)
class _View:
    """The scored pictures that signs are counted on, epoch by epoch."""

    table: Table
    rows: Ints
    axes: Axes

    @classmethod
    def of(cls, table: Table, weight: int | None) -> _View:
        chosen = table.scored if weight is None else table.scored & (table.weight == weight)
        axes = Axes.of(table)
        return cls(table, np.flatnonzero(chosen), Axes(1, 1, axes.knots, axes.knot))

    def names(self, part: Callable[[Sign], _Name]) -> list[_Name]:
        """What signs are called, the commonest first; those without a name are left out."""
        seen = Counter(name for row in self.rows for name in {part(sign) for sign in self.table.signs[row]})
        return sorted((name for name in seen if name and name[0]), key=lambda name: (-seen[name], name))

    def has(self, kind: str | None = None, character: str | None = None) -> Floats:
        """(rows,): 1.0 where a picture has such a sign."""
        return np.array(
            [
                any(kind in (None, s.kind) and character in (None, s.character) for s in self.table.signs[row])
                for row in self.rows
            ],
            dtype=np.float64,
        )

    def draws(self, has: Floats) -> Floats:
        """(epochs, draws) of the share of pictures that have it."""
        rng = np.random.default_rng(0)
        point = self.axes.knot[self.table.epoch[self.rows]]
        return local_draws(self.axes, point, has, WIDTH, 1.0, DRAWS, rng)[0, 0][self.axes.knot]


def _curve(about: Literal["kind", "character"], name: str, has: Floats, view: _View, margin: float) -> SignCurve:
    draws = view.draws(has)
    low, high = np.quantile(draws, [0.025, 0.975], axis=-1)
    return SignCurve(
        about=about,
        name=name,
        mean=draws.mean(axis=-1),
        low=low,
        high=high,
        pictures=int(has.sum()),
        breaks_at=_break(draws, view.table.epochs, margin),
    )


def _break(draws: Floats, epochs: Ints, margin: float) -> int | None:
    least = int(draws.mean(axis=-1).argmin())
    above = draws[least] + margin
    after = np.cumsum(draws[::-1], axis=0)[::-1] / np.arange(epochs.size, 0, -1)[:, None]
    risen = np.minimum((draws > above).mean(axis=-1), (after > above).mean(axis=-1)) >= SURE
    later = np.flatnonzero(risen[least + 1 :])
    return int(epochs[least + 1 + later[0]]) if later.size else None


def early_warnings(table: Table, past: Floats, margin: float, *, weight: int) -> tuple[EarlyWarning, ...]:
    """What goes wrong at one weight, by epoch: signs by kind and character, seeds that are lost, and overtraining.

    `past` is (epochs,): the probability that overtraining has begun.
    """
    view = _View.of(table, weight)
    found = [warning for sign in view.names(lambda sign: sign) for warning in _risen(view, sign, margin)]
    found += [
        EarlyWarning(epoch, f"seed {name} fails again: it had passed at {passed}")
        for name, epoch, passed in _lost_seeds(table, weight)
        if past[np.searchsorted(table.epochs, epoch)] < LATE
    ]
    looked_at = tally(table.epoch[view.rows], table.epochs.size) > 0
    begun = np.flatnonzero((past >= 0.5) & looked_at)
    if begun.size:
        epoch = int(table.epochs[begun[0]])
        found.append(EarlyWarning(epoch, "overtraining has begun, more likely than not"))
    return tuple(sorted(found, key=lambda warning: warning.epoch))


def _risen(view: _View, sign: Sign, margin: float) -> Iterator[EarlyWarning]:
    """Where a sign was first seen on pictures that passed, and where it had surely become more."""
    has = view.has(sign.kind, sign.character)
    draws, epochs = view.draws(has), view.table.epochs
    breaks_at = _break(draws, epochs, margin)
    named = f"{sign.kind} on {sign.character}" if sign.character else sign.kind
    if (first := _first_seen(view, has, breaks_at)) is not None:
        epoch, seen, pictures, before = first
        said = f"on {seen} of {pictures} pictures, passed ones among them; on none of {before} before"
        yield EarlyWarning(epoch, f"{named} is seen for the first time: {said}")
    if breaks_at is not None:
        mean = draws.mean(axis=-1)
        share = f"{100 * mean.min():.0f} % at best, {100 * mean[np.searchsorted(epochs, breaks_at)]:.0f} % here"
        yield EarlyWarning(breaks_at, f"{named} has become more: {share}")


def _first_seen(view: _View, has: Floats, until: int | None) -> tuple[int, int, int, int] | None:
    """(epoch, pictures with the sign, pictures, pictures before it) where an unbroken run of epochs with it begins.

    The run ends before `until`, or at the newest epoch. None unless UNSEEN pictures before were all without the sign
    and one that first had it passed.
    """
    size = view.table.epochs.size
    epoch = view.table.epoch[view.rows]
    n, seen = tally(epoch, size), tally(epoch, size, has)
    scored = [at for at in np.flatnonzero(n) if until is None or view.table.epochs[at] < until]
    first = None
    for at in reversed(scored):
        if not seen[at]:
            break
        first = at
    if first is None or seen[:first].any() or n[:first].sum() < UNSEEN:
        return None
    if not view.table.passed[view.rows[(epoch == first) & (has > 0)]].any():
        return None
    return int(view.table.epochs[first]), int(seen[first]), int(n[first]), int(n[:first].sum())


def _lost_seeds(table: Table, weight: int) -> list[tuple[str, int, int]]:
    """Named seeds that fail at their last epochs after having passed: (seed, first failing epoch, last passed one).

    Of at least two pictures each way, and more failures in a row than the seed's own rate before would let one expect
    one time in ten: a few unlucky pictures are no loss.
    """
    lost = []
    mine = table.scored & (table.weight == weight)
    several = len(table.contexts) > 1
    for number, (context, name) in enumerate(table.seeds):
        rows = np.flatnonzero(mine & (table.seed == number))
        rows = rows[np.argsort(table.epoch[rows], kind="stable")]
        passed = table.passed[rows] > 0
        if not name or passed.sum() < 2:
            continue
        last_pass = int(np.flatnonzero(passed)[-1])
        failures = passed.size - last_pass - 1
        before = passed[max(0, last_pass + 1 - max(4, failures)) : last_pass + 1]
        rate = (before.sum() + 0.5) / (before.size + 1)
        if failures >= 2 and (1 - rate) ** failures <= 0.1:
            at, until = table.epochs[table.epoch[rows[last_pass + 1]]], table.epochs[table.epoch[rows[last_pass]]]
            lost.append((f"{name} ({context})" if several else name, int(at), int(until)))
    return lost
