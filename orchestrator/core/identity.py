"""Identity: what a thing is named by is the hash of what would change it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def digest(facts: Mapping[str, Any], *, length: int = 16) -> str:
    """Hex sha256 of the canonical JSON of `facts`, cut to `length` characters."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(root: Path, *, suffixes: tuple[str, ...] = (), file_hash: Callable[[Path], str] = file_sha256) -> str:
    """Hex sha256 over (relative name, content hash) of every file below `root`, in name order.

    `file_hash` may know the sha256 of a file without reading it again.
    """
    files = sorted(p for p in root.rglob("*") if p.is_file() and (not suffixes or p.suffix in suffixes))
    listing = {str(p.relative_to(root)): file_hash(p) for p in files}
    return digest(listing, length=64)
