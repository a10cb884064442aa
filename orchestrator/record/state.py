"""What is known of a study: a fold over its ledger, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from orchestrator.core.collecting import nothing_collected
from orchestrator.core.study import Cell, Checkpoint, Choice, Sample, StopAdvice, Verdict
from orchestrator.record.ledger import Event
from orchestrator.record.packed import Packed


@dataclass(slots=True)
class TrialState:
    """How far a trial is. `epochs` is the number asked for by the latest start."""

    epochs: int = 0
    attempts: int = 0
    finished: bool = False
    error: str = ""
    started_at: float = 0.0
    advice: StopAdvice | None = None
    """That the best epoch is behind."""
    stopped: bool = False
    """Whether the advice was taken: training ended when it was given."""


class Follower(Protocol):
    """Is told what a fact changed, after the state contains it; `orchestrator/deciding/board.py` is one."""

    def saved(self, checkpoint: Checkpoint) -> None:
        """An epoch was saved that was not known, or is another now."""

    def same(self, cell: Cell) -> Cell:
        """An equal cell that is kept already, or this one."""

    def drawn(self, cell: Cell) -> None:
        """A cell has its first picture."""

    def judged(self, verdict: Verdict) -> None:
        """A cell has its first verdict of some judge."""

    def forget(self) -> None:
        """Something that was known is not true any more."""


@dataclass(slots=True)
class StudyState:
    """Everything recorded so far, indexed by identity."""

    study: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    opened_at: list[float] = field(default_factory=list)
    base_sha256: str = ""
    dataset_sha256: str = ""
    trials: dict[str, TrialState] = field(default_factory=dict)
    checkpoints: dict[tuple[str, int], Checkpoint] = field(default_factory=dict)
    cells: MutableMapping[str, Cell] = field(default_factory=dict)
    samples: MutableMapping[str, Sample] = field(default_factory=dict)
    verdicts: MutableMapping[tuple[str, str, int], Verdict] = field(default_factory=dict)
    """By (cell key, judge name, judge version)."""
    judges: set[tuple[str, int]] = field(default_factory=set)
    """Names and versions of those who gave them."""
    quarantined: list[Mapping[str, Any]] = field(default_factory=list)
    choice: Choice | None = None
    finished_at: float | None = None
    last_event_at: float = 0.0
    follower: Follower | None = field(default=None, compare=False, repr=False)

    @classmethod
    def packed(cls) -> Self:
        """An empty state that will keep what is done in a fifth of the memory, for a process that runs for days.

        It is equal to a plain one with the same facts, and slower to search where nobody has been lately.
        """
        return cls(cells=Packed(), samples=Packed(), verdicts=Packed())

    def unpack(self) -> None:
        """Make it plain, for whoever wants to look at everything."""
        self.cells, self.samples, self.verdicts = dict(self.cells), dict(self.samples), dict(self.verdicts)

    def apply(self, event: Event) -> None:
        """Take in one fact."""
        data = event.data
        self.last_event_at = event.time
        match event.kind:
            case "study_opened":
                self.study, self.config = data["study"], data["config"]
                self.base_sha256, self.dataset_sha256 = data.get("base_sha256", ""), data.get("dataset_sha256", "")
                self.opened_at.append(event.time)
                self.finished_at = None
            case "trial_started":
                trial = self.trials.setdefault(data["trial"], TrialState())
                trial.epochs, trial.finished, trial.error = data["epochs"], False, ""
                trial.attempts = data["attempt"]
                trial.started_at = event.time
            case "checkpoint_saved":
                self._saved(Checkpoint.from_json(data["checkpoint"]))
            case "trial_finished":
                self.trials[data["trial"]].finished = True
            case "trial_failed":
                self.trials[data["trial"]].error = data["error"]
            case "stop_advised" | "trial_stopped":
                advice = StopAdvice.from_json(data["advice"])
                known = self.trials.setdefault(advice.trial, TrialState())
                known.advice, known.stopped = advice, event.kind == "trial_stopped"
            case "sample_drawn":
                self._drawn(Cell.from_json(data["cell"]), Sample.from_json(data["sample"]))
            case "verdict_given":
                self._judged(Verdict.from_json(data["verdict"]))
            case "file_quarantined":
                self._forget(data)
            case "choice_made":
                self.choice = Choice.from_json(data["choice"])
            case "study_finished":
                self.finished_at = event.time
            case "run_interrupted":
                pass

    def _saved(self, checkpoint: Checkpoint) -> None:
        place = checkpoint.trial, checkpoint.epoch
        known = self.checkpoints.get(place)
        self.checkpoints[place] = checkpoint
        if self.follower and known != checkpoint:
            self.follower.saved(checkpoint)

    def _drawn(self, cell: Cell, sample: Sample) -> None:
        known = cell.key in self.samples
        if self.follower:
            cell = self.follower.same(cell)
        self.cells[cell.key], self.samples[cell.key] = cell, sample
        if self.follower and not known:
            self.follower.drawn(cell)

    def _judged(self, verdict: Verdict) -> None:
        place = verdict.cell_key, verdict.judge, verdict.judge_version
        known = place in self.verdicts
        self.verdicts[place] = verdict
        self.judges.add((verdict.judge, verdict.judge_version))
        if self.follower:
            self.follower.forget() if known else self.follower.judged(verdict)

    def _forget(self, data: Mapping[str, Any]) -> None:
        """A quarantined file is as if it had never been made: what it held must be done again."""
        self.quarantined.append(dict(data))
        if self.follower:
            self.follower.forget()
        if "epoch" in data:
            self.checkpoints.pop((data["trial"], data["epoch"]), None)
            if trial := self.trials.get(data["trial"]):
                trial.finished = False
        if "cell_key" in data:
            self.samples.pop(data["cell_key"], None)
            for judge in self.judges:
                self.verdicts.pop((data["cell_key"], *judge), None)


def replay(events: Iterable[Event], state: StudyState | None = None) -> StudyState:
    """The state after these events; a plain one, or the one that is given, which must be empty."""
    state = StudyState() if state is None else state
    with nothing_collected():
        for event in events:
            state.apply(event)
    return state
