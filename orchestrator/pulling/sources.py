"""Where a study can be read from: its folder, or the volume it is kept on, also without the machine that runs it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from anima.sources.store import WeightStore
from infra.cache import Cache
from infra.config import S3Config
from infra.open import open_volume
from infra.segments import sealed_pieces
from infra.volume import Volume
from orchestrator.core.errors import AbsentError, DamagedError, MissingError
from orchestrator.core.files import flush_folder, refused
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.planning.config import load_config
from orchestrator.record.ledger import Event
from orchestrator.watching.status import find_layout

CACHED_BYTES = 4 * 10**9
"""Of what was fetched from buckets, kept on this machine: another format of an epoch is not fetched again."""


class Source(Protocol):
    """A study to read. All methods raise VolumeError when it cannot be read."""

    @property
    def place(self) -> str:
        """Where it is, as people read it."""

    def news(self) -> Iterator[Event]:
        """The facts that were recorded since this was asked last, oldest first."""

    def copy(self, key: str, target: Path, *, sha256: str = "") -> None:
        """Put a file of the study at `target`, whole, once its hash is right. Raises AbsentError, DamagedError."""


@dataclass(slots=True)
class FolderSource:
    """A study's folder."""

    layout: Layout
    _read: int = field(default=0, init=False)

    @property
    def place(self) -> str:
        return str(self.layout.root)

    def news(self) -> Iterator[Event]:
        with self.layout.ledger.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                yield _event(line, f"{self.layout.ledger}, byte {self._read}")
                self._read += len(line)

    def copy(self, key: str, target: Path, *, sha256: str = "") -> None:
        source = self.layout.resolve(key)
        aside = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, aside)
            if sha256 and file_sha256(aside) != sha256:
                raise DamagedError("is not the file that was recorded", where=str(source), fix="run `verify --repair`")
            aside.replace(target)
            flush_folder(target.parent)
        except FileNotFoundError as error:
            raise AbsentError("is recorded, but not there", where=str(source), fix="run `verify --repair`") from error
        except OSError as error:
            raise refused(error, target) from error
        finally:
            aside.unlink(missing_ok=True)


@dataclass(slots=True)
class VolumeSource:
    """A study on its volume."""

    volume: Volume
    _segments: int = field(default=0, init=False)

    @property
    def place(self) -> str:
        return self.volume.store.place

    def news(self) -> Iterator[Event]:
        for piece in sealed_pieces(self.volume, after=self._segments):
            self._segments += 1
            yield from (_event(line, f"{self.place}, segment {self._segments}") for line in piece.splitlines())

    def copy(self, key: str, target: Path, *, sha256: str = "") -> None:
        self.volume.get(key, target, expect=sha256)


def open_source(name: str) -> Source:
    """The study that `name` means: a folder, a name below runs/, a YAML, an `s3://` address or a mounted volume.

    A YAML means the folder it is run in, or the volume when this machine has none. Raises MissingError, ConfigError.
    """
    if "://" in name:
        return _on_volume(S3Config.parse(name), name)
    if (Path(name) / "published" / "ledger").is_dir():
        return _on_volume(name, name)
    try:
        return FolderSource(find_layout(name))
    except MissingError:
        if Path(name).suffix not in (".yaml", ".yml"):
            raise
        config = load_config(Path(name))
        place = config.volume.kept_at(config.study)
        if place is None:
            raise
        return _on_volume(place, name)


def _on_volume(place: S3Config | str, name: str) -> VolumeSource:
    cache = Cache(WeightStore.of_this_machine().root / "volumes", CACHED_BYTES)
    volume = open_volume(place, cache=cache)
    if volume.find("ledger/000001.jsonl") is None:
        fix = "the address ends with the study's name: s3://bucket/prefix/NAME"
        raise MissingError(f"no study is kept at {volume.store.place}", where=name.partition("?")[0], fix=fix)
    return VolumeSource(volume)


def _event(line: bytes, where: str) -> Event:
    try:
        return Event.from_line(line.decode())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"damaged ledger line ({error})", where=where, fix="run `verify --repair`") from error
