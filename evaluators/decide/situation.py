"""What a policy is asked about, as values: what may be drawn, what was asked, what came back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from evaluators.decide.process import Process
from evaluators.decide.table import ANYTHING, Context, Row, Table, make_table


class Ask(NamedTuple):
    """A picture to draw. Weight 0 is the base without the adapter, whatever the epoch: a control."""

    epoch: int
    weight: float
    context: Context
    seed: int


@dataclass(frozen=True)
class Space:
    """What may be drawn at all."""

    planned: tuple[int, ...]
    """Epochs that will have been saved when training ends, ascending."""
    seeds: tuple[int, ...]
    """Seeds to begin with; further ones count up from the largest."""
    weights: tuple[float, ...] = (1.0,)
    contexts: tuple[Context, ...] = (ANYTHING,)
    prompt_weights: tuple[tuple[str, float], ...] = ()
    """How much each prompt counts in the rate; those left out count 1."""

    reserved: range = range(0)
    """Seeds that are kept for something else."""

    def unused_seeds(self, used: Iterable[int]) -> Iterator[int]:
        """Seeds nobody has used yet: those of the space first, then new ones."""
        taken = set(used)
        beyond = (seed for seed in count(max(self.seeds, default=0) + 1) if seed not in self.reserved)
        return (seed for seeds in (self.seeds, beyond) for seed in seeds if seed not in taken)


@dataclass(frozen=True)
class Situation:
    """What is known when a policy is asked."""

    space: Space
    saved: tuple[int, ...]
    """Epochs that can be drawn now, ascending."""
    rows: tuple[Row, ...] = ()
    """Verdicts so far, of one trial."""
    asked: frozenset[Ask] = frozenset()
    """Everything asked so far, whatever became of it."""
    pending: frozenset[Ask] = frozenset()
    """Asks that may still get a verdict; an ask that is neither here nor judged is lost, and not asked again."""
    budget: int | None = None
    """Pictures that may be asked for in all."""
    previous: Process | None = field(default=None, compare=False, repr=False)
    """An earlier fit to start from: saves time, changes nothing."""

    @property
    def trained(self) -> bool:
        """Whether every planned epoch is there."""
        return set(self.space.planned) <= set(self.saved)

    @property
    def left(self) -> int:
        """Pictures the budget still allows."""
        return 10**9 if self.budget is None else max(0, self.budget - len(self.asked))

    def table(self) -> Table:
        """The rows with every planned epoch, weight and context on the axes."""
        space = self.space
        return make_table(self.rows, epochs=space.planned, weights=space.weights, contexts=space.contexts)
