"""Clocks that are moved: a wrong one is named when a server refuses it, and nothing else depends on one."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import botocore.auth
import pytest

from infra.cache import Cache
from infra.lease import acquire
from infra.volume import Volume
from orchestrator.core.errors import VolumeError
from orchestrator.core.lock import Holder
from tests.infra.conftest import STEADY, store_at
from tests.infra.servers import Server

NOW = botocore.auth.get_current_datetime


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_machine_whose_clock_is_wrong_is_told_so(strict: Server, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    volume = Volume(store_at(strict.endpoint, "strict", patience=STEADY))
    volume.put("a", b"before")

    def moved(**more: bool) -> datetime.datetime:
        found = NOW(**more)
        assert isinstance(found, datetime.datetime)
        return found + datetime.timedelta(hours=hours)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", moved)
    with pytest.raises(VolumeError, match="clock and this machine's are too far apart") as error:
        volume.find("a")
    assert error.value.fix == "set this machine's clock"
    monkeypatch.setattr(botocore.auth, "get_current_datetime", NOW)
    assert volume.read("a") == b"before"


@pytest.mark.parametrize("moved", [lambda: 0.0, lambda: 4e9])
def test_whose_wall_clock_was_moved_still_has_its_lease_and_its_files(
    volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: Callable[[], float]
) -> None:
    """Between two beats the wall clock jumps by decades."""
    lease = acquire(volume.store)
    source = tmp_path / "adapter.safetensors"
    source.write_bytes(bytes(100_000))
    monkeypatch.setattr("time.time", moved)
    lease.beat()
    lease.check()
    assert Holder.me().is_alive
    published = volume.put("adapter.safetensors", source)
    cached = Volume(volume.store, Cache(tmp_path / "cache", 10**6))
    for name in ("first", "second"):
        assert cached.get("adapter.safetensors", tmp_path / name) == published
        assert (tmp_path / name).read_bytes() == source.read_bytes()
    lease.release()
