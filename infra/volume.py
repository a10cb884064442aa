"""Where the files of a study are kept.

`LocalVolume` is the folder a study works in. `Volume` keeps published files for good, in another folder or in a bucket;
both kinds keep them in the same form, so a network volume that is mounted here and reached through S3 elsewhere is one
volume:

    published/<key>              the commit marker: one line of JSON, then the content itself when it is small
    files/<key and a token>      the content of a larger file; no other upload ever has this name
    quarantine/<key and token>   the marker of a file that is set apart, and why

The marker is written last and makes the file exist. A published key never changes its content.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from infra.cache import Cache
from infra.download import download
from infra.marker import (
    NOT_AS_PUBLISHED,
    SMALL_BYTES,
    Aside,
    Published,
    check_key,
    damage,
    marker_name,
    quarantine_name,
    split_content_name,
)
from infra.progress import Moved, unheard
from infra.store import Store, measure
from orchestrator.core.errors import AbsentError, ConfigError, DamagedError, VolumeError
from orchestrator.core.files import flush_folder, refused, write_whole
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout

Condition = Literal["whole", "absent", "corrupt"]

DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Swept:
    """What a clean-up removed."""

    uploads: int
    files: int


@dataclass(frozen=True, slots=True)
class Volume:
    """Published files by key, in a store. Every method raises VolumeError when the store fails, after a bounded time.

    A key has one writer at a time: the study's driver. On stores with conditional writes a second one is refused.
    """

    store: Store
    cache: Cache | None = None
    """Where fetched files are kept on this machine, for the next one who wants them."""

    def put_aside(self, key: str, source: Path | bytes, *, expect: str = "", moved: Moved = unheard) -> Aside:
        """Store a file's content where nobody sees it. `expect` is the sha256 it is recorded with, if it is.

        `moved` hears of a larger file's bytes as they go. Raises DamagedError when the source is something else,
        AbsentError when there is none.
        """
        check_key(key)
        try:
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            if size <= SMALL_BYTES and not isinstance(source, bytes):
                source = source.read_bytes()
            measured = measure(source, self.store.part_bytes(size))
            if expect and measured.sha256 != expect:
                raise DamagedError(
                    "the file is not what was recorded",
                    where=f"{key} on its way to {self.store.place}",
                    fix="run the study again: it sets such a file apart and makes it anew",
                )
            if isinstance(source, bytes) and measured.size <= SMALL_BYTES:
                return Aside(Published(key=key, sha256=measured.sha256, size=measured.size, token=""), source)
            token = secrets.token_hex(4)
            file = Published(key=key, sha256=measured.sha256, size=measured.size, token=token)
            self.store.write(file.content_name, source, measured, moved)
        except FileNotFoundError as error:
            raise AbsentError("there is no such file to publish", where=str(error.filename)) from error
        except OSError as error:
            raise VolumeError(f"cannot read: {error.strerror or error}", where=str(error.filename)) from error
        return Aside(file, b"")

    def publish(self, aside: Aside) -> Published:
        """Write the commit marker. The same content under the same key again is success; other content is refused."""
        key = aside.file.key
        for _ in range(3):
            if self.store.create(marker_name(key), aside.file.to_marker(aside.content)):
                return aside.file
            if (there := self.find(key)) is None:
                continue  # It was removed in between.
            if there.token != aside.file.token and aside.file.token:
                self.store.remove(aside.file.content_name)
            if there.sha256 == aside.file.sha256:
                return there
            raise VolumeError(
                "another file is published under this key",
                where=self._where(key),
                fix="two machines may be writing one study: stop one; or quarantine the key first",
            )
        raise VolumeError(
            "the key is published and removed over and over", where=self._where(key), fix="stop one writer"
        )

    def put(self, key: str, source: Path | bytes, *, expect: str = "") -> Published:
        """Put aside and publish."""
        return self.publish(self.put_aside(key, source, expect=expect))

    def find(self, key: str) -> Published | None:
        """The published file of a key, or None: asked by key, so never stale. Its content is not looked at."""
        marker = self.store.read(marker_name(key))
        return None if marker is None else Published.from_marker(key, marker, self.store.place)[0]

    def get(self, key: str, target: Path, *, expect: str = "") -> Published:
        """Fetch a file, check its sha256, and only then put it at `target`, replacing what is there.

        A fetch that was interrupted goes on where it stopped, in another process too; what is whole already is not
        fetched again. `expect` is the sha256 it is recorded with, if it is. Raises AbsentError, DamagedError.
        """
        file, content = self._published(key)
        if expect and file.sha256 != expect:
            raise damage("another file is published than is recorded", key, self.store.place)
        with _explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_file() and file_sha256(target) == file.sha256:
                return file
            if not file.token:
                write_whole(target, content)
                return file
            if self.cache is not None and self.cache.take(file.sha256, target):
                return file
            if not download(target, file.sha256, partial(self._stream, file)):
                raise damage(NOT_AS_PUBLISHED, key, self.store.place)
            if self.cache is not None:
                self.cache.keep(target, file.sha256)
        return file

    def read(self, key: str) -> bytes:
        """All of a file, checked. Meant for files that fit in memory. Raises AbsentError, DamagedError."""
        file, content = self._published(key)
        if file.token:
            content = b"".join(self._stream(file))
            self._check(file, hashlib.sha256(content).hexdigest())
        return content

    def verify(self, key: str) -> Condition:
        """Read all of a file and compare it with its marker; nothing is kept."""
        try:
            file, _ = self._published(key)
            if file.token:
                read = hashlib.sha256()
                for chunk in self._stream(file):
                    read.update(chunk)
                self._check(file, read.hexdigest())
        except DamagedError:
            return "corrupt"
        except AbsentError:
            return "absent"
        return "whole"

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Published keys that begin so. A hint, as listings are: ask `find` for the truth."""
        for listed in self.store.listed(f"published/{prefix}"):
            yield listed.name.removeprefix("published/")

    def delete(self, key: str) -> None:
        """Withdraw a file, then remove its content. Absent is success."""
        marker = self.store.read(marker_name(key))
        if marker is None:
            return
        self.store.remove(marker_name(key))
        try:
            file, _ = Published.from_marker(key, marker, self.store.place)
        except DamagedError:
            return  # Its content, if any, is found by `sweep`.
        if file.token:
            self.store.remove(file.content_name)

    def quarantine(self, key: str, reason: str) -> str:
        """Withdraw a file and keep it as evidence, with the reason; returns its new name. Absent is success (empty)."""
        marker = self.store.read(marker_name(key))
        if marker is None:
            return ""
        try:
            file, _ = Published.from_marker(key, marker, self.store.place)
            aside = quarantine_name(key, file.sha256, file.token)
        except DamagedError:
            aside = quarantine_name(key, hashlib.sha256(marker).hexdigest(), "")
        note = json.dumps({"reason": reason, "time": round(time.time(), 3)}).encode() + b"\n"
        self.store.create(aside, note + marker)
        self.store.remove(marker_name(key))
        return aside

    def sweep(self, older_than_s: float = DAY_S) -> Swept:
        """Remove what interrupted uploads left behind: unfinished ones, and content that no marker names.

        `older_than_s` must be longer than any upload takes, for those that are under way are left alone by their age.
        """
        before = time.time() - older_than_s
        uploads, files = self.store.abort_uploads(before), 0
        for listed in self.store.listed("files/"):
            parts = split_content_name(listed.name)
            if parts is None or listed.modified > before:
                continue
            key, sha256, token = parts
            try:
                there = self.find(key)
            except (DamagedError, ConfigError):
                continue
            named = there is not None and there.token == token
            if not named and not self.store.has(quarantine_name(key, sha256, token)):
                self.store.remove(listed.name)
                files += 1
        return Swept(uploads, files)

    def _published(self, key: str) -> tuple[Published, bytes]:
        marker = self.store.read(marker_name(key))
        if marker is None:
            raise AbsentError("no such file is published", where=self._where(key))
        return Published.from_marker(key, marker, self.store.place)

    def _stream(self, file: Published, start: int = 0) -> Iterator[bytes]:
        """Content of a larger file; that it is not there although it is published is damage."""
        try:
            yield from self.store.stream(file.content_name, file.size, start)
        except AbsentError:
            raise damage("the content of a published file is gone", file.key, self.store.place) from None

    def _check(self, file: Published, sha256: str) -> None:
        if sha256 != file.sha256:
            raise damage(NOT_AS_PUBLISHED, file.key, self.store.place)

    def _where(self, key: str) -> str:
        return f"{key} in {self.store.place}"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise refused(error, path) from error


@dataclass(frozen=True, slots=True)
class LocalVolume:
    """One study's folder on this machine's disk."""

    layout: Layout

    def put(self, path: Path, data: bytes | str) -> None:
        """Write a whole file, or leave what was there. Raises VolumeError when the disk refuses."""
        write_whole(path, data)

    def condition(self, relative: str, sha256: str) -> Condition:
        """Whether a recorded file is still what was recorded."""
        path = self.layout.resolve(relative)
        try:
            return "whole" if file_sha256(path) == sha256 else "corrupt"
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return "absent"
        except OSError as error:
            raise VolumeError(f"cannot read: {error.strerror or error}", where=str(path)) from error

    def quarantine(self, path: Path) -> str:
        """Move a file or folder where nothing reads it; returns its new place. Already gone is success (empty string).

        Repeated quarantine of the same name keeps every copy: they are evidence.
        """
        if not path.exists():
            return ""
        flat = self.layout.relative(path).replace("/", "__")
        self.layout.quarantine.mkdir(parents=True, exist_ok=True)
        aside = next(
            place for n in range(1, 10_000) if not (place := self.layout.quarantine / f"{n:04d}__{flat}").exists()
        )
        path.rename(aside)
        flush_folder(path.parent)
        return self.layout.relative(aside)
