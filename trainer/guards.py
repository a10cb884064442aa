"""What is done when a step fails: numbers that are none stop before they reach the adapter.

A loss or gradient that is not finite is computed once more from the last training state; if it comes again, the trial
is marked as diverged, with the pictures it happened on, and is not trained again until the mark is removed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.errors import StudyError
from orchestrator.core.files import write_whole

MARK = "diverged.json"


class DivergedError(StudyError):
    """A trial whose loss or gradient stops being a number, twice."""


class NotFinite(Exception):
    """A step whose loss or gradient is not finite. The optimizer has not seen it."""

    def __init__(self, what: str, epoch: int, step: int, pictures: Sequence[str]) -> None:
        super().__init__(what)
        self.what, self.epoch, self.step, self.pictures = what, epoch, step, tuple(pictures)

    def __str__(self) -> str:
        some = ", ".join(self.pictures[:4]) + (f" and {len(self.pictures) - 4} more" if len(self.pictures) > 4 else "")
        return f"the {self.what} is not a number at step {self.step} in epoch {self.epoch} (pictures: {some})"


def mark_diverged(folder: Path, trial: str, fault: NotFinite) -> DivergedError:
    """Write down what happened; gives the error to raise."""
    facts = {"what": fault.what, "epoch": fault.epoch, "step": fault.step, "pictures": list(fault.pictures)}
    write_whole(folder / MARK, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return _error(folder, trial, fault)


def refuse_diverged(folder: Path, trial: str) -> None:
    """Raise DivergedError for a trial that bears the mark."""
    path = folder / MARK
    if path.exists():
        facts = json.loads(path.read_text(encoding="utf-8"))
        fault = NotFinite(facts["what"], facts["epoch"], facts["step"], facts["pictures"])
        raise _error(folder, trial, fault)


def _error(folder: Path, trial: str, fault: NotFinite) -> DivergedError:
    return DivergedError(
        f"diverged: {fault}",
        where=trial,
        fix=f"look at these pictures, or lower train.learning_rate; to try it unchanged, remove {folder / MARK}",
    )
