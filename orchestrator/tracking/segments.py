"""W&B's `.wandb` files: the segments of a run, as its client keeps them, and how much of each the service has.

A file is a 7-byte header, then records of protobuf in LevelDB's log format: blocks of 32 KiB; a record is one or more
fragments, each with a CRC-32 (4 bytes), a length (2) and a type (1: whole, 2: first, 3: middle, 4: last),
little-endian; fewer than 7 bytes at a block's end are padding.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout

BLOCK, HEADER, FRAGMENT = 32768, 7, 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of a run: from one start of the driver to its end."""

    path: Path
    run_id: str
    steps: tuple[int, ...]
    """The steps of its history, as they are written there."""
    size_bytes: int

    @property
    def online(self) -> bool:
        """Whether it was written while the service was there."""
        return not self.path.parent.name.startswith("offline-")

    @property
    def done(self) -> Path:
        """The file that says all of it has reached the service; W&B's own command writes and heeds it too."""
        return self.path.with_name(f"{self.path.name}.synced")

    @property
    def is_done(self) -> bool:
        return self.done.exists()

    @property
    def begun_at(self) -> int | None:
        """The run's step at which sending it began, if that was ever begun; the client writes it down first."""
        state = self.path.with_name(f"{self.path.name}.syncstate")
        return int(json.loads(state.read_text())["starting_step"]) if state.exists() else None

    def numbered(self, begun: int) -> tuple[int, ...]:
        """Its steps as the service numbers them. Segments written online are numbered so already."""
        return self.steps if self.online else tuple(begun + step for step in self.steps)

    def leave_out(self, sent: int) -> None:
        """Take the first rows out of its history, which the service has; the file as it was is kept aside."""
        data = self.path.read_bytes()
        kept, rows = [], 0
        for raw in records(data):
            is_row = _parse(raw).WhichOneof("record_type") == "history"
            rows += is_row
            if not is_row or rows > sent:
                kept.append(raw)
        aside = self.path.with_name(f"{self.path.name}.before")
        if not aside.exists():
            write_whole(aside, data)
        write_whole(self.path, data[:HEADER] + b"".join(_log(kept)))


def segments(layout: Layout) -> list[Segment]:
    """All segments of a study's runs, oldest first. An open one is read as far as it is written."""
    paths = (layout.wandb / "wandb").glob("*run-*/run-*.wandb")
    folders = [p for p in paths if not p.parent.is_symlink()]
    return [read_segment(path) for path in sorted(folders, key=lambda p: p.parent.name.removeprefix("offline-"))]


def read_segment(path: Path) -> Segment:
    """A segment as its file is now."""
    data = path.read_bytes()
    rows = (_parse(raw) for raw in records(data))
    steps = tuple(int(r.history.step.num) for r in rows if r.WhichOneof("record_type") == "history")
    return Segment(path, path.stem.removeprefix("run-"), steps, len(data))


def records(data: bytes) -> Iterator[bytes]:
    """All whole records of a file; a torn tail is left out."""
    at, parts = HEADER, b""
    while at + FRAGMENT <= len(data):
        left = BLOCK - at % BLOCK
        if left < FRAGMENT:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0 or at + FRAGMENT + length > len(data):
            return
        parts = (b"" if kind in (WHOLE, FIRST) else parts) + data[at + FRAGMENT : at + FRAGMENT + length]
        at += FRAGMENT + length
        if kind in (WHOLE, LAST):
            yield parts


def _log(kept: Iterable[bytes]) -> Iterator[bytes]:
    """Records as fragments in blocks; the header counts for the first block."""
    at = HEADER
    for raw in kept:
        first, rest = True, raw
        while first or rest:
            left = BLOCK - at % BLOCK
            if left < FRAGMENT:
                yield bytes(left)
                at += left
                continue
            body, rest = rest[: left - FRAGMENT], rest[left - FRAGMENT :]
            kind = (WHOLE if first else LAST) if not rest else (FIRST if first else MIDDLE)
            yield struct.pack("<IHB", zlib.crc32(bytes([kind]) + body), len(body), kind) + body
            at += FRAGMENT + len(body)
            first = False


def _parse(raw: bytes) -> Any:
    """A record; the classes of generated modules are made at import time, unseen by type checkers."""
    from wandb.proto import wandb_internal_pb2

    record = getattr(wandb_internal_pb2, "Record")()  # noqa: B009
    record.ParseFromString(raw)
    return record
