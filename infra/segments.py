"""A ledger on a volume: sealed segments of whole lines, numbered from 1, which are found without a listing.

Segments are published like any file, so a number has one content for ever: of two writers, one is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from infra.marker import Published
from infra.volume import Volume
from orchestrator.core.errors import AbsentError, BusyError, VolumeError

SEGMENT_BYTES = 2**20
"""About the most that one segment holds; a longer line is a segment of its own."""
AT_ONCE = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sealed:
    """How much of a ledger is on a volume: so many segments, which hold so many bytes."""

    segments: int = 0
    size: int = 0


def segment_key(number: int) -> str:
    """The key of a segment, counted from 1."""
    return f"ledger/{number:06d}.jsonl"


def segments(volume: Volume, after: int = 0) -> Iterator[Published]:
    """The segments that follow segment `after`, in order; their content is not read."""
    return _in_order(lambda number: volume.find(segment_key(number)), after)


def sealed_pieces(volume: Volume, after: int = 0) -> Iterator[bytes]:
    """The content of the segments that follow segment `after`, in order, checked. Raises DamagedError."""

    def read(number: int) -> bytes | None:
        try:
            return volume.read(segment_key(number))
        except AbsentError:
            return None

    return _in_order(read, after)


def agreed(volume: Volume, ledger: Path) -> tuple[Sealed, bool]:
    """How far the volume's segments are how this ledger begins, and whether that is all of them."""
    number = size = 0
    if not ledger.exists():
        return Sealed(), volume.find(segment_key(1)) is None
    with ledger.open("rb") as stream:
        for segment in segments(volume):
            if hashlib.sha256(stream.read(segment.size)).hexdigest() != segment.sha256:
                return Sealed(number, size), False
            number, size = number + 1, size + segment.size
    return Sealed(number, size), True


def seal(volume: Volume, lines: bytes, sealed: Sealed) -> Sealed:
    """Publish whole lines as the next segment. Raises BusyError when another writer has taken its number."""
    key = segment_key(sealed.segments + 1)
    try:
        volume.put(key, lines)
    except VolumeError:
        taken = volume.find(key)
        if taken is None or taken.sha256 == hashlib.sha256(lines).hexdigest():
            raise
        raise BusyError(
            "another machine recorded facts of this study meanwhile",
            where=f"{key} in {volume.store.place}",
            fix="run the same command again: it goes on from there, and takes in what was made here",
        ) from None
    return Sealed(sealed.segments + 1, sealed.size + len(lines))


def next_lines(ledger: Path, start: int, end: int) -> bytes:
    """Whole lines of a ledger between two places in it, about as many as a segment holds; empty when there is none."""
    if start >= end:
        return b""
    with ledger.open("rb") as stream:
        stream.seek(start)
        data = stream.read(min(SEGMENT_BYTES, end - start))
        while data and b"\n" not in data and (more := stream.read(min(SEGMENT_BYTES, end - start - len(data)))):
            data += more
        return data[: data.rfind(b"\n") + 1]


def _in_order(ask: Callable[[int], T | None], after: int) -> Iterator[T]:
    """Ask for some numbers at a time until one is not there."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        first, count = after + 1, 1
        while True:
            for answer in pool.map(ask, range(first, first + count)):
                if answer is None:
                    return
                yield answer
            first, count = first + count, min(AT_ONCE, 2 * count)
