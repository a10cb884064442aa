"""Outcomes as arrays: what every picture of one trial came to, by epoch, weight, context and seed.

A context is what is drawn: prompt and layout. Weight 0 is the base without the adapter: such pictures are the control
and belong to no epoch. Order never matters, and a picture judged twice counts once, with what was said last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.study import Cell, Outcome, Verdict

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Axis = TypeVar("Axis")


def tally(at: Ints, size: int, votes: NDArray[Any] | None = None) -> Floats:
    """How often each number from 0 to `size` - 1 occurs, or the sum of the votes there."""
    return np.bincount(at, votes, size).astype(np.float64)


class Context(NamedTuple):
    """What is drawn, apart from the adapter and the seed."""

    prompt: str = ""
    layout: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in self if part) or "all pictures"


ANYTHING = Context()
"""The only context of a table that names none."""


class Sign(NamedTuple):
    """One observation on a picture: what kind, and on whom ('' for the whole picture)."""

    kind: str
    character: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One judged picture. An empty seed means that nobody knows it: the picture shares its seed with no other."""

    epoch: int
    outcome: Outcome
    seed: str = ""
    weight: float = 1.0
    context: Context = ANYTHING
    trial: str = ""
    signs: tuple[Sign, ...] = ()
    """What speaks against it. On a picture that passed, a sign is a warning."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one trial. `epoch`, `weight`, `context` and `seed` index the axes below; all have one entry per row.

    Rows are in the order of (weight, context, epoch, seed), so equal tables are equal arrays. Seeds are numbered
    0 to `seeds.size` - 1; `passed` is 1.0 or 0.0, and means nothing where `scored` is False.
    """

    epochs: Ints
    """Distinct epochs, ascending."""
    weights: tuple[float, ...]
    contexts: tuple[Context, ...]
    seeds: tuple[tuple[Context, str], ...]
    """A seed is its number and what is drawn from it: another prompt or size makes another picture of the same noise.
    A seed nobody knows has an empty name."""
    epoch: Ints
    weight: Ints
    context: Ints
    seed: Ints
    passed: Floats
    scored: NDArray[np.bool_]
    signs: tuple[tuple[Sign, ...], ...]
    trial: str = ""
    repeated: int = 0
    """Rows left out because the same picture was judged again."""
    contradicted: int = 0
    """How many of these said something else."""
    control: tuple[Row, ...] = field(default=(), repr=False)
    """Pictures of the base without the adapter."""

    @property
    def images(self) -> int:
        """Rows, scored or not."""
        return self.epoch.size

    @property
    def unscored(self) -> int:
        return int((~self.scored).sum())

    def counts(self) -> tuple[Floats, Floats, Floats]:
        """(passes, scored, unscored) of each arm: arrays of shape (weights, contexts, epochs)."""
        shape = (len(self.weights), len(self.contexts), self.epochs.size)
        arm = np.ravel_multi_index((self.weight, self.context, self.epoch), shape) if self.images else self.epoch
        size = int(np.prod(shape))
        passes = tally(arm, size, self.passed * self.scored)
        scored, unscored = tally(arm, size, self.scored), tally(arm, size, ~self.scored)
        return passes.reshape(shape), scored.reshape(shape), unscored.reshape(shape)

    def rows_where(self, mask: NDArray[np.bool_]) -> Table:
        """The same axes with only the rows of `mask`."""
        at = np.flatnonzero(mask)
        return Table(
            self.epochs,
            self.weights,
            self.contexts,
            self.seeds,
            self.epoch[at],
            self.weight[at],
            self.context[at],
            self.seed[at],
            self.passed[at],
            self.scored[at],
            tuple(self.signs[i] for i in at),
            trial=self.trial,
        )


def make_table(
    rows: Iterable[Row],
    *,
    epochs: Iterable[int] = (),
    weights: Iterable[float] = (),
    contexts: Iterable[Context] = (),
) -> Table:
    """The table of one trial's rows. The axes also hold what is named here, even without a picture of it.

    Raises ValueError when the rows belong to several trials.
    """
    kept, repeated, contradicted = _last_said(rows)
    if len({row.trial for row in kept}) > 1:
        raise ValueError("a table holds one trial; split the rows by trial first")
    control = tuple(row for row in kept if row.weight == 0)
    kept = [row for row in kept if row.weight != 0]
    epoch_axis = sorted({row.epoch for row in kept} | set(epochs))
    weight_axis = sorted({row.weight for row in kept} | set(weights))
    context_axis = sorted({row.context for row in kept} | set(contexts)) or [ANYTHING]
    names = sorted({(r.context, r.seed) for r in kept if r.seed}, key=lambda s: (_natural(s[1]), s[0]))
    unknown = count(len(names))
    epoch_of, weight_of, context_of, seed_of = (_codes(axis) for axis in (epoch_axis, weight_axis, context_axis, names))
    kept.sort(
        key=lambda r: (
            weight_of[r.weight],
            context_of[r.context],
            r.epoch,
            seed_of.get((r.context, r.seed), -1),
            r.outcome,
        )
    )
    seed = [seed_of[row.context, row.seed] if row.seed else next(unknown) for row in kept]
    nameless = [row.context for row in kept if not row.seed]
    return Table(
        epochs=np.array(epoch_axis, dtype=np.intp),
        weights=tuple(weight_axis) or (1.0,),
        contexts=tuple(context_axis),
        seeds=(*names, *((context, "") for context in nameless)),
        epoch=np.array([epoch_of[row.epoch] for row in kept], dtype=np.intp),
        weight=np.array([weight_of[row.weight] for row in kept], dtype=np.intp),
        context=np.array([context_of[row.context] for row in kept], dtype=np.intp),
        seed=np.array(seed, dtype=np.intp),
        passed=np.array([row.outcome == "pass" for row in kept], dtype=np.float64),
        scored=np.array([row.outcome != "unscored" for row in kept], dtype=np.bool_),
        signs=tuple(row.signs for row in kept),
        trial=next((row.trial for row in (*kept, *control)), ""),
        repeated=repeated,
        contradicted=contradicted,
        control=control,
    )


def by_trial(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each trial, in the order of the trials' names."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.trial, []).append(row)
    return dict(sorted(groups.items()))


def rows_of(cells: Iterable[Cell], verdicts: Mapping[str, Verdict]) -> list[Row]:
    """Rows of the judged cells that take part in choosing; `verdicts` is by cell key."""
    return [
        row_of(cell, verdict)
        for cell in cells
        if cell.purpose == "select" and (verdict := verdicts.get(cell.key)) is not None
    ]


def row_of(cell: Cell, verdict: Verdict) -> Row:
    """One judged cell."""
    size = f"{cell.drawing.width}x{cell.drawing.height}"
    signs = tuple(dict.fromkeys(Sign(f.kind, f.character) for f in verdict.findings))
    return Row(
        epoch=cell.epoch,
        outcome=verdict.outcome,
        seed=str(cell.seed),
        weight=cell.weight,
        context=Context(cell.prompt.name, size),
        trial=cell.trial,
        signs=signs,
    )


def _last_said(rows: Iterable[Row]) -> tuple[list[Row], int, int]:
    """Each picture once, and how many rows went, and how many of them contradicted what was said last."""
    last: dict[tuple[object, ...], Row] = {}
    said: Counter[tuple[object, ...]] = Counter()
    contradicted = 0
    for number, row in enumerate(rows):
        picture = (row.trial, row.epoch, row.weight, row.context, row.seed or number)
        if picture in last:
            contradicted += last[picture].outcome != row.outcome
        last[picture] = row
        said[picture] += 1
    return list(last.values()), sum(said.values()) - len(last), contradicted


def _codes(axis: Sequence[Axis]) -> dict[Axis, int]:
    return {value: at for at, value in enumerate(axis)}


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers by size before names by letter."""
    return (0, int(name), "") if name.isascii() and name.isdigit() and len(name) < 20 else (1, 0, name)
