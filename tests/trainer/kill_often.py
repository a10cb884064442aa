"""Trains a trial in child processes that kill themselves at a random micro-step, and then in one that may live.

    python kill_often.py STUDY DATASET SEED KILLS EPOCHS     prints how often a child was killed

Torch is imported once and each attempt is a fork, so that twenty kills take seconds; the signal is the real one.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import trainer.session
from anima.load import Base, load_base
from tests.trainer.pocket_trials import VARIED, make_job
from trainer.config import TrainConfig
from trainer.trial import run_trial

LONGEST = 5
"""Micro-steps a child lives at most: just longer than from one state to the next, so that some get on."""


def train_until_killed(study: Path, dataset: Path, train: TrainConfig, lives: int | None) -> None:
    """Train; die in the transformer's forward pass after number `lives`."""
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if lives is not None and passes > lives:
            os.kill(os.getpid(), signal.SIGKILL)

    def load(*arguments: Any, **named: Any) -> Base:
        base = load_base(*arguments, **named)
        base.transformer.register_forward_pre_hook(count)
        return base

    trainer.session.load_base = load  # type: ignore[attr-defined]
    for _ in run_trial(make_job(study, dataset, train)):
        pass


def main(study: Path, dataset: Path, seed: int, kills: int, epochs: int) -> int:
    """Returns how many children were killed; fewer than asked for when one got to the end before its time."""
    train = VARIED.model_copy(update={"epochs": epochs})
    rng = random.Random(seed)
    for killed in range(kills + 1):
        lives = rng.randint(1, LONGEST) if killed < kills else None
        child = os.fork()
        if child == 0:
            train_until_killed(study, dataset, train, lives)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "a child failed by itself"
            return killed
    raise AssertionError("the trial never came to its end")


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])))
