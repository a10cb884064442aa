"""What a trial tells the world while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.study import Checkpoint, Record


@dataclass(frozen=True, slots=True)
class EpochStarted(Record):
    """An epoch begins; epochs count from 1."""

    trial: str
    epoch: int
    steps: int


@dataclass(frozen=True, slots=True)
class StepLogged(Record):
    """One optimizer step: its mean loss over the pictures behind it, and how long it took."""

    trial: str
    epoch: int
    step: int
    """Counted over the whole trial, from 1."""
    steps_per_epoch: int
    loss: float
    learning_rate: float
    seconds: float
    by_character: Mapping[str, float] = field(default_factory=dict)
    """Mean error, without weights, of the exposures that show each character."""
    memory_mb: int | None = None
    """Most memory used so far: the GPU's where there is one, else this process's. None where it cannot be told."""


@dataclass(frozen=True, slots=True)
class CheckpointSaved(Record):
    """An epoch is on the volume, whole, with its commit marker."""

    checkpoint: Checkpoint


TrialFact = EpochStarted | StepLogged | CheckpointSaved
