"""The volume that keeps a study: a local folder.

Files are written aside and renamed, checked by their hash, and set apart when they fail. Paths are given relative to
the study folder, as they are recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.core.errors import VolumeError
from orchestrator.core.files import flush_folder, write_whole
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout

Condition = Literal["whole", "absent", "corrupt"]


@dataclass(frozen=True, slots=True)
class LocalVolume:
    """One study's folder on this machine's disk."""

    layout: Layout

    def put(self, path: Path, data: bytes | str) -> None:
        """Write a whole file, or leave what was there. Raises VolumeError when the disk refuses."""
        try:
            write_whole(path, data)
        except OSError as error:
            raise VolumeError(f"cannot write: {error.strerror or error}", where=str(path)) from error

    def condition(self, relative: str, sha256: str) -> Condition:
        """Whether a recorded file is still what was recorded."""
        path = self.layout.resolve(relative)
        try:
            if not path.is_file():
                return "absent"
            return "whole" if file_sha256(path) == sha256 else "corrupt"
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
