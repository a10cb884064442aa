"""Folders of an S3 store as folders on this machine: every object under a prefix, brought here and kept the same.

    folders/ID/            the objects under their names below the prefix; ID follows from store, bucket and prefix
    folders/ID.json        what each was when it was fetched, so that only what changed is fetched again

Objects that are gone from the store go here too: the folder is the store's, nobody else keeps files in it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from anima.sources.config import S3Place, parse_place
from anima.sources.download import Patience, download
from anima.sources.remotes import S3File, list_s3, s3_client, s3_endpoint
from anima.sources.store import Tell, WeightStore
from orchestrator.core.errors import DatasetError, MissingError
from orchestrator.core.fence import exclusively
from orchestrator.core.files import write_whole
from orchestrator.core.identity import digest

AT_ONCE = 8
"""Objects fetched at the same time: pictures are small, and each costs a round trip."""
LOCK_S = 6 * 3600.0
"""How long another process on this machine may take to bring the same folder."""


def is_remote(address: str) -> bool:
    """Whether an address names a folder of an S3 store."""
    return address.startswith("s3://")


def local_folder(address: str) -> Path:
    """Where a folder is on this machine, or will be once it was brought. A path is itself."""
    if not is_remote(address):
        return Path(address).expanduser()
    place = _place(address)
    identity = digest({"store": s3_endpoint(), "bucket": place.bucket, "prefix": place.key.rstrip("/")}, length=16)
    return WeightStore.of_this_machine().root / "folders" / identity


def bring(address: str, *, tell: Tell = lambda _: None, patience: Patience | None = None) -> Path:
    """Fetch what changed since the last time; gives the local folder. A path is left as it is.

    Raises MissingError for a folder that is empty or cannot be had, DatasetError for a name that cannot be a file's.
    """
    folder = local_folder(address)
    if not is_remote(address):
        return folder
    place, record = _place(address), folder.with_suffix(".json")
    with exclusively(folder.with_suffix(".lock"), patience_s=LOCK_S), closing(s3_client()) as client:
        listed = _listed(client, place, address)
        known = json.loads(record.read_text()) if record.exists() else {}
        stale = [
            name for name, version in listed.items() if known.get(name) != version or not (folder / name).is_file()
        ]
        if stale:
            tell(f"{address}: fetching {len(stale)} of {len(listed)} files")
        # Forgotten first: after an interruption, what was not replaced yet must not count as what it will be.
        write_whole(record, json.dumps({name: known[name] for name in known if name not in stale and name in listed}))
        _fetch(client, place, folder, stale, listed, patience or Patience())
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_file() and path.relative_to(folder).as_posix() not in listed:
                path.unlink()
        write_whole(record, json.dumps(listed))
    return folder


def _place(address: str) -> S3Place:
    place = parse_place(address)
    assert isinstance(place, S3Place)
    return place


def _listed(client: Any, place: S3Place, address: str) -> dict[str, str]:
    """Names below the prefix, with length and version of each object."""
    prefix = f"{place.key.rstrip('/')}/"
    listed = {}
    for entry in list_s3(client, place.bucket, prefix):
        name = entry.key.removeprefix(prefix)
        if name.endswith("/") or not name:
            # Some programs keep an empty object for each folder.
            continue
        if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
            raise DatasetError(f"object {name!r} cannot be a file here", where=address, fix="rename it in the store")
        listed[name] = f"{entry.size} {entry.version}"
    if not listed:
        raise MissingError("the store has nothing under this name", where=address, fix="correct bucket and prefix")
    return listed


def _fetch(
    client: Any, place: S3Place, folder: Path, names: list[str], listed: Mapping[str, str], patience: Patience
) -> None:
    stop = threading.Event()

    def one(name: str) -> None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if listed[name].startswith("0 "):
            target.write_bytes(b"")
            return
        aside = target.with_name(f".{target.name}.part")
        with closing(S3File(place.bucket, f"{place.key.rstrip('/')}/{name}", client)) as remote:
            download(remote, aside, lambda *_: None, patience, stop)
        aside.replace(target)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for done in [pool.submit(one, name) for name in names]:
                done.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
