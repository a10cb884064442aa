"""The volume benchmark measures all sides in all places and checks what they give back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks.volume import Row, main, measure, report, volume_side, write_load
from infra.open import open_volume


@pytest.mark.skipif(sys.platform != "linux", reason="the S3 servers are installed on Linux only")
def test_every_side_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    main(["--size-mb", "1", "--sidecars", "3", "--repeats", "1", "--out", str(tmp_path / "volume.md")])
    table = (tmp_path / "volume.md").read_text()
    assert capsys.readouterr().out == table
    for place, sides in (
        ("folder", "volume copy"),
        ("strict (Swift)", "volume plain"),
        ("gateway (rclone)", "volume plain"),
    ):
        for side in sides.split():
            for load in ("one file of 1 MB", "3 sidecars"):
                assert len([line for line in table.splitlines() if f"| {place} | {load}" in line and side in line]) == 1


def test_ratios_are_of_the_other_side_to_the_volume(tmp_path: Path) -> None:
    loads = write_load(tmp_path, 1, 2)
    load = next(iter(loads))
    table = report([Row("here", "volume", load, 2.0, 1.0), Row("here", "plain", load, 1.0, 4.0)], loads, 1)
    assert "| here | one file of 1 MB | plain | 1.00 s (1 MB/s) | 4.00 s (0 MB/s) | 0.50 | 4.00 |" in table


def test_a_side_that_gives_back_something_else_is_found(tmp_path: Path) -> None:
    loads = write_load(tmp_path, 1, 2)
    put, _ = volume_side(open_volume(tmp_path / "volume"))
    sides = {"wrong": lambda _: (put, lambda _, path: path.write_text("other"))}
    with pytest.raises(SystemExit, match="wrong over here gave back something else"):
        list(measure("here", sides, loads, 1))
