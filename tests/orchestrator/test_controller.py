"""The controller over a scripted crew: whole studies, killed before and after single facts, and with damaged files.

Only the work itself is scripted (`scripted.py`); ledger, state, policy, volume and reconciliation are the real ones, on
a real folder.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from infra.volume import LocalVolume
from orchestrator.controller import Controller, Interrupted
from orchestrator.core.errors import AdapterError, DatasetError, StudyError
from orchestrator.core.fence import Fence
from orchestrator.core.layout import Layout
from orchestrator.core.study import Sample
from orchestrator.crew.work import Failed, InlineCrew, Lost, Report, Slice
from orchestrator.deciding.decisions import Draw, Judge, Standing, Train, Work
from orchestrator.deciding.policy import decide
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Event, EventKind, Ledger, read_events
from orchestrator.record.state import StudyState, replay
from orchestrator.watching.watch import LogFile
from tests.orchestrator.scripted import ScriptedArtist, ScriptedTrainer, ScriptedWorkers, target
from trainer.checkpoints import published_checkpoints
from trainer.facts import StepLogged

TRIAL = "main-00000001"


class Killed(BaseException):
    """The driver dies here: nothing after this line happens."""


class DyingLedger(Ledger):
    """Dies before or after writing its n-th fact (from 0)."""

    def __init__(self, path: Path, at: int, *, before: bool) -> None:
        super().__init__(path)
        self._left, self._before = at, before

    def record_all(self, facts: Iterable[tuple[EventKind, Mapping[str, object]]]) -> list[Event]:
        events = []
        for fact in facts:
            dies, self._left = self._left == 0, self._left - 1
            if dies and self._before:
                raise Killed
            events += super().record_all([fact])
            if dies:
                raise Killed
        return events


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, [0.0]

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


def run(
    root: Path,
    wanted: Target | None = None,
    *,
    crew: InlineCrew | None = None,
    ledger: Callable[[Path], Ledger] = Ledger,
    clock: Clock | None = None,
    watchers: Sequence[object] = (),
) -> StudyState:
    """One run of the driver over a folder, as `orchestrator.run` does it; returns what is known at its end."""
    layout, wanted, clock = Layout(root), wanted or target(), clock or Clock()
    workers = ScriptedWorkers(root, epochs=max(t.epochs for t in wanted.trials))
    state = replay(read_events(layout.ledger), StudyState.packed())
    with closing(ledger(layout.ledger)) as book:
        controller = Controller(
            wanted,
            LocalVolume(layout),
            book,
            state,
            published=lambda trial: published_checkpoints(layout, trial),
            watchers=watchers,  # type: ignore[arg-type]
            clock=clock,
            sleep=clock.sleep,
        )
        controller.reconcile()
        if controller.done():
            return state
        controller.open("scripted", {}, base_sha256="b", dataset_sha256="d")
        controller.run(crew or InlineCrew(workers, turn_s=0))
    assert replay(read_events(layout.ledger)) == state, "what is known is what the ledger says"
    return state


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """These tests kill the driver, not the machine: what a process wrote survives it without reaching the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "study"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> StudyState:
    return run(tmp_path_factory.mktemp("undisturbed") / "study")


def calls(root: Path) -> Counter[str]:
    return Counter(ScriptedWorkers(root).calls())


def test_a_study_trains_draws_judges_chooses_and_ends(root: Path) -> None:
    state = run(root)
    assert state.choice is not None
    assert (state.choice.epoch, state.choice.n) == (5, 5)
    assert state.finished_at is not None
    assert len(state.checkpoints) == 6
    assert len(state.samples) == len(state.verdicts) == 6 * 4 + 5
    assert set(calls(root).values()) == {1}, "nothing is done twice"


def test_epochs_are_drawn_while_training_goes_on(root: Path) -> None:
    run(root)
    kinds = [e.kind for e in read_events(Layout(root).ledger)]
    assert kinds.index("sample_drawn") < len(kinds) - kinds[::-1].index("checkpoint_saved") - 1


def test_running_again_does_nothing(root: Path) -> None:
    first = run(root)
    before = Layout(root).ledger.read_bytes()
    assert run(root, crew=FailingCrew()) == first
    assert Layout(root).ledger.read_bytes() == before


class FailingCrew(InlineCrew):
    """Nobody may be asked for anything."""

    def __init__(self) -> None:
        super().__init__(ScriptedWorkers(Path("/nonexistent")))

    def submit(self, work: Work, samples: Sequence[Sample] = (), attempt: int = 0) -> None:  # noqa: ARG002
        raise AssertionError(f"asked for {work.name}")


def facts(root: Path) -> int:
    return sum(1 for _ in read_events(Layout(root).ledger))


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_killed_at_any_fact_the_study_ends_the_same_and_does_nothing_twice(
    tmp_path: Path, undisturbed: StudyState, before: bool
) -> None:
    """Killed at its first fact, restarted and killed at the second of that run, and so on until a run gets through."""
    root = tmp_path / "study"
    for kills in range(100):
        try:
            state = run(root, ledger=partial(DyingLedger, at=kills, before=before))
            break
        except Killed:
            continue
    assert kills > 5
    assert state.choice == undisturbed.choice
    assert state.checkpoints == undisturbed.checkpoints
    assert state.samples == undisturbed.samples
    assert state.verdicts == undisturbed.verdicts
    twice = {call: n for call, n in calls(root).items() if n > 1}
    assert not twice, "what reached the volume is adopted, not made again"


@pytest.mark.parametrize("at", range(0, 68, 6))
def test_killed_once_at_any_place_the_choice_is_the_undisturbed_one(
    root: Path, undisturbed: StudyState, at: int
) -> None:
    with pytest.raises(Killed):
        run(root, ledger=lambda path: DyingLedger(path, at, before=True))
    state = run(root)
    assert state.choice == undisturbed.choice
    assert set(calls(root).values()) == {1}


def test_a_line_cut_short_by_the_death_of_the_driver_is_done_again(root: Path, undisturbed: StudyState) -> None:
    with pytest.raises(Killed):
        run(root, ledger=lambda path: DyingLedger(path, 20, before=False))
    book = Layout(root).ledger
    book.write_bytes(book.read_bytes()[:-15])
    assert run(root).choice == undisturbed.choice
    assert set(calls(root).values()) == {1}


def test_more_seeds_draw_only_what_is_new(root: Path) -> None:
    run(root)
    before = calls(root)
    state = run(root, target(seeds=[1, 2, 3, 4, 9]))
    new = calls(root) - before
    assert len(state.verdicts) == 6 * 5 + 5 + (5 if state.choice and state.choice.epoch != 5 else 0)
    assert sum(1 for call in new if call.endswith(" 9")) == 6
    assert not [call for call in new if call.startswith("train")]


def test_more_epochs_continue_the_same_trial(root: Path) -> None:
    first = run(root)
    state = run(root, target(epochs=8))
    assert [call for call in calls(root) if call.startswith("train")] == [f"train {TRIAL} {e}" for e in range(1, 9)]
    assert set(calls(root).values()) == {1}
    assert state.choice is not None
    assert first.choice is not None
    assert state.choice.epoch == first.choice.epoch, "epochs 7 and 8 are worse by script"


def test_a_corrupt_adapter_is_set_apart_and_retrained_never_merged(root: Path, undisturbed: StudyState) -> None:
    run(root)
    layout = Layout(root)
    layout.adapter(TRIAL, 3).write_bytes(b"flipped")
    state = run(root)
    assert calls(root)[f"train {TRIAL} 3"] == 2
    assert sum(n for call, n in calls(root).items() if call.startswith("draw")) == 29, "no picture is drawn again"
    assert state.checkpoints == undisturbed.checkpoints
    assert state.choice == undisturbed.choice
    (fact,) = state.quarantined
    assert (fact["epoch"], fact["reason"]) == (3, "adapter is corrupt")
    assert (layout.root / fact["moved_to"] / "adapter.safetensors").read_bytes() == b"flipped"


def test_an_adapter_that_is_damaged_while_the_study_runs_is_retrained(root: Path, undisturbed: StudyState) -> None:
    class Damage:
        """Damages epoch 2 the moment it is recorded, once."""

        done = False

        def event(self, event: Event, state: StudyState) -> None:  # noqa: ARG002
            if not self.done and event.kind == "checkpoint_saved" and event.data["checkpoint"]["epoch"] == 2:
                Layout(root).adapter(TRIAL, 2).write_bytes(b"flipped")
                self.done = True

        def step(self, step: StepLogged) -> None: ...

        def note(self, sentence: str) -> None: ...

    state = run(root, watchers=[Damage()])
    assert state.choice == undisturbed.choice
    assert [q["epoch"] for q in state.quarantined] == [2]
    assert calls(root)[f"train {TRIAL} 2"] == 2


@pytest.mark.parametrize("damage", ["corrupt", "absent"])
def test_a_damaged_picture_is_drawn_again(root: Path, undisturbed: StudyState, damage: str) -> None:
    first = run(root)
    victim = next(iter(first.samples.values()))
    picture = Layout(root).resolve(victim.image)
    picture.unlink() if damage == "absent" else picture.write_bytes(b"?")
    state = run(root)
    assert [q["cell_key"] for q in state.quarantined] == [victim.cell_key]
    assert state.samples == undisturbed.samples
    assert state.verdicts == undisturbed.verdicts
    assert sorted(calls(root).values())[-2:] == [1, 2], "that one picture, and no other, is drawn twice"


class Flaky(InlineCrew):
    """Raises `error` for the first `times` pieces of work of a kind, then works."""

    def __init__(self, root: Path, kind: type[Work], error: StudyError | str, times: int) -> None:
        super().__init__(ScriptedWorkers(root), turn_s=0)
        self.kind, self.error, self.times, self.failed = kind, error, times, 0

    def wait(self, timeout_s: float) -> list[Report]:
        if self._queue and isinstance(self._queue[0][0], self.kind) and self.failed < self.times:
            self.failed += 1
            return [Failed(self._queue.popleft()[0], self.error)]
        return super().wait(timeout_s)


@pytest.mark.parametrize("kind", [Train, Draw, Judge])
def test_work_whose_actor_dies_is_tried_again_after_a_growing_pause(
    root: Path, undisturbed: StudyState, kind: type[Work]
) -> None:
    clock = Clock()
    state = run(root, crew=Flaky(root, kind, "its actor died", 2), clock=clock)
    assert state.choice == undisturbed.choice
    if kind is Train:
        assert sum(clock.slept) == pytest.approx(1.0 + 2.0), "1 s, then 2 s"


class DiesWhileDrawing(InlineCrew):
    """The first three artists die when all but the last picture of their batch are written."""

    def __init__(self, root: Path) -> None:
        super().__init__(ScriptedWorkers(root), turn_s=0)
        self.root, self.deaths = root, 0

    def wait(self, timeout_s: float) -> list[Report]:
        work = self._queue[0][0] if self._queue else None
        if isinstance(work, Draw) and len(work.cells) > 1 and self.deaths < 3:
            self.deaths += 1
            self._queue.popleft()
            ScriptedWorkers(self.root).artist().draw(work.cells[:-1])
            return [Failed(work, "its actor died")]
        return super().wait(timeout_s)


def test_of_a_batch_whose_actor_died_only_unfinished_cells_are_drawn_again(root: Path, undisturbed: StudyState) -> None:
    crew = DiesWhileDrawing(root)
    state = run(root, crew=crew, clock=Clock())
    assert crew.deaths == 3
    assert state.choice == undisturbed.choice
    drawn = [call for call in ScriptedWorkers(root).calls() if call.startswith("draw")]
    assert len(drawn) == len(set(drawn)) == len(undisturbed.samples)


class Unlucky(InlineCrew):
    """Loses the first `times` pieces of work of a kind with their machine, then works; `away` first it has no hands."""

    def __init__(self, root: Path, kind: type[Work], times: int, *, away: int = 0) -> None:
        super().__init__(ScriptedWorkers(root), turn_s=0)
        self.kind, self.times, self.away, self.lost = kind, times, away, 0
        if away:
            self.slots = {"train": 1, "draw": 0, "judge": 1}

    def awaited(self) -> str:
        return "an inference actor" if self.away else ""

    def wait(self, timeout_s: float) -> list[Report]:
        if self.away:
            self.away -= 1
            self.slots = {"train": 1, "draw": 0 if self.away else 1, "judge": 1}
        if self._queue and isinstance(self._queue[0][0], self.kind) and self.lost < self.times:
            self.lost += 1
            return [Lost(self._queue.popleft()[0], "its machine was lost")]
        return super().wait(timeout_s)


@pytest.mark.parametrize("kind", [Train, Draw, Judge])
def test_work_that_is_lost_with_its_machine_is_no_attempt_at_it(
    root: Path, undisturbed: StudyState, kind: type[Work]
) -> None:
    clock = Clock()
    state = run(root, crew=Unlucky(root, kind, 12), clock=clock)
    assert state.choice == undisturbed.choice
    assert max(clock.slept) <= 60.0, "the rest does not grow for ever"


def test_work_that_is_lost_with_every_machine_is_given_up(root: Path) -> None:
    with pytest.raises(
        StudyError, match="train main-00000001: lost with its machine 21 times; the last time: its mach"
    ):
        run(root, crew=Unlucky(root, Train, 99), clock=Clock())
    assert replay(read_events(Layout(root).ledger)).trials[TRIAL].error == "its machine was lost"
    assert run(root).choice is not None, "the same command continues"


def test_hands_that_are_still_to_come_are_waited_for(root: Path, undisturbed: StudyState) -> None:
    state = run(root, crew=Unlucky(root, Draw, 0, away=40), clock=Clock())
    assert state.choice == undisturbed.choice


def test_an_attempt_has_a_higher_number_than_any_that_was_seen_on_the_volume(root: Path) -> None:
    """The ledger may have lost its newest facts with a disk; a worker of then must not publish any more."""
    Fence(Layout(root).attempt(TRIAL), 7).enter()
    run(root)
    started = [e.data["attempt"] for e in read_events(Layout(root).ledger) if e.kind == "trial_started"]
    assert started == [8]


def test_a_trial_that_keeps_failing_is_recorded_and_ends_the_study_with_its_error(root: Path) -> None:
    with pytest.raises(StudyError, match="gave up after 3 attempts: its actor died"):
        run(root, crew=Flaky(root, Train, "its actor died", 99))
    state = replay(read_events(Layout(root).ledger))
    assert state.trials[TRIAL].error == "its actor died"
    assert state.finished_at is None
    assert run(root).choice is not None, "the same command continues"


def test_an_error_a_person_must_mend_is_not_tried_again_but_other_work_is_finished(root: Path) -> None:
    wanted = target(trials=["a-00000001", "b-00000001"])

    class Broken(ScriptedWorkers):
        def trainer(self, trial: str, attempt: int = 0) -> ScriptedTrainer:  # noqa: ARG002
            if trial.startswith("a"):
                raise DatasetError("unreadable picture", where="x.png")
            return super().trainer(trial)

    with pytest.raises(DatasetError, match=r"x\.png"):
        run(root, wanted, crew=InlineCrew(Broken(root), turn_s=0))
    state = replay(read_events(Layout(root).ledger))
    assert {trial for trial, _ in state.checkpoints} == {"b-00000001"}
    assert len(state.verdicts) == 24
    assert state.choice is None, "nothing is adopted on half the evidence"


def test_a_sound_adapter_that_cannot_be_merged_is_given_up(root: Path) -> None:
    class Unfit(ScriptedWorkers):
        def artist(self) -> ScriptedArtist:
            raise AdapterError("does not fit the base", where="adapter.safetensors")

    with pytest.raises(AdapterError, match="does not fit"):
        run(root, crew=InlineCrew(Unfit(root), turn_s=0), clock=Clock())


def test_a_picture_the_judge_cannot_read_is_unscored_not_failed(root: Path) -> None:
    class Blind(InlineCrew):
        def wait(self, timeout_s: float) -> list[Report]:
            work = self._queue[0][0] if self._queue else None
            if isinstance(work, Judge) and work.cells[0].epoch == 1:
                self._queue.popleft()
                return [Failed(work, "Traceback:\nValueError: no face")]
            return super().wait(timeout_s)

    state = run(root, crew=Blind(ScriptedWorkers(root), turn_s=0))
    unscored = [v for v in state.verdicts.values() if v.outcome == "unscored"]
    assert {state.cells[v.cell_key].epoch for v in unscored} == {1}
    assert len(unscored) == 4
    assert {v.reason for v in unscored} == {"ValueError: no face"}
    assert state.choice is not None


def test_a_request_to_stop_is_heeded_between_two_reports(root: Path, undisturbed: StudyState) -> None:
    controllers: list[Controller] = []

    class Stopping(InlineCrew):
        def wait(self, timeout_s: float) -> list[Report]:
            controllers[0].stop_requested = facts(root) > 10
            return super().wait(timeout_s)

    layout = Layout(root)
    state = StudyState()
    with closing(Ledger(layout.ledger)) as book:
        controllers.append(
            Controller(
                target(),
                LocalVolume(layout),
                book,
                state,
                published=lambda trial: published_checkpoints(layout, trial),
            )
        )
        with pytest.raises(Interrupted):
            controllers[0].run(Stopping(ScriptedWorkers(root), turn_s=0))
    assert [e.kind for e in read_events(layout.ledger)][-1] == "run_interrupted"
    assert run(root).choice == undisturbed.choice
    assert set(calls(root).values()) == {1}


def test_a_request_to_end_finishes_the_work_in_hand_and_starts_nothing(root: Path, undisturbed: StudyState) -> None:
    """What was submitted is recorded, and training ends with its next epoch instead of within it."""
    controllers: list[Controller] = []
    asked_for: list[Work] = []

    class Ending(InlineCrew):
        def submit(self, work: Work, samples: Sequence[Sample] = (), attempt: int = 0) -> None:
            assert not controllers[0].end_requested, "nothing new is started"
            asked_for.append(work)
            super().submit(work, samples, attempt)

        def wait(self, timeout_s: float) -> list[Report]:
            if facts(root) > 10:
                controllers[0].end()
            return super().wait(timeout_s)

    layout = Layout(root)
    with closing(Ledger(layout.ledger)) as book, closing(LogFile(layout.log)) as log:
        state, volume = StudyState(), LocalVolume(layout)
        published = partial(published_checkpoints, layout)
        controllers.append(Controller(target(), volume, book, state, published=published, watchers=[log]))
        with pytest.raises(Interrupted):
            controllers[0].run(Ending(ScriptedWorkers(root), turn_s=0))
    assert controllers[0].in_flight == ()
    assert layout.log.read_text().count(" stopping | on request") == 1
    drawn = {cell.key for work in asked_for if isinstance(work, Draw) for cell in work.cells}
    judged = {cell.key for work in asked_for if isinstance(work, Judge) for cell in work.cells}
    assert drawn == set(state.samples)
    assert judged == {key for key, *_ in state.verdicts}
    assert [e.kind for e in read_events(layout.ledger)][-1] == "run_interrupted"
    assert run(root).choice == undisturbed.choice
    assert set(calls(root).values()) == {1}


def test_two_trials_compete(root: Path) -> None:
    state = run(root, target(trials=["a-00000001", "b-00000001"]))
    assert state.choice is not None
    assert state.choice.runner_up is not None
    assert len(state.checkpoints) == 12


def test_without_a_judge_pictures_are_drawn_and_nothing_is_adopted(root: Path) -> None:
    state = run(root, target(judge=None))
    assert len(state.samples) == 24
    assert not state.verdicts
    assert state.choice is None
    assert state.finished_at is not None


def test_a_trainer_that_saves_less_than_it_was_asked_for_is_not_trusted(root: Path) -> None:
    class Short(ScriptedTrainer):
        def advance(self, turn_s: float) -> Slice:  # noqa: ARG002
            return Slice(done=True)

    class Lazy(ScriptedWorkers):
        def trainer(self, trial: str, attempt: int = 0) -> ScriptedTrainer:  # noqa: ARG002
            return Short(self, trial)

    with pytest.raises(StudyError, match=r"these epochs are not on the volume: \[1, 2, 3, 4, 5, 6\]"):
        run(root, crew=InlineCrew(Lazy(root), turn_s=0))


def test_the_choice_is_the_same_in_whatever_order_facts_arrive(undisturbed: StudyState) -> None:
    state = StudyState()
    for kind in ("checkpoints", "verdicts", "samples", "cells"):
        for key, value in reversed(list(getattr(undisturbed, kind).items())):
            getattr(state, kind)[key] = value
    (adopt,) = decide(target(), state, Standing())
    assert adopt.choice == undisturbed.choice  # type: ignore[union-attr]
