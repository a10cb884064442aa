"""The ledger: one line of JSON per fact, appended and flushed to disk before anyone acts on it.

There is one writer. A line cut short by a crash is dropped on reading (it was never acted on) and overwritten by the
next append. Replay in `orchestrator.record.state` turns the facts into what is known now.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from orchestrator.core.errors import VolumeError

VERSION = 1
TAIL = 64 * 1024
"""Bytes looked at at once when a torn line is sought from the end."""
EventKind = Literal[
    "study_opened",  # study, base_sha256, dataset_sha256, config (the resolved YAML as data)
    "trial_started",  # trial, attempt, epochs, from_epoch (0 = from scratch)
    "checkpoint_saved",  # checkpoint
    "trial_finished",  # trial
    "trial_failed",  # trial, attempt, error
    "stop_advised",  # advice: the best epoch is behind; training goes on
    "trial_stopped",  # advice: the best epoch is behind; training ends here
    "sample_drawn",  # cell, sample
    "verdict_given",  # verdict
    "file_quarantined",  # path, moved_to, reason, and what must be redone: trial+epoch or cell_key
    "choice_made",  # choice
    "study_finished",  # seconds (wall time of this run)
    "run_interrupted",  # reason
]
EVENT_KINDS: tuple[str, ...] = get_args(EventKind)


@dataclass(frozen=True, slots=True)
class Event:
    """A fact: what happened (`kind`), when (`time`, Unix seconds), and its particulars (`data`)."""

    kind: EventKind
    time: float
    data: Mapping[str, Any]

    def to_line(self) -> str:
        return json.dumps({"v": VERSION, "t": self.time, "kind": self.kind, **self.data}, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Self:
        data = json.loads(line)
        version, moment, kind = data.pop("v"), data.pop("t"), data.pop("kind")
        if version > VERSION:
            raise ValueError(f"event version {version} is newer than this program ({VERSION})")
        if kind not in EVENT_KINDS:
            raise ValueError(f"unknown event kind {kind!r}")
        return cls(kind, moment, data)


def read_events(path: Path) -> Iterator[Event]:
    """All whole events of a ledger, oldest first. A damaged line that is not the last is an error, never skipped."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if not raw.endswith(b"\n"):
                return
            try:
                yield Event.from_line(raw.decode())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise VolumeError(
                    f"damaged ledger line ({error})",
                    where=f"{path}:{number}",
                    fix="run `verify --repair`: it takes the line out, and what it recorded is made or taken in again",
                ) from error


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a ledger as it is: an event, or what is wrong with it."""

    number: int
    """Counted from 1."""
    size: int
    """Bytes, with its end."""
    event: Event | None
    fault: str


def read_lines(path: Path) -> Iterator[Line]:
    """Every line of a ledger, damaged ones too; a torn last one is a fault like others."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            try:
                if not raw.endswith(b"\n"):
                    raise ValueError("cut short by a crash")
                yield Line(number, len(raw), Event.from_line(raw.decode()), "")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                yield Line(number, len(raw), None, str(error) or type(error).__name__)


class Ledger:
    """The single writer of a ledger file. Raises VolumeError when the disk refuses; then no trace of the fact stays."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        drop_torn_tail(path)
        self._stream = path.open("ab", buffering=0)

    def record(self, kind: EventKind, **data: Any) -> Event:
        """Append one fact and return it once it is on disk."""
        (event,) = self.record_all([(kind, data)])
        return event

    def record_all(self, facts: Iterable[tuple[EventKind, Mapping[str, Any]]]) -> list[Event]:
        """Append facts that became known together and return them once all are on disk: one wait for many facts.

        A crash keeps the first few of them, whole; none was acted on.
        """
        now = round(time.time(), 3)
        events = [Event(kind, now, data) for kind, data in facts]
        if events:
            self._append(b"".join(event.to_line().encode() + b"\n" for event in events))
        return events

    def close(self) -> None:
        self._stream.close()

    def _append(self, lines: bytes) -> None:
        end = self._stream.tell()
        try:
            written = self._stream.write(lines)
            if written != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._stream.fileno())
        except OSError as error:
            # What was never acted on must not stay as half a line, to which the next fact would be glued.
            with suppress(OSError):
                self._stream.truncate(end)
                self._stream.seek(end)
            raise VolumeError(
                f"a fact cannot be recorded: {error.strerror or error}",
                where=str(self._path),
                fix="make room on the disk; then the same command goes on",
            ) from error


def drop_torn_tail(path: Path) -> None:
    """Cut off what follows the last whole line; reads backwards, for a ledger may be long."""
    if not path.exists():
        return
    with path.open("r+b") as stream:
        end = size = stream.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - TAIL)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            stream.truncate(end)
