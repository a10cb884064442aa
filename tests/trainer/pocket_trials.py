"""Trials on the real miniature, small enough for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from anima.adapter_files import read_adapter
from anima.base import POCKET, base_sha256
from orchestrator.core.fence import Fence
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint
from tests.trainer.small_datasets import TRIGGERS
from trainer.buckets import training_fits
from trainer.config import BucketConfig, DatasetConfig, DrawnDataset, TrainConfig
from trainer.drawn import ensure_drawn_dataset
from trainer.facts import CheckpointSaved, StepLogged, TrialFact
from trainer.session import Session
from trainer.team import Team
from trainer.trial import TrialJob, trial_dataset

TRAIN = TrainConfig(
    epochs=3,
    rank=4,
    learning_rate=1e-3,
    batch=2,
    grad_accum=2,
    caption_dropout=0.2,
    resolution=(96, 64),
    dtype="fp32",
    threads=1,
)


def make_job(study: Path, dataset_root: Path, train: TrainConfig = TRAIN, **dataset: object) -> TrialJob:
    """A trial named `main`."""
    return TrialJob(
        trial="main",
        study_root=str(study),
        base="pocket",
        base_sha256=base_sha256(POCKET),
        dataset_root=str(dataset_root),
        dataset=DatasetConfig.model_validate(dataset),
        train=train,
        triggers=TRIGGERS,
    )


def make_session(job: TrialJob) -> Session:
    """A session at the start, on one thread."""
    torch.set_num_threads(1)
    layout = Layout(Path(job.study_root))
    dataset = trial_dataset(job, layout)
    return Session(job, layout, dataset, training_fits(dataset, job.train), Team(), Fence(layout.attempt(job.trial)))


def saved(facts: Iterable[TrialFact]) -> list[Checkpoint]:
    """The checkpoints among facts."""
    return [fact.checkpoint for fact in facts if isinstance(fact, CheckpointSaved)]


def losses(facts: Iterable[TrialFact]) -> list[float]:
    """The losses of the steps among facts."""
    return [fact.loss for fact in facts if isinstance(fact, StepLogged)]


def timeless(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Without how long they took."""
    return [replace(c, seconds=0.0) for c in checkpoints]


def weights_sha256(layout: Layout, checkpoint: Checkpoint) -> str:
    """Hash of the tensors alone."""
    state = read_adapter(layout.resolve(checkpoint.adapter)).state
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


VARIED = TRAIN.model_copy(
    update={
        "epochs": 3,
        "state_every_steps": 2,
        "lr_schedule": "cosine",
        "warmup_steps": 2,
        "weight_decay": 0.01,
        "shuffle_caption": True,
        "tag_dropout": 0.2,
        "flip_augment": True,
        "flip_forced": True,
        "balance": "per_character",
        "loss_weighting": "min_snr",
        "buckets": BucketConfig(step=16, min_side=48, max_side=128),
    }
)
"""Everything that is drawn, switched on."""


def varied_dataset(root: Path) -> Path:
    """Pictures of several shapes, an uneven cast, several captions, pictures of nobody: for VARIED."""
    ensure_drawn_dataset(root, DrawnDataset(solo=1, pair=1, trio=1))
    for number, size in enumerate([(64, 96), (80, 80), (64, 96)]):
        picture = Image.open(root / "kanachan-001.png").resize(size)
        picture.putpixel((0, 0), (number, 0, 0))
        picture.save(root / f"extra-{number}.png")
        (root / f"extra-{number}.txt").write_text("kanachan, 1girl, solo, smile, white background")
    return root
