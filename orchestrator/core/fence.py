"""Fences: of several live attempts at one thing, only the newest may publish, and the others find out before they do.

A worker that was taken for dead may come back: a frozen node thaws, a network heals. Killing it is not enough, for
nobody can kill what cannot be reached. So every attempt has a number, the newest number is on the volume, and whoever
publishes holds a lock in which it looks once more whether the number is still its own.

The lock is `flock`, which the system lifts when its holder dies. A shared volume must support it between machines
(NFS 4 does); published keys of a bucket have their own protection (`infra/volume.py`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.core.errors import SupersededError, VolumeError
from orchestrator.core.files import write_whole

PATIENCE_S = 60.0
"""How long a publication may hold the lock before whoever waits for it gives up."""
LOOK_S = 0.02


class Fence:
    """One attempt at what a file stands for. `attempt` 0 takes the next number, for work nobody counts."""

    def __init__(self, file: Path, attempt: int = 0, *, patience_s: float = PATIENCE_S) -> None:
        self._file, self._patience_s = file, patience_s
        self.attempt = attempt

    @property
    def newest(self) -> int:
        """The highest number anybody has entered with; 0 before the first."""
        try:
            return int(self._file.read_text())
        except FileNotFoundError:
            return 0
        except ValueError as error:
            raise VolumeError("not the number of an attempt", where=str(self._file), fix="remove the file") from error

    def enter(self) -> None:
        """Shut all earlier attempts out. Raises SupersededError if a later one was here before."""
        with exclusively(self._lock, patience_s=self._patience_s):
            newest = self.newest
            self.attempt = self.attempt or newest + 1
            self._check(newest)
            if newest != self.attempt:
                write_whole(self._file, f"{self.attempt}\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Publish in here: no other attempt does, and none has since. Raises SupersededError if one was begun."""
        with exclusively(self._lock, patience_s=self._patience_s):
            self._check(self.newest)
            yield

    @property
    def _lock(self) -> Path:
        return self._file.with_name(f".{self._file.name}.lock")

    def _check(self, newest: int) -> None:
        if newest > self.attempt:
            raise SupersededError(
                f"attempt {self.attempt} was given up: attempt {newest} has begun",
                where=str(self._file.parent),
                fix="nothing is lost; if two machines run this study, stop one",
            )


@contextmanager
def exclusively(lock: Path, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold a lock file. Raises VolumeError when another process holds it for longer than `patience_s`."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        until = time.monotonic() + patience_s
        while not _try(descriptor, lock):
            if time.monotonic() >= until:
                raise VolumeError(
                    f"another process has been publishing for {patience_s:g} s",
                    where=str(lock.parent),
                    fix="it is frozen, or its disk is: end it",
                )
            time.sleep(LOOK_S)
        yield
    finally:
        os.close(descriptor)


def _try(descriptor: int, lock: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            raise VolumeError(
                "this file system has no locks, so two attempts could publish at once",
                where=str(lock.parent),
                fix="keep the study on a local disk or on NFS 4",
            ) from error
        raise
    return True
