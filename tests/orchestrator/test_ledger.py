"""The ledger: what is written is read back, a torn last line is dropped, damage elsewhere is an error."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.core.errors import VolumeError
from orchestrator.record.ledger import Ledger, read_events
from orchestrator.record.state import replay
from tests.orchestrator.scripted import checkpoint


def write(path: Path, *epochs: int) -> None:
    with closing(Ledger(path)) as ledger:
        for epoch in epochs:
            ledger.record("checkpoint_saved", checkpoint=checkpoint("main", epoch).to_json())


def test_what_is_recorded_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with closing(Ledger(path)) as ledger:
        recorded = [ledger.record("trial_started", trial="main", attempt=1, epochs=3, from_epoch=0)]
    write(path, 1, 2)
    assert list(read_events(path))[:1] == recorded
    state = replay(read_events(path))
    assert state.checkpoints == {("main", e): checkpoint("main", e) for e in (1, 2)}
    assert state.trials["main"].epochs == 3


def test_no_ledger_is_an_empty_study(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "ledger.jsonl")) == []


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_a_torn_tail_is_dropped_and_overwritten(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "ledger.jsonl"
    write(path, 1, 2)
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    path.write_bytes(whole[:second] + whole[second:][:kept])
    assert list(replay(read_events(path)).checkpoints) == [("main", 1)]
    write(path, 3)
    assert list(replay(read_events(path)).checkpoints) == [("main", 1), ("main", 3)]


@pytest.mark.parametrize("damage", [b"{broken}\n", b'{"v": 1, "t": 1.0}\n', b'{"v": 1, "t": 1.0, "kind": "gossip"}\n'])
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    write(path, 1)
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(VolumeError, match=r"ledger\.jsonl:2"):
        list(read_events(path))


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"v": 99, "t": 1.0, "kind": "study_finished", "seconds": 1}\n')
    with pytest.raises(VolumeError, match="newer than this program"):
        list(read_events(path))


def test_a_quarantined_epoch_is_forgotten_and_its_trial_is_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with closing(Ledger(path)) as ledger:
        ledger.record("trial_started", trial="main", attempt=1, epochs=1, from_epoch=0)
        ledger.record("checkpoint_saved", checkpoint=checkpoint("main", 1).to_json())
        ledger.record("trial_finished", trial="main")
        ledger.record("file_quarantined", path="a", moved_to="b", reason="corrupt", trial="main", epoch=1)
    state = replay(read_events(path))
    assert not state.checkpoints
    assert not state.trials["main"].finished


@pytest.mark.parametrize("tail", [b"", b"x" * 10, b"y" * 70_000, b"\0" * 200_000])
def test_a_torn_tail_of_any_length_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    write(path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    Ledger(path).close()
    assert path.read_bytes() == whole
    path.write_bytes(tail.replace(b"\n", b""))
    Ledger(path).close()
    assert path.read_bytes() == b""


FULL = """
import resource, signal, sys
from pathlib import Path
from orchestrator.core.errors import VolumeError
from orchestrator.record.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = Ledger(Path(sys.argv[1]))
ledger.record("run_interrupted", reason="first")
limit = Path(sys.argv[1]).stat().st_size + 30
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    ledger.record("run_interrupted", reason="does not fit")
except VolumeError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ledger.record("run_interrupted", reason="third")
"""


def test_a_full_disk_is_one_clear_line_and_leaves_no_half_fact(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    child = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert child.stderr == ""
    assert "a fact cannot be recorded" in child.stdout
    assert "make room on the disk" in child.stdout
    assert child.stdout.count("\n") == 1
    assert [event.data["reason"] for event in read_events(path)] == ["first", "third"]
