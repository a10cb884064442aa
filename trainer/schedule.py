"""The learning rate of every step. Torch-free."""

from __future__ import annotations

import math

from trainer.config import TrainConfig

FLOOR = 0.02
"""What a falling rate falls to, as a share of the learning rate."""


def learning_rate_at(step: int, steps: int, config: TrainConfig) -> float:
    """Learning rate of a 0-based optimizer step of `steps`."""
    rising = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.lr_schedule == "constant":
        return config.learning_rate * rising
    left = 0.5 + 0.5 * math.cos(math.pi * step / steps) if config.lr_schedule == "cosine" else 1 - step / steps
    return config.learning_rate * rising * (FLOOR + (1 - FLOOR) * left)
