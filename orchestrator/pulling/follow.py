"""Keep a folder in step with a study while it trains: each epoch's adapter and pictures as they appear."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.core.errors import AbsentError, DamagedError, VolumeError
from orchestrator.core.study import Checkpoint
from orchestrator.pulling.pull import Format, Pulled, pick, pictures_of, take
from orchestrator.pulling.sources import Source
from orchestrator.record.state import StudyState


class Following:
    """What of a study lies in a folder already, so that each look costs only what is new."""

    def __init__(
        self, source: Source, folder: Path, *, trial: str = "", form: Format = "comfy", pictures: int = 2
    ) -> None:
        self.source, self.folder, self.trial, self.form, self.pictures = source, folder, trial, form, pictures
        self.state = StudyState()
        self._taken: dict[tuple[str, int], tuple[str, int]] = {}
        """Of each epoch: the adapter's hash, and how many pictures were taken."""

    @property
    def finished(self) -> bool:
        """Whether the study has come to its end, as far as was seen."""
        return self.state.finished_at is not None

    def look(self) -> list[Pulled]:
        """Take what is new since the last look; returns the epochs that brought something. Raises VolumeError."""
        for event in self.source.news():
            self.state.apply(event)
        brought = []
        for place, checkpoint in sorted(self.state.checkpoints.items()):
            if self.trial not in ("", place[0], place[0].rpartition("-")[0]):
                continue
            drawn = min(self.pictures, len(pictures_of(self.state, checkpoint)))
            if self._taken.get(place) != (checkpoint.sha256, drawn) and (pulled := self._take(checkpoint, drawn)):
                self._taken[place] = (checkpoint.sha256, drawn)
                brought.append(pulled)
        return brought

    def _take(self, checkpoint: Checkpoint, drawn: int) -> Pulled | None:
        """An epoch that was set apart since it was recorded is passed over: it comes again."""
        picked = pick(self.state, str(checkpoint.epoch), checkpoint.trial)
        several = len({trial for trial, _ in self.state.checkpoints}) > 1
        name = f"{checkpoint.trial}-epoch-{checkpoint.epoch:04d}" if several else f"epoch-{checkpoint.epoch:04d}"
        try:
            return take(self.source, picked, self.folder / name, form=self.form, most_pictures=drawn)
        except (AbsentError, DamagedError):
            return None


def follow(
    following: Following,
    *,
    every_s: float,
    brought: Callable[[Pulled], None],
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Look again and again until the study is finished. An outage is told once, and waited for."""
    broken = False
    while True:
        try:
            for pulled in following.look():
                brought(pulled)
            if broken:
                say(f"reachable again | {following.source.place}")
            broken = False
            if following.finished:
                return
        except VolumeError as error:
            if not broken:
                say(f"waiting | {error}")
            broken = True
        sleep(every_s)
