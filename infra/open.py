"""Open a volume by its address: a folder, or `s3://bucket/prefix?endpoint=...`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from infra.cache import Cache
from infra.config import S3Config
from infra.dialects import Patience
from infra.folder import FolderStore
from infra.s3 import S3Store
from infra.store import Store
from infra.volume import Volume
from orchestrator.core.errors import ConfigError


def open_volume(
    address: str | Path | S3Config, *, cache: Cache | None = None, patience: Patience | None = None
) -> Volume:
    """The volume at an address. Nothing is asked of a server yet. Raises ConfigError.

    `cache` serves buckets only: a folder is as near as the cache would be.
    """
    if isinstance(address, str) and "://" in address:
        address = S3Config.parse(address)
    if isinstance(address, S3Config):
        dialect = address.speaks if patience is None else replace(address.speaks, patience=patience)
        return Volume(S3Store(address, dialect), cache)
    if not str(address):
        raise ConfigError("the address of a volume is empty", fix="give a folder or s3://bucket/prefix")
    store: Store = FolderStore(Path(address))
    return Volume(store)
