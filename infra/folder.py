"""A store in a folder: another disk, a network share, or a network volume that is mounted."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from infra.progress import Moved, unheard
from infra.store import CHUNK, Listed, Measured
from orchestrator.core.errors import AbsentError, DamagedError, VolumeError
from orchestrator.core.files import flush_folder

ASIDE = ".part"
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True, slots=True)
class FolderStore:
    """Objects are files below `root`; each is written aside, flushed and renamed."""

    root: Path

    @property
    def place(self) -> str:
        return str(self.root)

    def part_bytes(self, size: int) -> int:  # noqa: ARG002 (a protocol's signature)
        """A disk takes a file of any size in one piece."""
        return 0

    def write(self, name: str, source: Path | bytes, measured: Measured, moved: Moved = unheard) -> None:
        """Raises DamagedError when the source is not what was measured any more."""
        with self._aside(name) as (aside, stream):
            copied = hashlib.sha256()
            for chunk in _chunks(source):
                copied.update(chunk)
                stream.write(chunk)
                moved(len(chunk))
            if copied.hexdigest() != measured.sha256:
                raise DamagedError("the file changed while it was read", where=str(source), fix="publish it again")
            _flush(stream)
            aside.replace(self._file(name))

    def create(self, name: str, data: bytes) -> bool:
        """A hard link takes a free name or fails, at once, even between two machines.

        Where links are not known (some mounted network volumes), a name must have a single writer.
        """
        file = self._file(name)
        with self._aside(name) as (aside, stream):
            stream.write(data)
            _flush(stream)
            try:
                os.link(aside, file)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                if file.exists():
                    return False
                aside.replace(file)
        return True

    def read(self, name: str) -> bytes | None:
        with self._explained(name):
            try:
                return self._file(name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def stream(self, name: str, size: int, start: int = 0) -> Iterator[bytes]:
        with self._explained(name):
            try:
                stream = self._file(name).open("rb")
            except (FileNotFoundError, NotADirectoryError):
                raise AbsentError("there is no such object", where=self._where(name)) from None
            with stream:
                stream.seek(start)
                while start < size and (chunk := stream.read(min(CHUNK, size - start))):
                    start += len(chunk)
                    yield chunk

    def has(self, name: str) -> bool:
        return self._file(name).is_file()

    def listed(self, prefix: str) -> Iterator[Listed]:
        folder = self.root / prefix.rpartition("/")[0]
        with self._explained(prefix):
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(self.root).as_posix()
                with suppress(FileNotFoundError):
                    if name.startswith(prefix) and not path.name.endswith(ASIDE) and path.is_file():
                        yield Listed(name, path.stat().st_mtime)

    def remove(self, name: str) -> None:
        with self._explained(name):
            self._file(name).unlink(missing_ok=True)

    def abort_uploads(self, before: float) -> int:
        """What a killed process left aside."""
        count = 0
        with self._explained(""):
            for path in self.root.rglob(f".*{ASIDE}"):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime <= before:
                        path.unlink()
                        count += 1
        return count

    def _file(self, name: str) -> Path:
        return self.root / name

    def _where(self, name: str) -> str:
        return str(self._file(name))

    @contextmanager
    def _aside(self, name: str) -> Iterator[tuple[Path, BinaryIO]]:
        """A file beside the object's place; whatever is left of it in the end is removed."""
        file = self._file(name)
        aside = file.with_name(f".{secrets.token_hex(8)}{ASIDE}")
        with self._explained(name):
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with aside.open("xb") as stream:
                    yield aside, stream
                flush_folder(file.parent)
            finally:
                aside.unlink(missing_ok=True)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VolumeError(
                f"the disk refuses: {error.strerror or error}",
                where=self._where(name),
                fix="look after space, permissions and the mount; then the same command goes on",
            ) from error


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _chunks(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk
