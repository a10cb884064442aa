"""How a file comes to exist: written aside, flushed to disk, renamed. A reader sees all of it or nothing."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from orchestrator.core.errors import VolumeError


def write_whole(path: Path, data: bytes | str) -> None:
    """Put `data` at `path`, replacing what is there; a crash leaves the old file or the new one, never a torn one.

    Raises VolumeError when the disk refuses; then nothing is left aside, so that a full disk is not filled further.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        raise refused(error, path) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def refused(error: OSError, path: Path | str = "") -> VolumeError:
    """What it means that a disk refused to write."""
    where = str(path or error.filename or "the disk")
    fix = "look after space and permissions; then the same command goes on"
    return VolumeError(f"cannot write: {error.strerror or error}", where=where, fix=fix)


def flush_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
