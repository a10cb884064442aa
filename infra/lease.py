"""One writer of a study on a volume: a lease that another machine sees, and that is lost by silence.

    lease/000003         who holds the third lease; created once and never changed
    lease/000003.beat    a number that its holder raises every few seconds, or that it let go

The newest lease holds. Whoever creates the next one ends it: its holder finds that out at its next beat, and until then
the ledger refuses it, for a segment's number is taken once. No clock of one machine is compared with another's: a
holder is silent when its number has not changed for a while by the watcher's own clock.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from infra.store import Store, measure
from orchestrator.core.errors import BusyError, StudyError
from orchestrator.core.lock import Holder

BEAT_S = 10.0
SILENCE_S = 60.0
"""After so long without a beat a holder is taken for dead: several beats, and longer than a request may hang."""
LOOK_S = 2.0
FREE = -1
"""The beat of a lease that was let go."""


@dataclass(slots=True)
class Lease:
    """A lease this process holds, or held."""

    store: Store
    number: int
    holder: Holder
    beats: int = 0

    def beat(self) -> None:
        """Say that the holder lives. Raises BusyError, naming the next holder, when the lease is lost."""
        self.check()
        self.beats += 1
        _write(self.store, self.number, self.beats)

    def check(self) -> None:
        """Raises BusyError when another one holds the study by now."""
        if (taken := self.store.read(_name(self.number + 1))) is not None:
            raise BusyError(
                f"the study was taken over: {_who(taken)}",
                where=self.store.place,
                fix="go on there; what was made here and not recorded there is taken in by the next run here",
            )

    def release(self) -> None:
        """Let go, so that the next one need not wait. Lost already is success."""
        _write(self.store, self.number, FREE)


class Beating:
    """Keeps a lease in the background from its start until it is closed, or lost."""

    def __init__(self, lease: Lease, *, beat_s: float = BEAT_S) -> None:
        self.lease, self._beat_s = lease, beat_s
        self.lost: BusyError | None = None
        """Who took it."""
        self.when_lost: Callable[[BusyError], None] = lambda _: None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and let go of the lease if it is still ours."""
        self._closed.set()
        self._thread.join()
        if self.lost is None:
            with suppress(StudyError):
                self.lease.release()

    def check(self) -> None:
        """Raises BusyError when the lease is lost."""
        try:
            self.lease.check()
        except BusyError as error:
            self._lose(error)
            raise

    def _beat(self) -> None:
        while self.lost is None and not self._closed.wait(self._beat_s):
            try:
                self.lease.beat()
            except BusyError as error:
                self._lose(error)
            except StudyError:
                # In an outage nobody else can take it either; whoever sends meets the same outage and reports it.
                continue

    def _lose(self, error: BusyError) -> None:
        if self.lost is None:
            self.lost = error
            self.when_lost(error)


def acquire(
    store: Store,
    *,
    takeover: bool = False,
    tell: Callable[[str], None] = lambda _: None,
    silence_s: float = SILENCE_S,
    look_s: float = LOOK_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Lease:
    """Become the writer. Raises BusyError naming the holder when it lives, VolumeError in an outage.

    A holder that was let go, or died on this machine, is followed at once; a silent one after `silence_s`. With
    `takeover` a living one loses its lease, and is waited for until it says so or is silent.
    """
    newest = _newest(store)
    if newest and not takeover:
        _await_end(store, newest, None, tell, silence_s, look_s, clock, sleep)
    me = Holder.me()
    if not store.create(_name(newest + 1), me.to_text().encode()):
        taken = store.read(_name(newest + 1))
        raise BusyError(_who(taken), where=store.place, fix="wait for it, or run --takeover")
    lease = Lease(store, newest + 1, me)
    lease.beat()
    if newest and takeover:
        _await_end(store, newest, lease, tell, silence_s, look_s, clock, sleep)
    return lease


def holder_on(store: Store) -> Holder | None:
    """Who has the newest lease, dead or alive; None when nobody has, or it was let go."""
    number = _newest(store)
    if not number or _beat(store, number) == FREE:
        return None
    return Holder.from_text((store.read(_name(number)) or b"").decode(errors="replace"))


def _await_end(
    store: Store,
    number: int,
    mine: Lease | None,
    tell: Callable[[str], None],
    silence_s: float,
    look_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    """Return when the holder of a lease is gone; raises BusyError when it lives and nobody (`mine`) ended its lease."""
    text = store.read(_name(number))
    holder = Holder.from_text((text or b"").decode(errors="replace"))
    seen, since, told, next_beat = _beat(store, number), clock(), False, clock() + BEAT_S
    while seen != FREE and not (holder is not None and holder.is_here and not holder.is_alive):
        if clock() - since >= silence_s:
            tell(f"silent for {silence_s:.0f} s, taken for dead | {_who(text)}")
            return
        if not told:
            what = "waiting until it stops" if mine else f"looking for {silence_s:.0f} s whether it lives"
            tell(f"{_who(text)} | {what}")
            told = True
        sleep(look_s)
        if mine is not None and clock() >= next_beat:
            mine.beat()
            next_beat = clock() + BEAT_S
        beat = _beat(store, number)
        if beat != seen and beat != FREE and mine is None:
            raise BusyError(_who(text), where=store.place, fix="wait for it, stop it there, or run --takeover")
        if beat != seen:
            seen, since = beat, clock()


def _newest(store: Store) -> int:
    """The listing may be late: it is only where the search begins."""
    names = (listed.name.rpartition("/")[2] for listed in store.listed("lease/"))
    number = max((int(name) for name in names if name.isdigit()), default=0)
    while store.has(_name(number + 1)):
        number += 1
    return number


def _name(number: int) -> str:
    return f"lease/{number:06d}"


def _beat(store: Store, number: int) -> int:
    try:
        return int(json.loads(store.read(f"{_name(number)}.beat") or b"0"))
    except (ValueError, TypeError):
        return 0


def _write(store: Store, number: int, beats: int) -> None:
    data = str(beats).encode()
    store.write(f"{_name(number)}.beat", data, measure(data, store.part_bytes(len(data))))


def _who(text: bytes | None) -> str:
    holder = Holder.from_text((text or b"").decode(errors="replace"))
    return str(holder) if holder else "another process is running this study"
