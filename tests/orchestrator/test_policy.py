"""The policy, one scripted state at a time: what it asks for, in which order, and when it is content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from evaluators.config import GridConfig
from evaluators.grid import select_cells
from orchestrator.core.errors import StudyError
from orchestrator.core.study import Cell, Sample, Verdict
from orchestrator.deciding.decisions import Adopt, Draw, Finish, Judge, Role, Standing, Train
from orchestrator.deciding.policy import cells_beside, choose, conclude, confirmation, decide, rates, wanted_cells
from orchestrator.planning.wanted import Target
from orchestrator.record.state import StudyState
from tests.orchestrator.scripted import JUDGE, checkpoint, passes, target

TRIAL = "main-00000001"


def saved(state: StudyState, *epochs: int, trial: str = TRIAL) -> StudyState:
    for epoch in epochs:
        state.checkpoints[trial, epoch] = checkpoint(trial, epoch)
    return state


def drawn(state: StudyState, cells: Iterable[Cell]) -> StudyState:
    for cell in cells:
        state.cells[cell.key] = cell
        state.samples[cell.key] = Sample(cell.key, f"grid/{cell.key}.png", "s", 0.1)
    return state


def judged(state: StudyState, cells: Iterable[Cell]) -> StudyState:
    for cell in cells:
        drawn(state, [cell])
        state.verdicts[cell.key, *JUDGE] = Verdict(cell.key, *JUDGE, "pass" if passes(cell) else "fail")
    return state


def cells_of(wanted: Target, epoch: int, trial: str = TRIAL) -> list[Cell]:
    return list(select_cells(checkpoint(trial, epoch), wanted.grid, wanted.base_sha256).values())


def selected(wanted: Target) -> StudyState:
    """All epochs saved and judged, nothing confirmed."""
    state = saved(StudyState(), *range(1, 7))
    return judged(state, wanted_cells(wanted, state).values())


def test_an_empty_study_trains() -> None:
    assert decide(target(), StudyState(), Standing()) == (Train(TRIAL),)


def test_training_under_way_is_not_started_again() -> None:
    assert decide(target(), StudyState(), Standing(frozenset({Train(TRIAL)}))) == ()


def test_a_saved_epoch_is_drawn_while_training_goes_on() -> None:
    wanted, state = target(), saved(StudyState(), 1)
    (work,) = decide(wanted, state, Standing(frozenset({Train(TRIAL)})))
    assert work == Draw(tuple(cells_of(wanted, 1)[:2])), "the grid's batch is 2"


def test_the_newest_epoch_is_drawn_first() -> None:
    wanted, state = target(), saved(StudyState(), 1, 2, 3)
    (work,) = decide(wanted, state, Standing(frozenset({Train(TRIAL)})))
    assert isinstance(work, Draw)
    assert {cell.epoch for cell in work.cells} == {3}


def test_each_free_hand_gets_its_own_cells() -> None:
    wanted, state = target(), saved(StudyState(), 1)
    first, second = decide(
        wanted, state, Standing(frozenset({Train(TRIAL)}), slots={"train": 1, "draw": 2, "judge": 1})
    )
    assert isinstance(first, Draw)
    assert isinstance(second, Draw)
    assert [c.seed for c in (*first.cells, *second.cells)] == [1, 2, 3, 4]


def test_what_is_being_drawn_is_not_drawn_twice() -> None:
    wanted, state = target(), saved(StudyState(), 1)
    under_way = Draw(tuple(cells_of(wanted, 1)[:2]))
    (work,) = decide(
        wanted, state, Standing(frozenset({Train(TRIAL), under_way}), slots={"train": 1, "draw": 2, "judge": 1})
    )
    assert isinstance(work, Draw)
    assert [c.seed for c in work.cells] == [3, 4]


def test_batches_share_adapter_weight_and_prompt() -> None:
    wanted, state = target(seeds=[1, 2, 3], weights=[0.8, 1.0]), saved(StudyState(), 1)
    slots: dict[Role, int] = {"train": 1, "draw": 9, "judge": 1}
    works = decide(wanted, state, Standing(frozenset({Train(TRIAL)}), slots=slots))
    seen = [[(c.weight, c.seed) for c in work.cells] for work in works if isinstance(work, Draw)]
    assert seen == [[(0.8, 1), (0.8, 2)], [(0.8, 3)], [(1.0, 1), (1.0, 2)], [(1.0, 3)]]


def test_drawn_pictures_are_judged_while_others_are_drawn() -> None:
    wanted, state = target(), saved(StudyState(), 1)
    drawn(state, cells_of(wanted, 1)[:2])
    judge, draw = decide(wanted, state, Standing(frozenset({Train(TRIAL)})))
    assert judge == Judge(tuple(cells_of(wanted, 1)[:2]))
    assert draw == Draw(tuple(cells_of(wanted, 1)[2:]))


def test_held_work_is_left_alone_and_the_next_is_taken() -> None:
    wanted, state = target(), saved(StudyState(), 1, 2)
    held = Draw(tuple(cells_of(wanted, 2)[:2]))
    (work,) = decide(wanted, state, Standing(frozenset({Train(TRIAL)}), frozenset({held.name})))
    assert isinstance(work, Draw)
    assert {cell.epoch for cell in work.cells} == {1}


def test_trials_take_turns_in_the_order_of_the_yaml() -> None:
    wanted = target(trials=["a-00000001", "b-00000001"])
    assert decide(wanted, StudyState(), Standing()) == (Train("a-00000001"),)
    state = saved(StudyState(), *range(1, 7), trial="a-00000001")
    judged(state, wanted_cells(wanted, state).values())
    assert decide(wanted, state, Standing()) == (Train("b-00000001"),)


def test_nothing_is_chosen_while_an_epoch_is_missing_or_unjudged() -> None:
    wanted, state = target(), selected(target())
    last = cells_of(wanted, 6)[-1]
    del state.verdicts[last.key, *JUDGE]
    assert decide(wanted, state, Standing()) == (Judge((last,)),)
    assert decide(wanted, state, Standing(frozenset({Judge((last,))}))) == ()
    del state.checkpoints[TRIAL, 4]
    assert Train(TRIAL) in decide(wanted, state, Standing())


def test_the_chosen_epoch_is_drawn_with_fresh_seeds() -> None:
    wanted, state = target(), selected(target())
    (work,) = decide(wanted, state, Standing())
    assert isinstance(work, Draw)
    assert {(c.epoch, c.weight, c.purpose) for c in work.cells} == {(5, 1.0, "confirm")}
    assert not {c.seed for c in work.cells} & set(wanted.grid.seeds)


def test_a_choice_is_adopted_when_the_fresh_seeds_are_judged_and_then_the_study_is_done() -> None:
    wanted, state = target(), selected(target())
    decisions = decide(wanted, state, Standing())
    while not isinstance(decisions[0], Adopt):
        for work in decisions:
            assert isinstance(work, Draw | Judge)
            (drawn if isinstance(work, Draw) else judged)(state, work.cells)
        decisions = decide(wanted, state, Standing())
    (adopt,) = decisions
    assert isinstance(adopt, Adopt)
    choice = adopt.choice
    assert (choice.epoch, choice.plateau, choice.n) == (5, (4, 5), 5)
    assert choice.first_try_rate == pytest.approx(0.8), "the rate of the fresh seeds"
    assert choice.selection.rate == 1.0, "the rate that made it chosen"
    assert choice.interval[0] < 0.8 < choice.interval[1]
    state.choice = choice
    assert decide(wanted, state, Standing()) == (Finish(),)


def test_more_seeds_in_the_yaml_are_drawn_after_a_choice() -> None:
    wanted, state = target(), selected(target())
    wider = target(seeds=[1, 2, 3, 4, 5])
    works = decide(wider, state, Standing(slots={"train": 1, "draw": 99, "judge": 1}))
    assert [[c.seed for c in work.cells] for work in works if isinstance(work, Draw)] == [[5]] * 6
    assert wanted_cells(wanted, state).keys() < wanted_cells(wider, state).keys()


def test_more_epochs_in_the_yaml_continue_the_trial() -> None:
    assert decide(target(epochs=7), selected(target()), Standing()) == (Train(TRIAL),)


def test_a_seed_that_moves_from_fresh_to_selecting_keeps_the_two_apart() -> None:
    fresh = target().decide.confirm_first_seed
    wanted = target(seeds=[1, 2, 3, 4, fresh])
    state = selected(target())
    judged(state, cells_of(wanted, 5))
    cells = [c for c in wanted_cells(wanted, state).values() if c.seed == fresh]
    assert {c.purpose for c in cells} == {"select"}


def test_without_a_judge_the_study_draws_and_ends() -> None:
    wanted, state = target(judge=None), saved(StudyState(), *range(1, 7))
    assert all(isinstance(work, Draw) for work in decide(wanted, state, Standing()))
    drawn(state, wanted_cells(wanted, state).values())
    assert decide(wanted, state, Standing()) == (Finish(),)


def test_fresh_pictures_that_cannot_be_scored_are_no_rate() -> None:
    wanted, state = target(), selected(target())
    selection = choose(wanted, state)
    for cell in confirmation(wanted, state, selection).values():
        drawn(state, [cell])
        state.verdicts[cell.key, *JUDGE] = Verdict(cell.key, *JUDGE, "unscored", reason="blank")
    with pytest.raises(StudyError, match="none of the 5 fresh pictures of epoch 5 could be scored"):
        conclude(wanted, state, selection)


def test_another_judge_reads_everything_again() -> None:
    state = selected(target())
    (work,) = decide(target(judge=("other", 1)), state, Standing())
    assert isinstance(work, Judge)
    assert {c.epoch for c in work.cells} == {6}


def with_shown(wanted: Target) -> Target:
    """The same study with a control without triggers at every second epoch, and the base alone."""
    prompts = [
        *wanted.grid.model_dump()["prompts"],
        {"name": "strangers", "text": "two girls", "role": "control", "seeds": [1], "epochs": {"every": 2}},
        {"name": "base", "text": "a and b", "cast": ["a", "b"], "role": "control", "adapter": False, "seeds": [1]},
    ]
    grid = GridConfig.model_validate(wanted.grid.model_dump() | {"prompts": prompts})
    return replace(wanted, grid=grid)


def test_controls_and_probes_are_drawn_when_nothing_that_counts_is_left() -> None:
    wanted, state = with_shown(target()), saved(StudyState(), 1, 2)
    slots: dict[Role, int] = {"train": 1, "draw": 9, "judge": 1}
    works = decide(wanted, state, Standing(frozenset({Train(TRIAL)}), slots=slots))
    assert [(w.cells[0].prompt.name, w.cells[0].epoch) for w in works if isinstance(w, Draw)] == [
        *[("trio", 2)] * 2,
        *[("trio", 1)] * 2,
        ("base", 0),
        ("strangers", 2),
    ]


def test_controls_and_probes_count_in_no_rate_but_the_study_ends_only_with_them() -> None:
    wanted, state = with_shown(target()), selected(target())
    assert choose(wanted, state) == choose(target(), state)
    for cell in cells_beside(wanted, state).values():
        drawn(state, [cell])
        state.verdicts[cell.key, *JUDGE] = Verdict(cell.key, *JUDGE, "fail")
    assert choose(wanted, state) == choose(target(), state)
    assert rates(wanted, state) == rates(target(), state)
    fresh = confirmation(wanted, state, choose(wanted, state))
    judged(state, fresh.values())
    (adopt,) = decide(wanted, state, Standing())
    assert isinstance(adopt, Adopt)
    state.choice = adopt.choice
    assert decide(wanted, state, Standing()) == (Finish(),)
    lacking = next(key for key in cells_beside(wanted, state))
    del state.verdicts[lacking, *JUDGE]
    (judge,) = decide(wanted, state, Standing())
    assert isinstance(judge, Judge)
    assert judge.cells[0].key == lacking


def test_without_a_judge_controls_and_probes_are_drawn_too() -> None:
    wanted, state = with_shown(target(judge=None)), saved(StudyState(), *range(1, 7))
    drawn(state, wanted_cells(wanted, state).values())
    (draw,) = decide(wanted, state, Standing())
    assert isinstance(draw, Draw)
    assert draw.cells[0].prompt.name == "base"
    drawn(state, cells_beside(wanted, state).values())
    assert decide(wanted, state, Standing()) == (Finish(),)
