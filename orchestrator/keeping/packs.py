"""A study's caches on its volume, so that no other machine computes them again.

What training keeps of pictures and captions are many small files, each named by what it was made from. Here they
travel in sealed packs: a tar of entries under the hash of its content, and beside it the names of what is in it,
written last. Entries are checked when they are packed and when they are unpacked. Nothing here may stop a study: what
cannot be sent or fetched is computed again where it is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from infra.mirror import File, Outcome, fetch, publish
from infra.progress import Progress
from infra.volume import Volume
from orchestrator.core.errors import AbsentError, DamagedError, StudyError
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from trainer.entries import entry_names, is_entry_name, is_sound

PACK_BYTES = 32 * 2**20
"""A pack is sealed when it is so large: what is held in memory, beside one entry."""
_INDEX = re.compile(r"cache/([0-9a-f]{64})\.json")
Tell = Callable[[str], None]


class Packs:
    """Sends entries a volume lacks, and fetches those this machine lacks."""

    def __init__(self, layout: Layout, volume: Volume, tell: Tell = lambda _: None) -> None:
        self._layout, self._volume, self._tell = Layout(layout.root.resolve()), volume, tell
        self._packed: dict[str, frozenset[str]] | None = None
        """Entries on the volume by pack; None while nobody has looked."""
        self._unsound: set[str] = set()

    def send(self, done: Callable[[Outcome], None] = lambda _: None, progress: Progress | None = None) -> bool:
        """Publish one pack of what the volume lacks; whether there may be more. An outage is told, and is the end."""
        try:
            entries, full = self._next(frozenset().union(*self._known().values()))
            if entries:
                self._seal(entries, done, progress)
        except (StudyError, OSError) as error:
            self._tell(f"caches stay on this machine for now | {error}")
            return False
        return full

    def fetch(self) -> int:
        """Unpack what is on the volume and not here; returns how many entries. An outage is told, and is the end."""
        fetched = 0

        def unpack(outcome: Outcome) -> None:
            nonlocal fetched
            for key in outcome.sent:
                fetched += self._unpack(self._layout.resolve(key))

        try:
            known = self._known()
            wanted = [pack for pack, names in sorted(known.items()) if not all(map(self._is_here, names))]
            if wanted:
                self._tell(f"fetching caches | {self._volume.store.place} | {len(wanted)} packs")
            outcome = fetch(self._layout, self._volume, [(File(_pack(p), p),) for p in wanted], unpack)
            for key, why in outcome.lacking.items():
                self._withdraw(key, why)
        except (StudyError, OSError, tarfile.TarError) as error:
            self._tell(f"caches not fetched, what is missing is made again | {error}")
        for aside in self._layout.cache.glob("*.tar"):
            aside.unlink(missing_ok=True)
        if fetched:
            self._tell(f"caches fetched | {fetched} entries that need not be made again")
        return fetched

    def _known(self) -> dict[str, frozenset[str]]:
        if self._packed is None:
            found = (m for m in map(_INDEX.fullmatch, self._volume.keys("cache/")) if m)
            self._packed = {match[1]: self._names(match[0]) for match in found}
        return self._packed

    def _names(self, index: str) -> frozenset[str]:
        """What an index says is in its pack; nothing where it cannot be read."""
        try:
            names = json.loads(self._volume.read(index))["entries"]
            return frozenset(name for name in names if is_entry_name(name))
        except (AbsentError, DamagedError, ValueError, KeyError, TypeError):
            return frozenset()

    def _is_here(self, name: str) -> bool:
        return (self._layout.cache / name).is_file()

    def _next(self, packed: frozenset[str]) -> tuple[dict[str, bytes], bool]:
        """Sound entries for one pack, and whether it is full."""
        entries: dict[str, bytes] = {}
        size = 0
        for name in entry_names(self._layout.cache):
            if name in packed or name in self._unsound:
                continue
            content = (self._layout.cache / name).read_bytes()
            if not is_sound(name, content):
                self._unsound.add(name)
                continue
            if entries and size + len(content) > PACK_BYTES:
                return entries, True
            entries[name], size = content, size + len(content)
        return entries, False

    def _seal(self, entries: Mapping[str, bytes], done: Callable[[Outcome], None], progress: Progress | None) -> None:
        content = _tar(entries)
        pack = hashlib.sha256(content).hexdigest()
        index = json.dumps({"entries": sorted(entries)}).encode() + b"\n"
        group = (File(_pack(pack), pack, content), File(_index(pack), content=index))
        outcome = publish(self._layout, self._volume, [group], done, progress)
        if not outcome.lacking:
            self._known()[pack] = frozenset(entries)

    def _unpack(self, file: Path) -> int:
        """Put a pack's entries in their places; what is not an entry, or is not sound, is left out."""
        count = 0
        with tarfile.open(file, "r:") as pack:
            for member in pack:
                stream = pack.extractfile(member) if member.isreg() and is_entry_name(member.name) else None
                if stream is None or self._is_here(member.name):
                    continue
                if is_sound(member.name, content := stream.read()):
                    write_whole(self._layout.cache / member.name, content)
                    count += 1
        file.unlink()
        return count

    def _withdraw(self, key: str, why: str) -> None:
        """A pack that is damaged or gone: its entries are made again here, and packed anew."""
        pack = key.removeprefix("cache/").removesuffix(".tar")
        self._volume.delete(_index(pack))
        self._volume.quarantine(key, why)
        self._known().pop(pack)
        self._tell(f"a pack of caches is of no use | {key} | {why}")


def _pack(pack: str) -> str:
    return f"cache/{pack}.tar"


def _index(pack: str) -> str:
    return f"cache/{pack}.json"


def _tar(entries: Mapping[str, bytes]) -> bytes:
    """The same entries make the same bytes, whenever and by whomever they are packed."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as pack:
        for name, content in sorted(entries.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            pack.addfile(member, io.BytesIO(content))
    return stream.getvalue()
