"""What a running study does right now, beside its ledger: written every few seconds, read by `status`.

The ledger holds what has happened. Who is at work this moment is no fact to keep, so it has a file of its own, which is
replaced as a whole and means nothing once the study's lock is free.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Self

from orchestrator.core.errors import StudyError
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.crew.work import Crew
from orchestrator.deciding.decisions import Draw, Judge, Train, Work

EVERY_S = 2.0
WORDS: tuple[tuple[type, str], ...] = ((Train, "training"), (Draw, "drawing"), (Judge, "judging"))


@dataclass(frozen=True, slots=True)
class Now:
    """Pieces of work in flight by kind, places for them, and for whom the study waits."""

    at: float
    """Unix seconds."""
    in_flight: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, int] = field(default_factory=dict)
    awaited: str = ""

    def line(self) -> str:
        """For people."""
        parts = [f"{name} {self.in_flight.get(name, 0)} of {self.places.get(name, 0)}" for _, name in WORDS]
        return ", ".join(parts) + (f"; waiting for {self.awaited}" if self.awaited else "")


def read_now(layout: Layout) -> Now | None:
    """None where nothing was written, or it cannot be read."""
    try:
        return Now(**json.loads(layout.now.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


class Pulse:
    """A thread that writes it down while the block runs; a disk that takes no more costs nothing else."""

    def __init__(self, layout: Layout, crew: Crew, in_flight: Callable[[], tuple[Work, ...]]) -> None:
        self._layout, self._crew, self._in_flight = layout, crew, in_flight
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._layout.now.unlink(missing_ok=True)

    def _beat(self) -> None:
        while True:
            with suppress(OSError, StudyError, RuntimeError):  # sets that change while they are counted: next time
                write_whole(self._layout.now, json.dumps(asdict(self._now())) + "\n")
            if self._ended.wait(EVERY_S):
                return

    def _now(self) -> Now:
        busy = Counter(name for work in self._in_flight() for kind, name in WORDS if isinstance(work, kind))
        slots = self._crew.slots
        places = {name: slots[role] for (_, name), role in zip(WORDS, ("train", "draw", "judge"), strict=True)}  # type: ignore[index]
        return Now(round(time.time(), 3), dict(busy), places, self._crew.awaited())
