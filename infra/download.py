"""Fetch a file so that an interruption costs only what was on the wire: what has arrived is kept beside the target, and
the next fetch, in this process or another, goes on from there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from infra.store import CHUNK
from orchestrator.core.files import flush_folder


def download(target: Path, sha256: str, content: Callable[[int], Iterator[bytes]]) -> bool:
    """Put a file at `target` once its sha256 is right, replacing what is there; False when it comes out wrong.

    `content(start)` gives the bytes from `start` on; what it raises is raised, and what has arrived is kept.
    """
    with _part_of(target, sha256) as (part, stream):
        sound = _complete(stream, sha256, content)
        if sound:
            stream.flush()
            os.fsync(stream.fileno())
            part.replace(target)
        else:
            part.unlink()
    flush_folder(target.parent)
    return sound


def _complete(stream: BinaryIO, sha256: str, content: Callable[[int], Iterator[bytes]]) -> bool:
    """Read what is there, append what lacks, and compare."""
    read, have = hashlib.sha256(), 0
    stream.seek(0)
    while chunk := stream.read(CHUNK):
        read.update(chunk)
        have += len(chunk)
    for chunk in content(have):
        stream.write(chunk)
        read.update(chunk)
    if read.hexdigest() == sha256:
        return True
    if not have:
        return False
    # The damage may be in what an earlier fetch left here.
    stream.truncate(0)
    return _complete(stream, sha256, content)


@contextmanager
def _part_of(target: Path, sha256: str) -> Iterator[tuple[Path, BinaryIO]]:
    """The file a download grows in, locked. While another process has it, a second one gets a part of its own."""
    part = target.with_name(f".{target.name}.{sha256[:16]}.part")
    with part.open("a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder may have renamed it just before it let go: then this is a finished file, not a part.
            mine = os.fstat(stream.fileno()).st_ino == part.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if mine:
            yield part, stream
            return
    own = part.with_name(f"{part.name}.{secrets.token_hex(4)}")
    try:
        with own.open("x+b") as stream:
            yield own, stream
    finally:
        own.unlink(missing_ok=True)
