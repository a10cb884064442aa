"""What must exist in the end, as values: trials with their epochs, the grid, and how to decide."""

from __future__ import annotations

from dataclasses import dataclass

from evaluators.config import DecideConfig, GridConfig


@dataclass(frozen=True, slots=True)
class TrialTarget:
    """A trial by its identity, and the epochs that must be saved and drawn of it (ascending)."""

    trial: str
    epochs: int
    saved: tuple[int, ...]
    drawn: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """What must exist in the end. `judge` is (name, version), or None when pictures are only drawn."""

    trials: tuple[TrialTarget, ...]
    grid: GridConfig
    decide: DecideConfig
    judge: tuple[str, int] | None
    base_sha256: str
    dollars_per_hour: float | None = None
    """What an hour of the machine costs; None when nobody said."""
