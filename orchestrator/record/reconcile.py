"""Compare what is recorded with what is on the volume, before anything is built upon it.

Recorded but missing or changed: set apart, and forgotten, so that it is made again. On the volume but not recorded (the
driver died between the two): adopted if its own marker bears it out, never trusted blindly. Nothing here acts; the
controller records what these functions find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from evaluators.sidecar import read_sample
from infra.volume import LocalVolume
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Checkpoint, Sample
from orchestrator.record.state import StudyState


@dataclass(frozen=True, slots=True)
class LostCheckpoint:
    """A recorded adapter that is not there any more, or not what was recorded."""

    checkpoint: Checkpoint
    reason: str


@dataclass(frozen=True, slots=True)
class LostSample:
    """A recorded picture that is not there any more, or not what was recorded."""

    sample: Sample
    reason: str


Loss = LostCheckpoint | LostSample


def lost_checkpoints(checkpoints: Iterable[Checkpoint], volume: LocalVolume) -> Iterator[LostCheckpoint]:
    """Those whose adapter fails its checksum."""
    for checkpoint in checkpoints:
        condition = volume.condition(checkpoint.adapter, checkpoint.sha256)
        if condition != "whole":
            yield LostCheckpoint(checkpoint, f"adapter is {condition}")


def lost_samples(samples: Iterable[Sample], volume: LocalVolume) -> Iterator[LostSample]:
    """Those whose picture fails its checksum."""
    for sample in samples:
        condition = volume.condition(sample.image, sample.sha256)
        if condition != "whole":
            yield LostSample(sample, f"picture is {condition}")


def losses(state: StudyState, volume: LocalVolume) -> Iterator[Loss]:
    """Everything recorded that is not on the volume as it was recorded."""
    yield from lost_checkpoints(state.checkpoints.values(), volume)
    yield from lost_samples(state.samples.values(), volume)


def unrecorded_checkpoints(
    trials: Iterable[str], state: StudyState, published: Callable[[str], Iterable[Checkpoint]]
) -> Iterator[Checkpoint]:
    """Epochs with a commit marker that the ledger does not know; their checksum is still to be looked at."""
    for trial in trials:
        for checkpoint in published(trial):
            if (checkpoint.trial, checkpoint.epoch) not in state.checkpoints:
                yield checkpoint


def unrecorded_sample(cell: Cell, volume: LocalVolume) -> Sample | None:
    """The picture of a cell that is on the volume with a sidecar that bears it out."""
    sample = read_sample(volume.layout, cell)
    if sample is None or volume.condition(sample.image, sample.sha256) != "whole":
        return None
    return sample


def files_of(loss: Loss, layout: Layout) -> tuple[Path, ...]:
    """What is set apart with a lost thing: an epoch's whole folder, a picture and its sidecar."""
    if isinstance(loss, LostCheckpoint):
        return (layout.checkpoint(loss.checkpoint.trial, loss.checkpoint.epoch),)
    image = layout.resolve(loss.sample.image)
    return (image, image.with_suffix(".json"))
