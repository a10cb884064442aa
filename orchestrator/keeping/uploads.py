"""How far a study's copy on its volume is: written beside the ledger by whoever sends, read by whoever asks."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, fields

from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout

QUIET_S = 30.0
"""A line for people says so when nothing got through for longer."""


@dataclass(slots=True)
class Uploads:
    """Counts of this run, and what holds it up."""

    place: str
    files: int = 0
    """Sent by this run."""
    size: int = 0
    """Bytes of them."""
    sealed_bytes: int = 0
    """Of the ledger, on the volume."""
    under_way: int = 0
    """Bytes that have gone of larger files which are not there yet."""
    waiting_bytes: int = 0
    """Of the ledger: the facts that follow are not there yet, nor are the files they name."""
    lacking: dict[str, str] = field(default_factory=dict)
    """Recorded files that could not be sent -> why; the latest hundred."""
    outage: str = ""
    """What is wrong now; empty when all is well."""
    outage_since: float | None = None
    """Unix seconds."""
    moves: int = 0
    """Grows with everything that gets through, were it a piece of a file."""
    moved_at: float = 0.0
    """When something got through last: Unix seconds, for people."""

    def add(self, files: int, size: int, lacking: dict[str, str]) -> None:
        """Take in what got through."""
        self.files, self.size = self.files + files, self.size + size
        self.move()
        self.lacking = dict([*self.lacking.items(), *lacking.items()][-100:])

    def move(self) -> None:
        """Something got through: a file, or more of one than ever before."""
        self.moves += 1
        self.moved_at = round(time.time(), 3)

    def line(self) -> str:
        """For people."""
        sent = f" | {self.files} files ({self.size / 1e6:.1f} MB) sent by the latest run" if self.files else ""
        if self.outage:
            since = _ago(self.outage_since or time.time())
            return f"{self.place}{sent} | waiting for {since}: {self.outage}"
        if not self.waiting_bytes:
            return f"{self.place}{sent} | nothing waits"
        quiet = f", none got through for {_ago(self.moved_at)}" if self.moved_at < time.time() - QUIET_S else ""
        gone = f", {self.under_way / 1e6:.1f} MB of unfinished ones have gone" if self.under_way else ""
        return f"{self.place}{sent} | {self.waiting_bytes / 1000:.1f} kB of facts wait with their files{gone}{quiet}"


def write_uploads(layout: Layout, uploads: Uploads) -> None:
    """Raises VolumeError."""
    write_whole(layout.uploads, json.dumps(asdict(uploads), indent=1) + "\n")


def read_uploads(layout: Layout) -> Uploads | None:
    """None when the study is kept nowhere else, or the file cannot be read."""
    try:
        data = json.loads(layout.uploads.read_text(encoding="utf-8"))
        known = {f.name for f in fields(Uploads)}
        uploads = Uploads(**{key: value for key, value in data.items() if key in known})
        # The ledger is further than when this was written, if whoever sends is busy trying.
        uploads.waiting_bytes = max(0, layout.ledger.stat().st_size - uploads.sealed_bytes)
        return uploads
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
