"""The cache of fetched weights: every file under the hash of its content, and what each source was found to hold.

    files/SHA256/NAME     a whole file; its folder says what it must hash to
    sources/KEY.json      a source that names no hash, and the hash it had when it was fetched: it is fetched once
    partial/KEY           a file on its way
    bases/ID/             a base put together from links to such files

The cache is `$EPOCHSWEEP_CACHE`, or else `epochsweep` in `$XDG_CACHE_HOME` or `~/.cache`. Any of it may be deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from anima.base import content_sha256
from anima.sources.download import Patience, Stopped, Told, download, forget
from anima.sources.remotes import Remote
from orchestrator.core.errors import StudyError, WeightsError
from orchestrator.core.files import flush_folder, write_whole
from orchestrator.core.identity import digest

Tell = Callable[[str], None]
"""Hears sentences for people."""
POLL_S = 0.2
_PLAIN_NAME = re.compile(r"\w[\w.+ -]{0,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class WeightStore:
    """Fetched files by content."""

    root: Path
    patience: Patience = field(default_factory=Patience)

    @classmethod
    def of_this_machine(cls) -> WeightStore:
        """The one the environment names."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(Path(os.environ.get("EPOCHSWEEP_CACHE") or Path(home) / "epochsweep"))

    def find(self, remote: Remote, sha256: str | None) -> Path | None:
        """The whole file, if it was fetched before; one that no longer hashes to its name is dropped."""
        known = sha256 or self._remembered(remote)
        folder = self.root / "files" / known if known else None
        file = next((p for p in folder.iterdir() if p.is_file()), None) if folder and folder.is_dir() else None
        if file is not None and content_sha256(file) != known:
            shutil.rmtree(file.parent)
            return None
        return file

    def fetch(
        self,
        remote: Remote,
        *,
        sha256: str | None,
        check: Callable[[Path], object],
        told: Told,
        tell: Tell,
        stop: threading.Event,
    ) -> Path:
        """The whole file, fetched if it is not here. `check` looks at it before it counts; setting `stop` ends it.

        Raises WeightsError when its content is not what `sha256` says, and whatever `check` raises: then nothing is
        kept. Raises what `download` raises: then what has arrived is kept.
        """
        key = digest({"source": remote.address})
        partial = self.root / "partial" / key
        partial.parent.mkdir(parents=True, exist_ok=True)
        with _alone(partial.with_name(f"{key}.lock"), remote, tell, stop):
            if (here := self.find(remote, sha256)) is not None:
                return here
            download(remote, partial, told, self.patience, stop)
            try:
                check(partial)
                found = content_sha256(partial)
                if sha256 and found != sha256:
                    raise WeightsError(
                        f"its sha256 is {found}, the study asks for {sha256}",
                        where=remote.name,
                        fix="correct the source or its sha256; nothing of it was kept",
                    )
            except StudyError:
                forget(partial)
                raise
            file = self.root / "files" / found / _file_name(remote.name)
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(file)
            flush_folder(file.parent)
            record = {"source": remote.name, "sha256": found, "size_bytes": file.stat().st_size}
            write_whole(self._memory(remote), json.dumps(record, indent=2) + "\n")
            return file

    def _memory(self, remote: Remote) -> Path:
        return self.root / "sources" / f"{digest({'source': remote.address})}.json"

    def _remembered(self, remote: Remote) -> str:
        try:
            sha256 = json.loads(self._memory(remote).read_text())["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        return sha256 if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256) else ""


def _file_name(name: str) -> str:
    """The last part of a source's name, if it can be a plain file name."""
    last = name.rpartition("/")[2]
    return last if _PLAIN_NAME.fullmatch(last) else "weights"


@contextmanager
def _alone(path: Path, remote: Remote, tell: Tell, stop: threading.Event) -> Iterator[None]:
    """Wait, aloud, until nobody else fetches the same file; the lock ends with its holder, however that ends."""
    with path.open("a+") as stream:
        if not _lock(stream):
            tell(f"waiting | {remote.name} is being fetched already")
            while not _lock(stream):
                if stop.wait(POLL_S):
                    raise Stopped
        yield


def _lock(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
