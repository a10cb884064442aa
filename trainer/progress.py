"""`state.json`: where a trial stands, in one small file that any other program may read at any time.

Its keys are those that monitors of AnimaLoraToolkit read (losses, lr_history, epoch, step, total_steps, speed, samples,
start_time, config), and more. It follows from the metrics and is never read back. Torch-free.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.core.fence import Fence
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from trainer.balance import Exposures
from trainer.facts import StepLogged
from trainer.job import TrialJob
from trainer.metrics import logged_steps

POINTS = 1000
"""Longest curve: where there are more steps, every so many are left out."""
SMOOTHING = 0.1
"""Weight of the newest step in the running means of speed and loss."""
EVERY_S = 2.0
"""The file is written at most this often between epochs."""

Status = Literal["training", "stopped", "failed", "finished"]


@dataclass(slots=True)
class Progress:
    """What is known of a trial while it trains; `tell` and `shown` keep it and the file up to date."""

    job: TrialJob
    steps_per_epoch: int
    fence: Fence
    began: float = field(default_factory=time.time)
    _steps: list[Mapping[str, Any]] = field(default_factory=list)
    _seconds: float | None = None
    _loss: float | None = None
    _exposures: Mapping[str, Any] = field(default_factory=dict)
    _samples: list[Mapping[str, Any]] = field(default_factory=list)
    _written: float = float("-inf")

    def begin(self, step: int) -> None:
        """Training starts, or goes on, after step `step` (0 is the start)."""
        self._steps = [row for row in logged_steps(self._layout.metrics(self.job.trial)) if row["step"] <= step]
        self._seconds = self._loss = None
        for row in self._steps:
            self._average(row["seconds"], row["loss"])
        self._samples = []
        for epoch in range(step // self.steps_per_epoch + 1):
            self._add_samples(epoch, sorted(self._layout.samples(self.job.trial, epoch).glob("*.png")))
        self.write("training")

    def tell(self, fact: StepLogged) -> None:
        """A step was made."""
        self._steps.append(fact.to_json() | {"time": time.time()})
        self._average(fact.seconds, fact.loss)
        if time.monotonic() - self._written >= EVERY_S:
            self.write("training")

    def shown(self, epoch: int, exposures: Exposures) -> None:
        """An epoch is over: what has been shown so far."""
        characters = dict(exposures.characters)
        self._exposures = {"epoch": epoch, "per_image": exposures.per_image, "characters": characters}
        self.write("training")

    def drawn(self, epoch: int, pictures: Sequence[Path]) -> None:
        """Samples of an epoch are on disk."""
        self._samples = [row for row in self._samples if row["epoch"] != epoch]
        self._add_samples(epoch, pictures)
        self.write("training")

    def write(self, status: Status, reason: str = "") -> None:
        """Write the file, unless a newer attempt at the trial does."""
        if self.fence.newest != self.fence.attempt:
            return
        facts = self.facts() | {"status": status, "reason": reason}
        write_whole(self._layout.progress(self.job.trial), json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        self._written = time.monotonic()

    def facts(self) -> dict[str, Any]:
        """Everything the file says but how it ends."""
        train, last = self.job.train, self._steps[-1] if self._steps else {}
        step, total = last.get("step", 0), train.epochs * self.steps_per_epoch
        curve = self._steps[:: -(-(-len(self._steps) // POINTS) or 1)][::-1]
        return {
            "trial": self.job.trial,
            "epoch": last.get("epoch", 0),
            "epochs": train.epochs,
            "step": step,
            "total_steps": total,
            "loss": self._loss,
            "by_character": last.get("by_character", {}),
            "learning_rate": last.get("learning_rate"),
            "speed": 1 / self._seconds if self._seconds else None,
            "pictures_per_second": train.images_per_step / self._seconds if self._seconds else None,
            "eta_seconds": (total - step) * self._seconds if self._seconds else None,
            "memory_mb": last.get("memory_mb"),
            "exposures": self._exposures,
            "start_time": self.began,
            "time": time.time(),
            "samples": self._samples[-50:],
            "losses": [{"step": r["step"], "loss": r["loss"], "time": r.get("time")} for r in curve],
            "lr_history": [{"step": row["step"], "lr": row["learning_rate"]} for row in curve],
            "config": {
                "model": self.job.base,
                "rank": train.rank,
                "alpha": train.alpha or float(train.rank),
                "epochs": train.epochs,
                "batch_size": train.batch,
                "grad_accum": train.grad_accum,
                "lr": train.learning_rate,
                "resolution": list(train.resolution),
                "data_dir": self.job.dataset_root,
            },
        }

    @property
    def _layout(self) -> Layout:
        return Layout(Path(self.job.study_root))

    def _add_samples(self, epoch: int, pictures: Sequence[Path]) -> None:
        for path in pictures:
            row = {"path": self._layout.relative(path), "epoch": epoch, "step": epoch * self.steps_per_epoch}
            self._samples.append(row | {"time": path.stat().st_mtime})

    def _average(self, seconds: float, loss: float) -> None:
        old_s, old_loss = (
            (seconds, loss) if self._seconds is None or self._loss is None else (self._seconds, self._loss)
        )
        self._seconds = old_s + SMOOTHING * (seconds - old_s)
        self._loss = old_loss + SMOOTHING * (loss - old_loss)


@contextmanager
def ending(progress: Progress | None) -> Iterator[None]:
    """Say in the file how training ends: to the end, by an error, or because nobody wants more of it."""
    if progress is None:
        yield
        return
    try:
        yield
    except GeneratorExit:
        progress.write("stopped")
        raise
    except BaseException as error:
        progress.write("stopped" if isinstance(error, KeyboardInterrupt) else "failed", str(error) or repr(error))
        raise
    progress.write("finished")
