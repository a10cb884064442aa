"""Identity: what a thing is named by is the hash of what would change it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def digest(facts: Mapping[str, Any], *, length: int = 16) -> str:
    """Hex sha256 of the canonical JSON of `facts`, cut to `length` characters."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


AT_ONCE = 2**20
"""Files up to so many bytes are read at once: most are pictures, and a buffer for more would cost more than they do."""


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - a study has many, and Path.open takes its time
        if os.fstat(stream.fileno()).st_size <= AT_ONCE:
            return hashlib.sha256(stream.read()).hexdigest()
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(root: Path, *, suffixes: tuple[str, ...] = (), file_hash: Callable[[Path], str] = file_sha256) -> str:
    """Hex sha256 over (relative name, content hash) of every file below `root`, in name order.

    `file_hash` may know the sha256 of a file without reading it again.
    """
    files = sorted(p for p in root.rglob("*") if p.is_file() and (not suffixes or p.suffix in suffixes))
    listing = {str(p.relative_to(root)): file_hash(p) for p in files}
    return digest(listing, length=64)
