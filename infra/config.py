"""Where a study runs: the volume that keeps everything, and the machines that do the work."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClusterConfig(_Frozen):
    """Who does the work. `local` is this machine with Ray; `inline` is this very process, one thing after another."""

    provider: Literal["local", "inline"] = "local"
    device: Literal["cpu", "cuda"] = "cpu"
    """What the trainer and the inference actors compute on; they share a GPU when there is only one."""
    inference_actors: PositiveInt = 1
    """How many actors draw at the same time."""
    threads: int = Field(1, ge=0)
    """CPU threads of each inference actor; 0 leaves torch's choice."""
    object_store_mb: int = Field(80, ge=80)
    """Ray's shared memory; pictures never travel through it."""
    attempts: PositiveInt = 3
    """How often a piece of work is tried before it counts as failed."""
    back_off_s: PositiveFloat = 1.0
    """Pause before the second attempt; it doubles with every further one."""
    silence_s: PositiveFloat = 600.0
    """An actor that has work and reports nothing for so long is taken for dead."""
