"""Adapters of any trainer are found by epoch, by the names these trainers give them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from evaluators.config import GridConfig
from evaluators.sweep.adapters import as_checkpoints, folder_adapters, found_adapter, selected, trained_checkpoints
from orchestrator.core.errors import ConfigError, MissingError
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint


def file(path: Path, number: int = 0, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": np.full(4, number, np.float32)}, path, metadata or None)
    return path


@pytest.mark.parametrize(
    ("path", "name", "number", "by_step"),
    [
        ("out/kanachan-000010.safetensors", "kanachan", 10, False),
        ("out/kanachan.safetensors", "kanachan", None, False),
        ("out/trio_v2_epoch143.safetensors", "trio_v2", 143, False),
        ("out/trio_v2-Epoch-7.safetensors", "trio_v2", 7, False),
        ("out/trio_step00001200.safetensors", "trio", 1200, True),
        ("out/kanachan-step00000500.safetensors", "kanachan", 500, True),
        ("out/kanachan_000001500.safetensors", "kanachan", 1500, True),
        ("out/kanachan_v4.safetensors", "kanachan_v4", None, False),
        ("runs/20260101/epoch10/adapter_model.safetensors", "20260101", 10, False),
        ("trials/main-1234/epoch-0010/adapter.safetensors", "main-1234", 10, False),
    ],
)
def test_a_name_says_its_epoch(path: str, name: str, number: int | None, by_step: bool) -> None:
    found = found_adapter(Path(path))
    assert (found.name, found.number, found.by_step) == (name, number, by_step)


def test_a_folder_of_sd_scripts_ends_with_the_file_that_has_no_number(tmp_path: Path) -> None:
    for epoch in (2, 4):
        file(tmp_path / f"kei-{epoch:06d}.safetensors", epoch)
    file(tmp_path / "kei.safetensors", 5, ss_epoch="5")
    file(tmp_path / "kana.safetensors", 6)
    told: list[str] = []
    found = folder_adapters(tmp_path, tell=told.append)
    assert [(f.name, f.number) for f in found] == [("kana", 1), ("kei", 2), ("kei", 4), ("kei", 5)]
    assert told == ["kana.safetensors has no epoch in its name or metadata: taken as epoch 1"]


def test_a_last_file_of_unknown_epoch_is_the_one_after(tmp_path: Path) -> None:
    file(tmp_path / "kei_epoch148.safetensors", 1)
    file(tmp_path / "kei.safetensors", 2, ss_epoch="148")
    told: list[str] = []
    assert [f.number for f in folder_adapters(tmp_path, tell=told.append)] == [148, 149]
    assert told == ["kei.safetensors is a second one of epoch 148: taken as epoch 149"]


def test_files_by_step_give_way_to_files_by_epoch(tmp_path: Path) -> None:
    file(tmp_path / "kei_step500.safetensors", 1)
    assert [f.number for f in folder_adapters(tmp_path)] == [500]
    file(tmp_path / "kei_epoch3.safetensors", 2)
    told: list[str] = []
    assert [f.number for f in folder_adapters(tmp_path, tell=told.append)] == [3]
    assert "1 files of kei are numbered by step and left out" in told[0]


def test_folders_per_epoch_are_found(tmp_path: Path) -> None:
    for epoch in (1, 12):
        file(tmp_path / f"epoch{epoch}" / "adapter_model.safetensors", epoch)
    assert [(f.name, f.number) for f in folder_adapters(tmp_path)] == [(tmp_path.name, 1), (tmp_path.name, 12)]


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    file(tmp_path / "kei-000003.safetensors", 1)
    file(tmp_path / "kei_epoch3.safetensors", 2)
    with pytest.raises(ConfigError, match="are both epoch 3"):
        folder_adapters(tmp_path)


@pytest.mark.parametrize(("place", "said"), [("none", "there is no such folder"), (".", "holds no .safetensors")])
def test_nothing_is_said_in_one_line(tmp_path: Path, place: str, said: str) -> None:
    with pytest.raises(MissingError, match=said):
        folder_adapters(tmp_path / place)


def test_files_become_checkpoints_by_content_and_hashes_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = file(tmp_path / "häx s-000001.safetensors", 1), file(tmp_path / "häx s-000002.safetensors", 2)
    (tmp_path / "häx s-000003.safetensors").write_bytes(two.read_bytes())
    told: list[str] = []
    memory = tmp_path / "grid" / "adapters.json"
    made = as_checkpoints(folder_adapters(tmp_path), memory, tell=told.append)
    assert [(c.trial, c.epoch, c.sha256) for c, _ in made.values()] == [
        ("h-x-s", 1, file_sha256(one)),
        ("h-x-s", 2, file_sha256(two)),
    ]
    assert told == ["häx s-000003.safetensors is the same file as häx s-000002.safetensors, and is drawn once"]

    def never(path: Path) -> str:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr("evaluators.sweep.adapters.file_sha256", never)
    again = as_checkpoints(folder_adapters(tmp_path), memory)
    assert list(again) == list(made)


def test_only_epochs_that_are_drawn_are_read(tmp_path: Path) -> None:
    for epoch in range(1, 8):
        file(tmp_path / f"kei-{epoch:06d}.safetensors", epoch)
    file(tmp_path / "kana_step500.safetensors", 9)
    grid = {"prompts": [{"name": "p", "text": "a", "cast": ["a"]}], "seeds": [1], "epochs": {"every": 3}}
    found = selected(folder_adapters(tmp_path), GridConfig.model_validate(grid))
    assert [(f.name, f.number) for f in found] == [("kana", 500), ("kei", 3), ("kei", 6), ("kei", 7)]


def test_what_a_study_trained_is_found(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert trained_checkpoints(layout) == []
    saved = Checkpoint("main-1", 3, "trials/main-1/epoch-0003/adapter.safetensors", "a" * 64, 4, 9, 0.1, 3.0, 1.0)
    marker = layout.checkpoint("main-1", 3) / "adapter.json"
    marker.parent.mkdir(parents=True)
    marker.write_text(json.dumps(saved.to_json()))
    assert trained_checkpoints(layout) == [saved]
