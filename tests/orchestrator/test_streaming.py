"""A study streams: an epoch's first verdicts are there before the next epoch is, and the newest epoch goes first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from infra.config import ClusterConfig
from infra.volume import LocalVolume
from orchestrator.controller import Controller
from orchestrator.core.errors import StudyError
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Sample, Verdict
from orchestrator.crew.actors import RayCrew
from orchestrator.crew.work import Crew, InlineCrew, Slice
from orchestrator.deciding.decisions import Draw, Standing, Work
from orchestrator.deciding.policy import decide
from orchestrator.record.ledger import Event, Ledger, read_events
from orchestrator.record.state import StudyState, replay
from tests.orchestrator.scripted import ScriptedCritic, ScriptedTrainer, ScriptedWorkers, target
from trainer.checkpoints import published_checkpoints

EPOCHS = 4
DEADLINE_S = 240.0
"""Only a failure waits so long."""


def run(root: Path, crew: Crew) -> list[Event]:
    """A whole study; what was recorded, in order."""
    layout = Layout(root)
    with closing(crew), closing(Ledger(layout.ledger)) as book:
        controller = Controller(
            target(epochs=EPOCHS),
            LocalVolume(layout),
            book,
            StudyState(),
            published=lambda trial: published_checkpoints(layout, trial),
        )
        controller.open("streams", {}, base_sha256="b", dataset_sha256="d")
        controller.run(crew)
    return list(read_events(layout.ledger))


def first_verdicts(events: Sequence[Event]) -> dict[int, int]:
    """Where the first verdict on each epoch stands among the facts."""
    state = replay(events)
    found: dict[int, int] = {}
    for place, event in enumerate(events):
        if event.kind == "verdict_given":
            found.setdefault(state.cells[event.data["verdict"]["cell_key"]].epoch, place)
    return found


def saved(events: Sequence[Event]) -> dict[int, int]:
    """Where each epoch's checkpoint stands among the facts."""
    return {e.data["checkpoint"]["epoch"]: at for at, e in enumerate(events) if e.kind == "checkpoint_saved"}


class SlowTrainer(ScriptedTrainer):
    """Takes several turns for an epoch, as training does."""

    turns = 0

    def advance(self, turn_s: float) -> Slice:
        self.turns += 1
        return super().advance(turn_s) if self.turns % 4 == 0 or not self.missing else Slice()


class SlowWorkers(ScriptedWorkers):
    def trainer(self, trial: str, attempt: int = 0) -> ScriptedTrainer:  # noqa: ARG002
        return SlowTrainer(self, trial)


def test_first_verdicts_come_before_the_next_epoch_where_there_is_time(tmp_path: Path) -> None:
    root = tmp_path / "study"
    events = run(root, InlineCrew(SlowWorkers(root, epochs=EPOCHS), turn_s=0))
    judged, there = first_verdicts(events), saved(events)
    assert sorted(there) == [1, 2, 3, 4]
    for epoch in range(1, EPOCHS):
        assert there[epoch] < judged[epoch] < there[epoch + 1]


class Watched(InlineCrew):
    """Notes the epoch of every drawing, and the newest saved one that was not drawn whole at the time."""

    def __init__(self, root: Path) -> None:
        super().__init__(ScriptedWorkers(root, epochs=EPOCHS), turn_s=0)
        self.layout = Layout(root)
        self.order: list[tuple[int, int]] = []

    def submit(self, work: Work, samples: Sequence[Sample] = (), attempt: int = 0) -> None:
        if isinstance(work, Draw) and work.cells[0].purpose == "select":
            state = replay(read_events(self.layout.ledger))
            asked = decide(target(epochs=EPOCHS), state, Standing())
            value = next(one for one in asked if isinstance(one, Draw))
            assert work.cells == value.cells, "what is done is what the policy's value says"
            lacking = [e for _, e in state.checkpoints if sum(c.epoch == e for c in state.cells.values()) < 4]
            self.order.append((work.cells[0].epoch, max(lacking)))
        super().submit(work, samples, attempt)


def test_where_there_is_no_time_the_newest_epoch_still_goes_first(tmp_path: Path) -> None:
    crew = Watched(tmp_path / "study")
    run(tmp_path / "study", crew)
    assert len(crew.order) == EPOCHS * 2
    assert all(drawn == newest for drawn, newest in crew.order)
    assert [drawn for drawn, _ in crew.order] != sorted(drawn for drawn, _ in crew.order)


@dataclass(frozen=True)
class WaitingWorkers(ScriptedWorkers):
    """Each in a process of its own: an epoch is not ended before a verdict on the one before has been given."""

    def trainer(self, trial: str, attempt: int = 0) -> ScriptedTrainer:  # noqa: ARG002
        return WaitingTrainer(self, trial)

    def critic(self) -> ScriptedCritic:
        return MarkingCritic(self.root.parent)


class WaitingTrainer(ScriptedTrainer):
    began = 0.0

    def advance(self, turn_s: float) -> Slice:
        before = self.missing[0] - 1 if self.missing else 0
        if before and not (self.workers.root.parent / f"judged-{before}").exists():
            self.began = self.began or time.monotonic()
            if time.monotonic() - self.began > DEADLINE_S:
                raise StudyError(f"nobody judged epoch {before} while epoch {before + 1} was trained")
            time.sleep(0.01)
            return Slice()
        return super().advance(turn_s)


class MarkingCritic(ScriptedCritic):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def judge(self, cells: Sequence[Cell], samples: Sequence[Sample]) -> list[Verdict]:
        for cell in cells:
            (self.folder / f"judged-{cell.epoch}").touch()
        return super().judge(cells, samples)


def test_actors_draw_and_judge_while_the_next_epoch_is_trained(tmp_path: Path) -> None:
    """If they did not, the training would never end."""
    root = tmp_path / "study"
    cluster = ClusterConfig(inference_actors=1, threads=1, silence_s=DEADLINE_S)
    events = run(root, RayCrew(WaitingWorkers(root, epochs=EPOCHS), cluster, train_threads=1).open())
    there = saved(events)
    assert sorted(there) == [1, 2, 3, 4]
    drawn = [at for at, event in enumerate(events) if event.kind == "sample_drawn"]
    assert drawn[0] < there[2], "pictures are recorded while training goes on"
