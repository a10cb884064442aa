"""Fetch one remote file whole: in pieces, several at a time, again from where it broke off, also in another process.

Beside the growing file lies a record of the pieces that are safely on the disk; it is believed only as long as the
remote file has the same length and version.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from anima.sources.remotes import Changed, Interrupted, Remote, RemoteFacts
from orchestrator.core.errors import MissingError, VolumeError
from orchestrator.core.files import write_whole

T = TypeVar("T")
Told = Callable[[int, int | None], None]
"""Hears how many bytes are there, of how many."""
RESTARTS = 3


class Stopped(Exception):
    """Somebody asked for the end of it; what has arrived is kept."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How hard a download tries."""

    piece_bytes: int = 64 << 20
    connections: int = 4
    attempts: int = 6
    """Failures in a row, without a byte in between, until it gives up."""
    back_off_s: float = 1.0
    """Wait after the first failure; doubles with each that follows at once."""


def download(remote: Remote, target: Path, told: Told, patience: Patience, stop: threading.Event) -> None:
    """Bring all of `remote` to `target`. What is there of an earlier try is used; what is fetched so far is kept.

    Raises MissingError when it cannot be had, VolumeError when the disk has no room, Stopped when `stop` was set.
    """
    for _ in range(RESTARTS):
        facts = _persist(remote, remote.look, patience, stop)
        try:
            _Download(remote, facts, target, told, patience, stop).run()
        except Changed:
            forget(target)
            continue
        _record(target).unlink(missing_ok=True)
        return
    raise MissingError("changes while it is fetched", where=remote.name, fix="try again when it is complete there")


def forget(target: Path) -> None:
    """Drop what was fetched for `target`."""
    target.unlink(missing_ok=True)
    _record(target).unlink(missing_ok=True)


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


class _Download:
    """One try at one version of a remote file."""

    def __init__(
        self,
        remote: Remote,
        facts: RemoteFacts,
        target: Path,
        told: Told,
        patience: Patience,
        stop: threading.Event,
    ) -> None:
        self._remote, self._facts, self._target, self._told = remote, facts, target, told
        self._patience, self._stop = patience, stop
        self._lock = threading.Lock()
        self._failed = False
        self._identity = {"size": facts.size, "version": facts.version, "piece_bytes": patience.piece_bytes}
        self._done: set[int] = self._finished_pieces()
        self._arrived = 0

    def run(self) -> None:
        _refuse_full_disk(self._target, self._facts.size, len(self._done) * self._patience.piece_bytes)
        descriptor = os.open(self._target, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if self._facts.ranges and self._facts.size:
                os.ftruncate(descriptor, self._facts.size)
                self._fetch_pieces(descriptor)
            else:
                self._fetch_stream(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _finished_pieces(self) -> set[int]:
        """Pieces an earlier try left safely on the disk; none when it was fetching something else."""
        try:
            record: dict[str, Any] = json.loads(_record(self._target).read_text())
            same = {name: record[name] for name in self._identity} == self._identity
            done = {int(piece) for piece in record["done"]}
        except (OSError, ValueError, KeyError, TypeError):
            return set()
        return done if same and self._facts.version and self._target.is_file() else set()

    def _fetch_pieces(self, descriptor: int) -> None:
        size, length = self._facts.size or 0, self._patience.piece_bytes
        pieces = [(n, start, min(start + length, size)) for n, start in enumerate(range(0, size, length))]
        self._arrived = sum(stop - start for n, start, stop in pieces if n in self._done)
        self._told(self._arrived, size)
        left = [piece for piece in pieces if piece[0] not in self._done]
        with ThreadPoolExecutor(self._patience.connections, thread_name_prefix="download") as pool:
            try:
                jobs = [pool.submit(self._fetch_piece, descriptor, *piece) for piece in left]
                for job in wait(jobs, return_when=FIRST_EXCEPTION).done:
                    job.result()
            except BaseException:
                # Leaving the pool waits for its threads: they look at this between two chunks.
                self._failed = True
                pool.shutdown(cancel_futures=True)
                raise

    def _fetch_piece(self, descriptor: int, number: int, start: int, stop: int) -> None:
        position = start

        def rest() -> None:
            nonlocal position
            for chunk in self._remote.read(position, stop, self._facts):
                self._refuse_stopped()
                kept = chunk[: stop - position]
                _write(descriptor, kept, position, self._target)
                position += len(kept)
                self._hear(len(kept))
            if position < stop:
                raise Interrupted("the connection was cut")

        _persist(self._remote, rest, self._patience, self._stop, progress=lambda: position)
        with self._lock:
            # The record must never claim bytes that a power cut could still take.
            os.fsync(descriptor)
            self._done.add(number)
            write_whole(_record(self._target), json.dumps({**self._identity, "done": sorted(self._done)}))

    def _fetch_stream(self, descriptor: int) -> None:
        """Without ranges there is one stream, and every cut starts it over."""

        def whole() -> None:
            os.ftruncate(descriptor, 0)
            self._arrived = 0
            for chunk in self._remote.read(0, None, self._facts):
                self._refuse_stopped()
                _write(descriptor, chunk, self._arrived, self._target)
                self._hear(len(chunk))
            if self._facts.size is not None and self._arrived != self._facts.size:
                raise Interrupted("the connection was cut")

        _persist(self._remote, whole, self._patience, self._stop)

    def _refuse_stopped(self) -> None:
        if self._failed or self._stop.is_set():
            raise Stopped

    def _hear(self, count: int) -> None:
        with self._lock:
            self._arrived += count
            self._told(self._arrived, self._facts.size)


def _persist(
    remote: Remote,
    action: Callable[[], T],
    patience: Patience,
    stop: threading.Event,
    *,
    progress: Callable[[], int] = lambda: 0,
) -> T:
    """Do it again while it is interrupted; an attempt that got further starts the count anew."""
    failures, reached = 0, progress()
    while True:
        try:
            return action()
        except Interrupted as error:
            failures = 1 if progress() > reached else failures + 1
            reached = progress()
            if failures >= patience.attempts:
                raise MissingError(
                    f"cannot be fetched: {error} ({failures} times in a row)",
                    where=remote.name,
                    fix="check the network; what has arrived is kept, the same command continues",
                ) from error
            wait = max(patience.back_off_s * 2 ** (failures - 1), error.retry_after_s)
        if stop.wait(wait):
            raise Stopped


def _write(descriptor: int, chunk: bytes, position: int, target: Path) -> None:
    with _disk_faults(target):
        written = 0
        while written < len(chunk):
            written += os.pwrite(descriptor, chunk[written:], position + written)


def _refuse_full_disk(target: Path, size: int | None, done: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if size is not None and size - done > free:
        raise VolumeError(
            f"{(size - done) / 1e9:.1f} GB are to be fetched, {free / 1e9:.1f} GB are free",
            where=str(target.parent),
            fix="make room, or set EPOCHSWEEP_CACHE to a folder on another disk",
        )


@contextmanager
def _disk_faults(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VolumeError(f"cannot write: {error.strerror or error}", where=str(target)) from error
