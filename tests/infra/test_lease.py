"""One writer of a study on a volume: named, followed when dead or silent, never judged by another's clock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from infra.folder import FolderStore
from infra.lease import FREE, SILENCE_S, Beating, Lease, acquire, holder_on
from infra.store import Store
from infra.volume import Volume
from orchestrator.core.errors import BusyError
from orchestrator.core.lock import Holder


class Clock:
    """This machine's own clock; it moves when somebody waits, and `then` happens at each wait."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.now, self.then = 1000.0, then

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then()


def elsewhere(store: Store, since: float = 0.0) -> Lease:
    """A lease that another machine holds, whose wall clock says something else."""
    lease = acquire(store)
    lease.holder = replace(lease.holder, host="elsewhere", since=since)
    store.remove(f"lease/{lease.number:06d}")
    assert store.create(f"lease/{lease.number:06d}", lease.holder.to_text().encode())
    return lease


def test_the_first_one_holds_it_and_lets_go(volume: Volume) -> None:
    store = volume.store
    assert holder_on(store) is None
    lease = acquire(store)
    assert (lease.number, holder_on(store)) == (1, lease.holder)
    lease.beat()
    lease.release()
    assert holder_on(store) is None
    assert acquire(store).number == 2


@pytest.mark.parametrize("since", [0.0, 4e9])
def test_a_living_holder_is_named_whatever_its_clock_says(volume: Volume, since: float) -> None:
    """Its clock is decades behind ours, or ahead."""
    lease, clock = elsewhere(volume.store, since), Clock()
    clock.then = lease.beat
    with pytest.raises(BusyError, match="is running this study on elsewhere since") as error:
        acquire(volume.store, clock=clock, sleep=clock.sleep)
    assert "--takeover" in error.value.fix
    assert clock.now < 1000 + SILENCE_S
    lease.beat()


def test_a_silent_holder_is_followed_after_a_while_and_finds_out(volume: Volume) -> None:
    lease, clock, heard = elsewhere(volume.store), Clock(), list[str]()
    mine = acquire(volume.store, clock=clock, sleep=clock.sleep, tell=heard.append)
    assert mine.number == lease.number + 1
    assert 1000 + SILENCE_S <= clock.now < 1000 + SILENCE_S + 10
    assert "looking for 60 s whether it lives" in heard[0]
    assert "taken for dead" in heard[1]
    for verb in (lease.check, lease.beat):
        with pytest.raises(BusyError, match="was taken over"):
            verb()


def test_one_that_died_on_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from infra.folder import FolderStore; from infra.lease import acquire\n"
        "acquire(FolderStore(Path(sys.argv[1])))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    store, clock = FolderStore(tmp_path), Clock()
    holder = holder_on(store)
    assert holder is not None
    assert not holder.is_alive
    assert acquire(store, clock=clock, sleep=clock.sleep).number == 2
    assert clock.now == 1000


def test_a_takeover_ends_a_living_lease_and_waits_until_its_holder_stops(volume: Volume) -> None:
    lease, waits = elsewhere(volume.store), list[int]()

    def other() -> None:
        """It beats on, notices at its third beat, and lets go."""
        waits.append(1)
        if len(waits) < 3:
            with pytest.raises(BusyError, match="was taken over"):
                lease.beat()
        elif len(waits) == 3:
            lease.release()

    clock = Clock(other)
    mine = acquire(volume.store, takeover=True, clock=clock, sleep=clock.sleep)
    assert mine.number == 2
    assert len(waits) == 3
    mine.beat()


def test_two_that_come_at_once_are_not_both_let_in(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)

    class Late:
        """Between looking and taking, another one takes it."""

        def create(self, name: str, data: bytes) -> bool:
            assert store.create(name, replace(Holder.me(), host="elsewhere").to_text().encode())
            return store.create(name, data)

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

    with pytest.raises(BusyError, match="on elsewhere since"):
        acquire(Late())  # type: ignore[arg-type]


def test_a_lease_is_kept_in_the_background_until_it_is_lost(tmp_path: Path) -> None:
    from threading import Event

    store, lost = FolderStore(tmp_path), Event()
    beating = Beating(acquire(store), beat_s=0.01)
    beating.when_lost = lambda _error: lost.set()
    beating.check()
    other = acquire(store, takeover=True, silence_s=0, sleep=lambda _: None)
    assert lost.wait(60)
    assert beating.lost is not None
    beating.close()
    assert holder_on(store) == other.holder, "who lost a lease does not let go of another's"
    Beating(other, beat_s=60).close()
    assert holder_on(store) is None
    assert store.read("lease/000002.beat") == str(FREE).encode()
