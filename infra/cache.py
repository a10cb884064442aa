"""Fetched files kept on this machine, by content, up to a size. The least recently used go first.

Safe for any number of processes: entries come by rename, readers copy from a file they have open, and only one process
at a time makes room. A cache may always decline; then the file is simply fetched again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from infra.store import CHUNK

HOUR_S = 3600.0
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Cache:
    """Files named by their sha256 in one flat folder. `cap_bytes` holds for what is kept; a file on its way in may
    exceed it for a moment."""

    folder: Path
    cap_bytes: int

    def take(self, sha256: str, target: Path) -> bool:
        """Copy a kept file to `target`, checked on the way; False when it is not here, or not sound any more."""
        entry = self.folder / sha256
        aside = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
        try:
            with entry.open("rb"):
                os.utime(entry)
            if _copy(entry, aside) != sha256:
                entry.unlink(missing_ok=True)
                return False
            aside.replace(target)
        except FileNotFoundError:
            return False
        finally:
            aside.unlink(missing_ok=True)
        return True

    def keep(self, file: Path, sha256: str) -> bool:
        """Keep a copy of a checked file; False when it does not fit, or the cache is busy or cannot be written."""
        size = file.stat().st_size
        if size > self.cap_bytes:
            return False
        aside = self.folder / f".{secrets.token_hex(8)}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if _copy(file, aside) != sha256:
                return False
            with self._alone() as alone:
                if alone:
                    self._make_room(size, but=sha256)
                    aside.replace(self.folder / sha256)
                return alone
        except OSError:
            return False
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)

    def _make_room(self, size: int, *, but: str) -> None:
        """Remove the least recently used files until `size` more bytes fit."""
        entries = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                facts = path.stat()
                if path.name.endswith(".part"):
                    if facts.st_mtime < time.time() - HOUR_S:
                        path.unlink()
                elif not path.name.startswith(".") and path.name != but:
                    entries.append((facts.st_mtime_ns, path.name, facts.st_size))
        held = sum(entry[2] for entry in entries)
        for _, name, bytes_held in sorted(entries):
            if held + size <= self.cap_bytes:
                return
            (self.folder / name).unlink(missing_ok=True)
            held -= bytes_held

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Hold the cache's lock; False when another process does not let go of it."""
        with (self.folder / ".lock").open("a") as stream:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        yield False
                        return
                    time.sleep(0.01)
                else:
                    yield True
                    return


def _copy(source: Path, target: Path) -> str:
    """Copy a file; returns the sha256 of what was copied."""
    copied = hashlib.sha256()
    with source.open("rb") as reading, target.open("xb") as writing:
        while chunk := reading.read(CHUNK):
            copied.update(chunk)
            writing.write(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    return copied.hexdigest()
