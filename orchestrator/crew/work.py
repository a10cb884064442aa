"""Who does the work: a crew takes work, and gives back reports. The controller knows only this file.

Plain workers do the work itself (`workers.py`); a crew decides where they live. `InlineCrew` keeps them in this process
and does one piece after another in the order it was asked: the same study without Ray, for tests and for debuggers.
`actors.py` puts the same workers into Ray actors. Pixels never pass through here: workers write them to the volume and
report what they wrote.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.core.errors import StudyError
from orchestrator.core.files import refused
from orchestrator.core.study import Cell, Checkpoint, Sample, Verdict
from orchestrator.deciding.decisions import Draw, Judge, Role, Train, Work
from trainer.facts import StepLogged


@dataclass(frozen=True, slots=True)
class Slice:
    """What training did in one turn. `done` means the trial has nothing left to train."""

    steps: tuple[StepLogged, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    done: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """A turn of training went by; the work goes on unless `slice.done`."""

    work: Train
    slice: Slice


@dataclass(frozen=True, slots=True)
class Drawn:
    """The samples of a batch, in the order of its cells, are on the volume."""

    work: Draw
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdicts of a batch, in the order of its cells."""

    work: Judge
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The work came to nothing. `error` is a StudyError when a person must mend something, else what went wrong."""

    work: Work
    error: StudyError | str


@dataclass(frozen=True, slots=True)
class Lost:
    """The work went down with the machine it was on, or was never begun: nothing speaks against it."""

    work: Work
    reason: str


Report = Trained | Drawn | Judged | Failed | Lost


class Trainer(Protocol):
    """Trains one trial, a turn at a time, so that a dead driver never leaves training running unheard."""

    def advance(self, turn_s: float) -> Slice:
        """Train for about `turn_s` seconds, or until an epoch is saved, or to the end."""


class Artist(Protocol):
    """Draws cells that share adapter and weight."""

    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        """Write each cell's picture and sidecar to the volume; samples in the order of the cells."""


class Critic(Protocol):
    """Judges drawn cells."""

    def judge(self, cells: Sequence[Cell], samples: Sequence[Sample]) -> list[Verdict]:
        """Read each picture from the volume; verdicts in the order of the cells."""


class Workers(Protocol):
    """Makes workers. It is pickled into the process where they shall live."""

    def trainer(self, trial: str, attempt: int = 0) -> Trainer: ...

    def artist(self) -> Artist: ...

    def critic(self) -> Critic: ...


class Crew(Protocol):
    """Workers somewhere. `submit` never waits; `wait` returns what was reported, or nothing after `timeout_s`."""

    @property
    def slots(self) -> Mapping[Role, int]:
        """How many pieces of each kind of work may be in flight; it changes as machines join and leave."""

    def awaited(self) -> str:
        """Hands that are expected but not there yet, in words; empty when everybody is. Raises StudyError when they
        have been expected for too long."""

    def submit(self, work: Work, samples: Sequence[Sample] = (), attempt: int = 0) -> None:
        """Start a piece of work; `samples` are the pictures a Judge work is about, `attempt` counts a Train work's."""

    def halt(self, work: Train) -> None:
        """End training that is under way, within a turn. What the turn still saves is reported, then no more."""

    def wait(self, timeout_s: float) -> list[Report]:
        """Reports that have come in; each submitted work is answered, if only by Failed."""

    def close(self) -> None:
        """Let everybody go, at once. Work in flight is lost, what is on the volume stays."""


class InlineCrew:
    """Everybody in this process, one thing after another; a turn of training alternates with other work."""

    def __init__(self, workers: Workers, *, turn_s: float = 0.5) -> None:
        self.slots: Mapping[Role, int] = {"train": 1, "draw": 1, "judge": 1}
        self._workers, self._turn_s = workers, turn_s
        self._queue: deque[tuple[Work, tuple[Sample, ...]]] = deque()
        self._trainers: dict[str, Trainer] = {}
        self._attempts: dict[str, int] = {}
        self._artist: Artist | None = None
        self._critic: Critic | None = None

    def awaited(self) -> str:
        return ""

    def submit(self, work: Work, samples: Sequence[Sample] = (), attempt: int = 0) -> None:
        self._queue.append((work, tuple(samples)))
        if isinstance(work, Train):
            self._attempts[work.trial] = attempt

    def halt(self, work: Train) -> None:
        self._queue = deque(queued for queued in self._queue if queued[0] != work)
        self._trainers.pop(work.trial, None)

    def wait(self, timeout_s: float) -> list[Report]:  # noqa: ARG002 - nothing to wait for: work is done here
        if not self._queue:
            return []
        work, samples = self._queue.popleft()
        try:
            report = self._do(work, samples)
        except (StudyError, OSError) as error:
            self._trainers.pop(getattr(work, "trial", ""), None)
            return [Failed(work, error if isinstance(error, StudyError) else refused(error))]
        if isinstance(report, Trained) and not report.slice.done:
            self._queue.append((work, ()))
        return [report]

    def close(self) -> None:
        self._queue.clear()
        self._trainers.clear()

    def _do(self, work: Work, samples: tuple[Sample, ...]) -> Report:
        match work:
            case Train(trial):
                trainer = self._trainers.get(trial) or self._workers.trainer(trial, self._attempts[trial])
                self._trainers[trial] = trainer
                turn = trainer.advance(self._turn_s)
                if turn.done:
                    del self._trainers[trial]
                return Trained(work, turn)
            case Draw(cells):
                self._artist = self._artist or self._workers.artist()
                return Drawn(work, tuple(self._artist.draw(cells)))
            case Judge(cells):
                self._critic = self._critic or self._workers.critic()
                return Judged(work, tuple(self._critic.judge(cells, samples)))
