"""A slow upload is told from one that stands still: bytes are counted once, however often they are sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import orchestrator.keeping.mirroring
from infra.folder import FolderStore
from infra.marker import SMALL_BYTES
from infra.progress import Furthest, Moved, Progress, unheard
from infra.segments import Sealed
from infra.store import Measured
from infra.volume import Volume
from orchestrator.core.errors import VolumeError
from orchestrator.core.layout import Layout
from orchestrator.keeping.mirroring import Mirroring
from orchestrator.keeping.restoring import STATE_FILE
from tests.infra.conftest import PART
from tests.infra.proxy import Fault, Proxy
from tests.orchestrator.scripted import target
from tests.orchestrator.test_controller import run

KEY = "trials/main/epoch-0003/adapter.safetensors"


def test_a_piece_that_is_sent_again_is_counted_once() -> None:
    heard: list[int] = []
    furthest = Furthest(heard.append)
    for step in (10, 20, -30, 15, 15, 5):
        furthest(bytes_transferred=step)
    assert heard == [10, 20, 5]


def test_a_file_that_breaks_off_at_the_same_place_again_and_again_does_not_move() -> None:
    moves: list[int] = []
    progress = Progress(lambda: moves.append(1))
    for _ in range(3):
        moved = progress.begin(KEY)
        moved(60)
        moved(40)
    assert (len(moves), progress.size) == (2, 100)
    progress.begin(KEY)(101)
    assert (len(moves), progress.size) == (3, 101)
    progress.end(KEY)
    assert progress.size == 0
    progress.begin(KEY)(1)
    assert len(moves) == 4, "another file under this key begins anew"


@pytest.mark.parametrize("size", [PART // 2, 2 * PART + 1])
def test_bytes_are_heard_of_as_they_go_and_once(
    faulty: tuple[Volume, Proxy], make: Callable[..., Path], size: int
) -> None:
    """Neither what is read to be signed nor what is sent again after a cut counts; whole or in parts."""
    volume, proxy = faulty
    heard: list[int] = []
    proxy.set(Fault("cut", towards="server", after=size // 4, times=1))
    volume.put_aside(KEY, make(size), moved=heard.append)
    assert proxy.suffered == 1
    assert sum(heard) == size
    assert len(heard) > 2


class Clock:
    """Stands still until it is moved; knows how often the thread that made it has looked."""

    def __init__(self) -> None:
        self.now, self.looks = 0.0, 0
        self._watcher, self._looked = threading.get_ident(), threading.Condition()

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        if threading.get_ident() == self._watcher:
            with self._looked:
                self.looks += 1
                self._looked.notify_all()
        return self.now

    def await_looks(self, count: int) -> None:
        with self._looked:
            enough = self.looks + count
            self._looked.wait_for(lambda: self.looks >= enough, timeout=10)


WAIT_S = 900.0


class SlowStore:
    """A folder that takes a training state in pieces, each of which takes 720 s by the clock of whoever waits."""

    def __init__(self, root: Path, clock: Clock, *, moves: bool) -> None:
        self._store, self._clock, self._moves = FolderStore(root), clock, moves
        self.over = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, name: str, source: Path | bytes, measured: Measured, moved: Moved = unheard) -> None:
        for _ in range(5 if "state" in name else 0):
            if self.over.is_set():
                break
            self._clock.await_looks(2)
            self._clock.now += 0.8 * WAIT_S
            if self._moves:
                moved(1000)
        self._store.write(name, source, measured, moved)


@pytest.mark.parametrize("moves", [True, False])
def test_the_end_waits_for_a_file_as_long_as_more_of_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    """One large file takes four times as long as the end waits for a line that is dead."""
    layout = Layout(tmp_path / "study")
    state = run(layout.root, target(epochs=2))
    (trial,) = state.trials
    file = layout.states(trial) / "epoch-0002" / STATE_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(2 * SMALL_BYTES))
    clock = Clock()
    monkeypatch.setattr(orchestrator.keeping.mirroring, "time", clock)
    store = SlowStore(tmp_path / "volume", clock, moves=moves)
    mirroring = Mirroring(layout, Volume(store), Sealed(), every_s=0.01).start()
    said: list[str] = []
    try:
        if moves:
            mirroring.finish(WAIT_S, said.append)
            assert Volume(store).verify(layout.relative(file)) == "whole"
            assert clock.now == pytest.approx(4 * WAIT_S)
            assert any("MB of unfinished ones have gone" in line for line in said)
        else:
            with pytest.raises(VolumeError, match="nothing got through for 900 s"):
                mirroring.finish(WAIT_S, said.append)
    finally:
        store.over.set()
        mirroring.close()
