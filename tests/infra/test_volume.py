"""The local volume: whole files or none, conditions by checksum, quarantine that keeps everything."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from infra.volume import LocalVolume
from orchestrator.core.errors import ConfigError, VolumeError
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout


@pytest.fixture
def volume(tmp_path: Path) -> LocalVolume:
    return LocalVolume(Layout(tmp_path))


def test_a_file_is_replaced_whole(volume: LocalVolume) -> None:
    volume.put(volume.layout.choice, "one")
    volume.put(volume.layout.choice, b"two")
    assert volume.layout.choice.read_bytes() == b"two"
    assert [p.name for p in volume.layout.root.iterdir()] == ["choice.json"], "nothing is left aside"


def test_a_crash_before_the_rename_keeps_the_old_file(volume: LocalVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.put(volume.layout.choice, "old")

    def die(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        write_whole(volume.layout.choice, "new")
    assert volume.layout.choice.read_text() == "old"


def test_a_disk_that_refuses_is_one_clear_error(volume: LocalVolume) -> None:
    volume.layout.choice.mkdir()
    with pytest.raises(VolumeError, match="cannot write"):
        volume.put(volume.layout.choice, "x")


def test_conditions(volume: LocalVolume) -> None:
    data = b"adapter"
    digest = sha256(data).hexdigest()
    file = volume.layout.root / "a.safetensors"
    assert volume.condition("a.safetensors", digest) == "absent"
    file.write_bytes(data)
    assert volume.condition("a.safetensors", digest) == "whole"
    file.write_bytes(data[:-1])
    assert volume.condition("a.safetensors", digest) == "corrupt"


def test_a_recorded_path_cannot_leave_the_study(volume: LocalVolume) -> None:
    with pytest.raises(ConfigError, match="leaves the study folder"):
        volume.condition("../secret", "0")


def test_quarantine_keeps_every_copy_and_absent_is_success(volume: LocalVolume) -> None:
    folder = volume.layout.checkpoint("main", 3)
    places = []
    for content in ("first", "second"):
        folder.mkdir(parents=True)
        (folder / "adapter.safetensors").write_text(content)
        places.append(volume.quarantine(folder))
        assert not folder.exists()
    assert [(volume.layout.root / p / "adapter.safetensors").read_text() for p in places] == ["first", "second"]
    assert all(p.startswith("quarantine/") for p in places)
    assert volume.quarantine(folder) == ""
