"""One driver per study: an advisory lock that the system lifts by itself when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.core.errors import BusyError


@contextmanager
def sole_driver(path: Path) -> Iterator[None]:
    """Hold the study's lock, with this process's id written in it. Raises BusyError naming the process that has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise BusyError(
                f"process {holder} is running this study",
                where=str(path.parent),
                fix="wait for it, or stop it; its state is kept",
            ) from None
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield
