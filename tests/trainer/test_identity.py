"""A trial's name: the same for the same weights, kept when the project learns new settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.planning.config import load_config
from trainer.config import SamplesConfig, TrainConfig
from trainer.identity import trial_id

QUICKSTART = load_config(Path("conf/quickstart.yaml")).trials["main"]


def named(train: TrainConfig) -> str:
    return trial_id("main", train, triggers=("a", "b"), dataset_sha256="d" * 64, base_sha256="b" * 64)


def test_settings_of_the_first_version_keep_their_names() -> None:
    """Trials that were trained then are found again."""
    fixed = TrainConfig(rank=16, learning_rate=1.5e-3, batch=8, grad_accum=1, resolution=(96, 64), dtype="fp32")
    assert named(fixed) == "main-e76042f1"
    assert named(fixed.model_copy(update={"lr_schedule": "cosine"})) == "main-626a79d9"


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 7},
        {"threads": 3},
        {"save_every": 5},
        {"keep_states": 9},
        {"checkpointing": "on"},
        {"state_every_steps": 3},
        {"compile": True},
        {"samples": SamplesConfig(every=3)},
    ],
)
def test_what_changes_no_weight_changes_no_name(setting: dict) -> None:
    assert named(QUICKSTART.model_copy(update=setting)) == named(QUICKSTART)


@pytest.mark.parametrize(
    "setting",
    [
        {"rank": 8},
        {"seed": 1},
        {"buckets": {"step": 32}},
        {"lr_schedule": "cosine"},
        {"dtype": "bf16"},
        {"balance": "per_character"},
        {"optimizer": "muon"},
        {"sigma_mean": 0.5},
        {"shuffle_caption": True},
    ],
)
def test_what_changes_weights_changes_the_name(setting: dict) -> None:
    assert named(TrainConfig.model_validate(QUICKSTART.model_dump() | setting)) != named(QUICKSTART)


def test_under_a_falling_rate_the_number_of_epochs_counts() -> None:
    falling = QUICKSTART.model_copy(update={"lr_schedule": "cosine"})
    assert named(falling) != named(falling.model_copy(update={"epochs": 150}))
