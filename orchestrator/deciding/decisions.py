"""Decisions, as values: what should start now, and what is under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.core.study import Cell, Choice

Role = Literal["train", "draw", "judge"]


@dataclass(frozen=True, slots=True)
class Train:
    """Train a trial until all its epochs are saved; it resumes by itself from what is on the volume."""

    trial: str

    @property
    def name(self) -> str:
        return f"train {self.trial}"


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw these cells; they share adapter and weight."""

    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        first = self.cells[0]
        return f"draw {first.trial} epoch {first.epoch} weight {first.weight:g} {first.prompt.name} {first.purpose}"


@dataclass(frozen=True, slots=True)
class Judge:
    """Judge the pictures of these cells; they share trial and epoch."""

    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        return f"judge {self.cells[0].trial} epoch {self.cells[0].epoch} {self.cells[0].purpose}"


@dataclass(frozen=True, slots=True)
class Halt:
    """Let go of training that is under way: its trial was stopped."""

    work: Train


@dataclass(frozen=True, slots=True)
class Adopt:
    """Record this choice."""

    choice: Choice


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do."""


Work = Train | Draw | Judge
Decision = Work | Halt | Adopt | Finish


@dataclass(frozen=True, slots=True)
class Standing:
    """What is under way and what may be asked for: work in flight, names of work to leave alone, and free hands."""

    in_flight: frozenset[Work] = frozenset()
    held: frozenset[str] = frozenset()
    """Names of work that failed: it rests before its next attempt, or was given up."""
    slots: Mapping[Role, int] = field(default_factory=lambda: {"train": 1, "draw": 1, "judge": 1})

    def free(self, kind: type[Train] | type[Draw] | type[Judge]) -> int:
        """How many more pieces of this kind of work may start now."""
        name: Role = "train" if kind is Train else "draw" if kind is Draw else "judge"
        return self.slots[name] - sum(isinstance(work, kind) for work in self.in_flight)

    def busy_keys(self, kind: type[Draw] | type[Judge]) -> set[str]:
        """Keys of the cells this kind of work is already dealing with."""
        return {cell.key for work in self.in_flight if isinstance(work, kind) for cell in work.cells}
