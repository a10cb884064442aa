"""A scripted crew's workers: they write real files where the real ones would, and what they report follows a script.

An epoch passes the seeds below a threshold that rises with it, so choices are known beforehand. Every call is counted
in files on the volume, which survive the process that made them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from evaluators.config import DecideConfig, GridConfig
from orchestrator.core.errors import AdapterError
from orchestrator.core.files import write_whole
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Checkpoint, Finding, Sample, Verdict
from orchestrator.crew.work import Slice
from orchestrator.planning.wanted import Target, TrialTarget
from trainer.checkpoints import intact_checkpoints, publish
from trainer.facts import StepLogged

JUDGE = ("scripted", 1)
PASSES = {1: 0, 2: 1, 3: 4, 4: 4, 5: 4, 6: 3, 7: 0, 8: 0}
"""How many of the seeds 1 to 4 pass, by epoch."""


def target(
    *,
    epochs: int = 6,
    trials: Sequence[str] = ("main-00000001",),
    seeds: object = (1, 2, 3, 4),
    weights: Sequence[float] = (1.0,),
    confirm_seeds: int = 5,
    margin: float = 0.1,
    judge: tuple[str, int] | None = JUDGE,
) -> Target:
    """What the scripted study wants."""
    grid = GridConfig.model_validate(
        {
            "prompts": [{"name": "trio", "text": "a and b", "cast": ["a", "b"]}],
            "seeds": seeds,
            "weights": weights,
            "batch": 2,
        }
    )
    all_epochs = tuple(range(1, epochs + 1))
    return Target(
        trials=tuple(TrialTarget(t, epochs, all_epochs, all_epochs) for t in trials),
        grid=grid,
        decide=DecideConfig(margin=margin, confirm_seeds=confirm_seeds),
        judge=judge,
        base_sha256="b" * 64,
    )


def adapter_bytes(trial: str, epoch: int) -> bytes:
    """The scripted adapter of an epoch: retraining makes the same one."""
    return f"adapter of {trial} at epoch {epoch}".encode()


def checkpoint(trial: str, epoch: int) -> Checkpoint:
    """The record of a scripted epoch."""
    data = adapter_bytes(trial, epoch)
    return Checkpoint(
        trial,
        epoch,
        f"trials/{trial}/epoch-{epoch:04d}/adapter.safetensors",
        sha256(data).hexdigest(),
        len(data),
        10 * epoch,
        1 / epoch,
        float(epoch),
        0.5,
    )


def passes(cell: Cell) -> bool:
    """The script: selecting seeds 1 to 4 pass up to PASSES of the epoch; one fresh seed in five fails."""
    if cell.purpose == "confirm":
        return cell.seed % 5 != 0
    return cell.seed <= PASSES[cell.epoch]


@dataclass(frozen=True)
class ScriptedWorkers:
    """Workers that write under `root` and never draw twice without leaving a trace of it."""

    root: Path
    epochs: int = 6
    counted: bool = field(default=True)

    def trainer(self, trial: str, attempt: int = 0) -> ScriptedTrainer:  # noqa: ARG002
        return ScriptedTrainer(self, trial)

    def artist(self) -> ScriptedArtist:
        return ScriptedArtist(self)

    def critic(self) -> ScriptedCritic:
        return ScriptedCritic()

    def count(self, what: str) -> None:
        """Leave a trace."""
        with (self.root.parent / "calls.txt").open("a") as stream:
            stream.write(what + "\n")

    def calls(self) -> list[str]:
        """Every trace so far."""
        file = self.root.parent / "calls.txt"
        return file.read_text().splitlines() if file.exists() else []


class ScriptedTrainer:
    """Saves one missing epoch a turn, oldest first."""

    def __init__(self, workers: ScriptedWorkers, trial: str) -> None:
        self.workers, self.trial, self.layout = workers, trial, Layout(workers.root)
        present = intact_checkpoints(self.layout, trial)
        self.missing = [e for e in range(1, workers.epochs + 1) if e not in present]

    def advance(self, turn_s: float) -> Slice:
        if not self.missing:
            return Slice(done=True)
        epoch = self.missing.pop(0)
        self.workers.count(f"train {self.trial} {epoch}")
        saved = checkpoint(self.trial, epoch)
        write_whole(self.layout.adapter(self.trial, epoch), adapter_bytes(self.trial, epoch))
        publish(self.layout, saved)
        return Slice((StepLogged(self.trial, epoch, 10 * epoch, 10, 0.1, 1e-3, turn_s / 10),), (saved,))


class ScriptedArtist:
    """Writes a small file per cell, with the sidecar the real engine writes; refuses a corrupt adapter."""

    def __init__(self, workers: ScriptedWorkers) -> None:
        self.workers, self.layout = workers, Layout(workers.root)

    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        adapter = self.layout.resolve(cells[0].adapter)
        if not adapter.exists() or file_sha256(adapter) != cells[0].adapter_sha256:
            raise AdapterError("not the recorded adapter", where=str(adapter))
        return [self._draw(cell) for cell in cells]

    def _draw(self, cell: Cell) -> Sample:
        self.workers.count(f"draw {cell.trial} {cell.epoch} {cell.weight} {cell.seed}")
        image = self.layout.image(cell.trial, cell.epoch, cell.key)
        data = f"picture of {cell.key}".encode()
        digest = sha256(data).hexdigest()
        sidecar = {"cell_key": cell.key, "image_sha256": digest, "seconds": 0.25}
        write_whole(image.with_suffix(".json"), json.dumps(sidecar))
        write_whole(image, data)
        return Sample(cell.key, self.layout.relative(image), digest, 0.25)


class ScriptedCritic:
    """Passes and fails by script."""

    def judge(self, cells: Sequence[Cell], samples: Sequence[Sample]) -> list[Verdict]:
        assert [s.cell_key for s in samples] == [c.key for c in cells]
        missing = (Finding("missing", "a", "ahoge", "ahoge"),)
        return [Verdict(c.key, *JUDGE, "pass") if passes(c) else Verdict(c.key, *JUDGE, "fail", missing) for c in cells]
