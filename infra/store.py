"""What a volume is kept in: whole objects by name. A folder and an S3 bucket are stores.

Every object a store shows is whole: an upload that stops half-way shows nothing. A store knows nothing of keys, hashes
of content or what is published; that is `infra.volume`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from infra.progress import Moved, unheard

CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Measured:
    """One reading of a file: its size, its sha256, and the MD5 (16 bytes) of each part it is sent in."""

    size: int
    sha256: str
    part_bytes: int
    part_md5: tuple[bytes, ...]


def measure(source: Path | bytes, part_bytes: int) -> Measured:
    """Read a file once, in bounded memory. `part_bytes` is the size of its parts; 0 for one whole without an MD5."""
    if isinstance(source, bytes):
        md5 = (hashlib.md5(source, usedforsecurity=False).digest(),) if part_bytes else ()
        return Measured(len(source), hashlib.sha256(source).hexdigest(), part_bytes, md5)
    whole, size = hashlib.sha256(), 0
    parts: list[bytes] = []
    with source.open("rb") as stream:
        while True:
            part, held = hashlib.md5(usedforsecurity=False), 0
            while chunk := stream.read(min(CHUNK, part_bytes - held) if part_bytes else CHUNK):
                whole.update(chunk)
                if part_bytes:
                    part.update(chunk)
                held += len(chunk)
            size += held
            if part_bytes and (held or not parts):
                parts.append(part.digest())
            if not part_bytes or held < part_bytes:
                return Measured(size, whole.hexdigest(), part_bytes, tuple(parts))


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing shows it; `modified` is in Unix seconds by the store's clock."""

    name: str
    modified: float


class Store(Protocol):
    """Objects by name. Names are relative, with forward slashes. All methods raise VolumeError when the store fails."""

    @property
    def place(self) -> str:
        """Where the store is, as people read it; without credentials."""

    def part_bytes(self, size: int) -> int:
        """Size of the parts a file of `size` bytes is to be measured in; 0 when the store needs none."""

    def write(self, name: str, source: Path | bytes, measured: Measured, moved: Moved = unheard) -> None:
        """Store a whole object, which has the measured content, or nothing. `moved` hears of a file's bytes as they go.

        What is sent again is not heard of again.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Store a small object under a name that is free; False when it is taken."""

    def read(self, name: str) -> bytes | None:
        """All of a small object; None when it is not there."""

    def stream(self, name: str, size: int, start: int = 0) -> Iterator[bytes]:
        """The bytes of an object of `size` bytes from `start` on. AbsentError when it is not there.

        A broken connection is taken up again where it broke.
        """

    def has(self, name: str) -> bool:
        """Whether there is an object of that name."""

    def listed(self, prefix: str) -> Iterator[Listed]:
        """Objects whose names begin so, in no order. A hint: it may be late by what was just written or removed."""

    def remove(self, name: str) -> None:
        """Remove an object; already gone is success."""

    def abort_uploads(self, before: float) -> int:
        """Give up unfinished uploads begun before that Unix time; returns how many."""
