"""How far a study's copy on its volume is: written beside the ledger by whoever sends, read by whoever asks."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, fields

from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout


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
    waiting_bytes: int = 0
    """Of the ledger: the facts that follow are not there yet, nor are the files they name."""
    lacking: dict[str, str] = field(default_factory=dict)
    """Recorded files that could not be sent -> why; the latest hundred."""
    outage: str = ""
    """What is wrong now; empty when all is well."""
    outage_since: float | None = None
    """Unix seconds."""
    moves: int = 0
    """Grows with everything that gets through."""

    def add(self, files: int, size: int, lacking: dict[str, str]) -> None:
        """Take in what came of a segment."""
        self.files, self.size, self.moves = self.files + files, self.size + size, self.moves + 1
        self.lacking = dict([*self.lacking.items(), *lacking.items()][-100:])

    def line(self) -> str:
        """For people."""
        sent = f" | {self.files} files ({self.size / 1e6:.1f} MB) sent by the latest run" if self.files else ""
        if self.outage:
            minutes = max(0.0, time.time() - (self.outage_since or time.time())) / 60
            return f"{self.place}{sent} | waiting for {minutes:.0f} min: {self.outage}"
        return f"{self.place}{sent} | {'sending more' if self.waiting_bytes else 'nothing waits'}"


def write_uploads(layout: Layout, uploads: Uploads) -> None:
    """Raises VolumeError."""
    write_whole(layout.uploads, json.dumps(asdict(uploads), indent=1) + "\n")


def read_uploads(layout: Layout) -> Uploads | None:
    """None when the study is kept nowhere else, or the file cannot be read."""
    try:
        data = json.loads(layout.uploads.read_text(encoding="utf-8"))
        known = {f.name for f in fields(Uploads)}
        return Uploads(**{key: value for key, value in data.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
