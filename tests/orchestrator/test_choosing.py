"""Policies that draw part of the grid, inside a study: what is asked for, when it ends, what is adopted, resuming."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest

from evaluators.config import DecideConfig
from evaluators.grid import pictures_to_choose_by
from orchestrator.core.errors import StudyError
from orchestrator.core.study import Cell, Choice, Outcome, Sample, Verdict
from orchestrator.deciding.decisions import Adopt, Decision, Draw, Finish, Judge, Standing, Train
from orchestrator.deciding.policy import decide, wanted_cells
from orchestrator.planning.wanted import Target
from orchestrator.record.state import StudyState
from tests.orchestrator.scripted import JUDGE, checkpoint, target

EPOCHS = 24
TRIAL = "main-00000001"


def study(policy: str, **decide_by: object) -> Target:
    wanted = target(epochs=EPOCHS, seeds=(1, 2, 3))
    config = DecideConfig.model_validate({"policy": policy, "confirm_seeds": 5, **decide_by})
    return replace(wanted, decide=config)


def saved(*epochs: int) -> StudyState:
    state = StudyState()
    for epoch in epochs:
        state.checkpoints[TRIAL, epoch] = checkpoint(TRIAL, epoch)
    return state


def outcome(cell: Cell) -> Outcome:
    """Epochs 11 to 15 pass nine of ten seeds, the others one of four; without the adapter nothing passes."""
    good = cell.seed % 10 != 0 if 11 <= cell.epoch <= 15 else cell.seed % 4 == 0
    return "pass" if good and cell.weight else "fail"


def work_through(wanted: Target, state: StudyState, rounds: int = 400) -> list[tuple[Decision, ...]]:
    """Do what the policy asks for until it finishes; every answer comes one round late."""
    told: list[tuple[Decision, ...]] = []
    flying: frozenset[Draw | Judge] = frozenset()
    for _ in range(rounds):
        decisions = decide(wanted, state, Standing(flying))
        told.append(decisions)
        if Finish() in decisions:
            return told
        for work in flying:
            (drawn if isinstance(work, Draw) else judged)(state, work.cells)
        for decision in decisions:
            if isinstance(decision, Adopt):
                state.choice = decision.choice
        flying = frozenset(work for work in decisions if isinstance(work, Draw | Judge))
    raise AssertionError("the study does not end")


def drawn(state: StudyState, cells: Iterable[Cell]) -> None:
    for cell in cells:
        assert cell.key not in state.samples, "drawn twice"
        state.cells[cell.key] = cell
        state.samples[cell.key] = Sample(cell.key, f"grid/{cell.key}.png", "s", 0.1)


def judged(state: StudyState, cells: Iterable[Cell]) -> None:
    for cell in cells:
        state.verdicts[cell.key, *JUDGE] = Verdict(cell.key, *JUDGE, outcome(cell))


def choice_of(state: StudyState) -> Choice:
    assert state.choice is not None
    return state.choice


def test_adaptive_adopts_a_good_epoch_within_its_budget_and_ends() -> None:
    wanted, state = study("adaptive", budget=120), saved(*range(1, EPOCHS + 1))
    work_through(wanted, state)
    choosing = [cell for cell in state.cells.values() if cell.purpose == "select"]
    assert len(choosing) <= 120
    choice = choice_of(state)
    assert 11 <= choice.epoch <= 15
    assert choice.n == 5, "confirmed on fresh seeds"
    assert choice.plateau[0] <= choice.epoch <= choice.plateau[1]
    assert choice.selection.scored
    assert "smallest loss" in choice.reason


def test_adaptive_draws_a_control_that_speaks_about_no_epoch() -> None:
    wanted, state = study("adaptive", budget=80, target_regret=0.0), saved(*range(1, EPOCHS + 1))
    work_through(wanted, state)
    controls = [cell for cell in state.cells.values() if cell.weight == 0]
    assert len(controls) == 80 // 16
    assert not {cell.key for cell in controls} & set(wanted_cells(wanted, state))
    assert all((cell.key, *JUDGE) in state.verdicts for cell in controls)


def test_a_loose_target_ends_drawing_early() -> None:
    many, few = (
        study("adaptive", budget=110, target_regret=0.0),
        study("adaptive", budget=110, target_regret=0.2, margin=0.3),
    )
    counts = []
    for wanted in (many, few):
        state = saved(*range(1, EPOCHS + 1))
        work_through(wanted, state)
        counts.append(sum(cell.purpose == "select" for cell in state.cells.values()))
    assert counts[1] < counts[0] <= 110


def test_drawing_ends_when_its_time_is_over() -> None:
    """Every picture takes a tenth of a second: 60 of them are six seconds."""
    wanted, state = study("adaptive", budget=110, target_regret=0.0, minutes=0.1), saved(*range(1, EPOCHS + 1))
    work_through(wanted, state)
    assert 60 <= sum(cell.purpose == "select" for cell in state.cells.values()) <= 60 + wanted.grid.batch
    assert choice_of(state).n == 5


def test_adaptive_draws_while_training_at_its_pace() -> None:
    wanted, state = study("adaptive", budget=96, stop="advise"), saved(*range(1, 13))
    training = frozenset({Train(TRIAL)})
    assert Train(TRIAL) in decide(wanted, state, Standing())
    for _ in range(60):
        works = [w for w in decide(wanted, state, Standing(training)) if isinstance(w, Draw | Judge)]
        if not works:
            break
        for work in works:
            (drawn if isinstance(work, Draw) else judged)(state, work.cells)
    assert len(state.samples) == 24, "half of half of the budget"
    assert {cell.epoch for cell in state.cells.values()} <= set(range(1, 13))


def test_what_is_under_way_is_neither_asked_again_nor_forgotten() -> None:
    wanted, state = study("adaptive", budget=96), saved(*range(1, EPOCHS + 1))
    slots = {"train": 1, "draw": 99, "judge": 1}
    first = [w for w in decide(wanted, state, Standing(slots=slots)) if isinstance(w, Draw)]  # type: ignore[arg-type]
    assert first
    again = decide(wanted, state, Standing(frozenset(first), slots=slots))  # type: ignore[arg-type]
    flying = {cell.key for work in first for cell in work.cells}
    assert not flying & {cell.key for work in again if isinstance(work, Draw) for cell in work.cells}
    assert Finish() not in again


def test_a_resumed_study_asks_for_the_same_and_never_draws_twice() -> None:
    wanted, state = study("adaptive", budget=96), saved(*range(1, EPOCHS + 1))
    with pytest.raises(AssertionError, match="does not end"):
        work_through(wanted, state, rounds=30)
    done = set(state.samples)
    copy = replace_state(state)
    assert decide(wanted, state, Standing()) == decide(wanted, copy, Standing())
    work_through(wanted, state)
    assert done <= set(state.samples)
    assert decide(wanted, state, Standing()) == (Finish(),)


def replace_state(state: StudyState) -> StudyState:
    """The same facts, learnt in another order."""
    other = saved(*range(EPOCHS, 0, -1))
    other.cells = dict(reversed(list(state.cells.items())))
    other.samples = dict(reversed(list(state.samples.items())))
    other.verdicts = dict(reversed(list(state.verdicts.items())))
    return other


def test_coarse_to_fine_draws_both_rounds_and_adopts() -> None:
    wanted, state = study("coarse_to_fine", coarse_every=4, finalist_seeds=6), saved(*range(1, EPOCHS + 1))
    work_through(wanted, state)
    choosing = [cell for cell in state.cells.values() if cell.purpose == "select"]
    assert len(choosing) == 6 * 3 + 3 * 6 == pictures_to_choose_by(wanted.grid, wanted.decide, EPOCHS)
    assert Counter(cell.seed > 3 for cell in choosing) == {False: 18, True: 18}
    assert choice_of(state).epoch == 12


def test_seeds_that_confirm_took_no_part_in_choosing() -> None:
    wanted = study("adaptive", budget=60, confirm_first_seed=10)
    state = saved(*range(1, EPOCHS + 1))
    work_through(wanted, state)
    by_purpose = {p: {c.seed for c in state.cells.values() if c.purpose == p} for p in ("select", "confirm")}
    assert by_purpose["confirm"]
    assert not by_purpose["select"] & by_purpose["confirm"]


def test_pictures_of_the_full_grid_are_used_when_the_policy_changes() -> None:
    full, state = study("full"), saved(*range(1, EPOCHS + 1))
    work_through(full, state)
    before = len(state.samples)
    state.choice = None
    work_through(study("adaptive", budget=50), state)
    assert len([c for c in state.cells.values() if c.purpose == "select"]) == EPOCHS * 3, "the budget was spent already"
    assert len(state.samples) <= before + 5, "at most another epoch is confirmed"


def test_a_retrained_epoch_is_asked_about_anew() -> None:
    wanted, state = study("adaptive", budget=60), saved(*range(1, EPOCHS + 1))
    work_through(wanted, state)
    adopted = choice_of(state).epoch
    state.checkpoints[TRIAL, adopted] = replace(state.checkpoints[TRIAL, adopted], sha256="f" * 64)
    assert all(cell.epoch != adopted for cell in wanted_cells(wanted, state).values())


def test_nothing_scored_is_an_error_a_person_can_act_on() -> None:
    wanted, state = study("coarse_to_fine", finalist_seeds=1), saved(*range(1, EPOCHS + 1))
    for _ in range(60):
        for work in decide(wanted, state, Standing()):
            assert isinstance(work, Draw | Judge)
            if isinstance(work, Draw):
                drawn(state, work.cells)
            else:
                for cell in work.cells:
                    state.verdicts[cell.key, *JUDGE] = Verdict(cell.key, *JUDGE, "unscored", reason="blank")
        if len(state.verdicts) == 18:
            break
    with pytest.raises(StudyError, match="no image could be scored"):
        decide(wanted, state, Standing())
