"""One driver per study folder: an advisory lock that the system lifts by itself when its holder dies, however it dies.

The lock file says who holds it. Studies on a volume are guarded between machines too: `infra/lease.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, TextIO

from orchestrator.core.errors import BusyError

STOP_S = 120.0
"""How long a driver that was asked to stop may take: it ends work in flight and sends what is recorded."""
KILLED_S = 10.0
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that runs a study."""

    pid: int
    host: str
    since: float
    """Unix seconds, by its own clock: for people, never compared with another clock."""
    started: int = 0
    """When the process started, in the kernel's ticks since boot; 0 where that cannot be told. A process id alone may
    have been given to another process since."""

    @classmethod
    def me(cls) -> Self:
        """This process."""
        return cls(os.getpid(), socket.gethostname(), round(time.time(), 3), _started(os.getpid()))

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """What `to_text` wrote; None for anything else."""
        try:
            data = json.loads(text)
            return cls(int(data["pid"]), str(data["host"]), float(data["since"]), int(data["started"]))
        except (ValueError, KeyError, TypeError):
            return None

    def to_text(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.pid} is running this study on {self.host} since {since}"

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether that very process lives; only to be asked of one that is here."""
        if self.pid <= 0:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return self.started in (0, _started(self.pid))

    def send(self, number: signal.Signals) -> None:
        """Send a signal to that very process; gone is success."""
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


@contextmanager
def sole_driver(path: Path, *, takeover: bool = False, stop_s: float = STOP_S) -> Iterator[Holder]:
    """Hold the study's lock, with this process written in it. Raises BusyError naming the process that has it.

    With `takeover` that process is asked to stop, and killed if it has not stopped after `stop_s` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        if not _try(stream):
            if not takeover:
                raise _busy(path, _read(stream))
            _take_over(stream, path, stop_s)
        me = Holder.me()
        stream.seek(0)
        stream.truncate(0)
        stream.write(me.to_text())
        stream.flush()
        try:
            yield me
        finally:
            stream.seek(0)
            stream.truncate(0)


def holder_of(path: Path) -> Holder | None:
    """Who holds a study's lock now; None when nobody does, or who it is cannot be read."""
    try:
        with path.open("r") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read(stream)
    except OSError:
        pass
    return None


def _take_over(stream: TextIO, path: Path, stop_s: float) -> None:
    for number, patience_s in ((signal.SIGTERM, stop_s), (signal.SIGKILL, KILLED_S)):
        holder = _read(stream)
        if holder is None or not holder.is_here:
            raise _busy(path, holder)
        holder.send(number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if _try(stream):
                return
            time.sleep(LOOK_S)
    raise _busy(path, _read(stream))


def _try(stream: TextIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(stream: TextIO) -> Holder | None:
    stream.seek(0)
    return Holder.from_text(stream.read())


def _busy(path: Path, holder: Holder | None) -> BusyError:
    what = str(holder) if holder else "another process is running this study"
    if holder is None or holder.is_here:
        fix = "wait for it, or stop it (run --takeover does so); its state is kept"
    else:
        fix = f"stop it on {holder.host}; its state is kept"
    return BusyError(what, where=str(path.parent), fix=fix)


def _started(pid: int) -> int:
    """Field 22 of /proc/PID/stat; 0 where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
