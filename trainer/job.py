"""What a trainer is asked to do. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import DatasetConfig, TrainConfig


@dataclass(frozen=True, slots=True)
class TrialJob:
    """Everything a trainer needs to know; picklable, and the same on every machine that shares the volume."""

    trial: str
    study_root: str
    base: str
    base_sha256: str
    dataset_root: str
    dataset: DatasetConfig
    train: TrainConfig
    triggers: tuple[str, ...]
    dataset_sha256: str = ""
    """What the dataset was when the trial was planned; empty takes it as it is."""
    attempt: int = 0
    """Of several attempts at one trial only the highest may publish; 0 takes the next number."""
