"""A board that is kept says what one made anew would say, after every fact of any history."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.grid import confirm_cells, select_cells
from evaluators.rates import epoch_rates
from orchestrator.core.study import Cell, Outcome, Sample, Verdict
from orchestrator.deciding.board import Board
from orchestrator.deciding.decisions import Standing
from orchestrator.deciding.policy import decide, unjudged, verdicts_of
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Event
from orchestrator.record.packed import Packed
from orchestrator.record.state import StudyState
from tests.orchestrator.scripted import JUDGE, checkpoint, target
from tests.orchestrator.test_controller import run

TRIALS = ("a-00000001", "b-00000001")


def follows(board: Board, wanted: Target, state: StudyState) -> None:
    """The board against plain counting over all cells there are."""
    new = Board(wanted, state)
    cells = board.wanted()
    assert list(cells) == list(new.wanted())
    assert {c.key for c in board.to_draw()} == {c.key for c in new.to_draw()} == cells.keys() - state.samples.keys()
    unread = {key for key in cells if key in state.samples and (key, *JUDGE) not in state.verdicts}
    assert {c.key for c in board.to_judge()} == {c.key for c in new.to_judge()} == unread
    assert board.open() == new.open() == unjudged(wanted, state, cells)
    assert board.rates() == new.rates() == epoch_rates(cells.values(), verdicts_of(wanted, state, cells))
    assert (
        board.counts()
        == new.counts()
        == (
            len(cells.keys() & state.samples.keys()),
            sum((key, *JUDGE) in state.verdicts for key in cells),
        )
    )
    assert board.fresh_counts() == new.fresh_counts()


class Following:
    """Looks at the board after every fact."""

    def __init__(self, wanted: Target) -> None:
        self.wanted, self.facts = wanted, 0

    def event(self, event: Event, state: StudyState) -> None:  # noqa: ARG002
        assert isinstance(state.follower, Board)
        follows(state.follower, self.wanted, state)
        self.facts += 1

    def step(self, step: object) -> None: ...

    def note(self, sentence: str) -> None: ...


def test_it_follows_a_whole_study(tmp_path: Path) -> None:
    watcher = Following(target())
    run(tmp_path / "study", watchers=[watcher])
    assert watcher.facts > 60


@pytest.mark.parametrize("seed", range(20))
def test_it_follows_any_history(seed: int) -> None:
    """Facts in random order: saved anew, drawn twice, judged by another judge or twice, set apart, forgotten."""
    rng = random.Random(seed)
    wanted, plain = target(trials=TRIALS, epochs=3, seeds=[1, 2, 3], weights=[0.8, 1.0]), StudyState()
    state = StudyState(cells=Packed(2), samples=Packed(2), verdicts=Packed(2)) if seed % 2 else StudyState()
    state.follower = board = Board(wanted, state)
    for _ in range(150):
        event = happening(rng, wanted, state)
        state.apply(event)
        plain.apply(event)
        follows(board, wanted, state)
        assert state == plain
    assert state.verdicts
    state.unpack()
    assert (state, type(state.cells)) == (plain, dict)


def happening(rng: random.Random, wanted: Target, state: StudyState) -> Event:
    match rng.choice(["saved", "drawn", "drawn", "drawn", "judged", "judged", "judged", "lost picture", "lost epoch"]):
        case "saved":
            return saved(rng)
        case "drawn" if state.checkpoints:
            cell = rng.choice(possible(wanted, state))
            return Event("sample_drawn", 1.0, {"cell": cell.to_json(), "sample": sample(cell).to_json()})
        case "judged" if state.samples:
            outcomes: Sequence[Outcome] = ("pass", "fail", "unscored")
            judge = rng.choice([JUDGE, JUDGE, JUDGE, ("other", 2)])
            verdict = Verdict(rng.choice(list(state.samples)), *judge, rng.choice(outcomes))
            return Event("verdict_given", 1.0, {"verdict": verdict.to_json()})
        case "lost picture" if state.samples:
            lost = {"cell_key": rng.choice(list(state.samples)), "path": "p", "moved_to": "q", "reason": "corrupt"}
            return Event("file_quarantined", 1.0, lost)
        case "lost epoch" if state.checkpoints:
            trial, epoch = rng.choice(list(state.checkpoints))
            return Event("file_quarantined", 1.0, {"trial": trial, "epoch": epoch, "path": "p", "reason": "corrupt"})
    return saved(rng)


def saved(rng: random.Random) -> Event:
    """An epoch; some are retrained to other bytes, and two epochs in ten share theirs."""
    trial, epoch = rng.choice(TRIALS), rng.randint(1, 4)
    made = checkpoint(trial, epoch)
    if rng.random() < 0.3:
        made = replace(made, sha256=rng.choice(["c" * 64, "d" * 64]))
    return Event("checkpoint_saved", 1.0, {"checkpoint": made.to_json()})


def possible(wanted: Target, state: StudyState) -> list[Cell]:
    one = state.checkpoints[min(state.checkpoints)]
    fresh = confirm_cells(one, 1.0, wanted.grid, wanted.decide, wanted.base_sha256)
    grid = [select_cells(c, wanted.grid, wanted.base_sha256).values() for c in state.checkpoints.values()]
    return [*fresh.values(), *(cell for cells in grid for cell in cells)]


def sample(cell: Cell) -> Sample:
    return Sample(cell.key, f"grid/{cell.key}.png", "s", 0.1)


def test_decisions_are_the_same_with_and_without_a_kept_board() -> None:
    rng, wanted = random.Random(7), target(trials=TRIALS, epochs=3, seeds=[1, 2, 3])
    state, bare = StudyState(), StudyState()
    state.follower = Board(wanted, state)
    for _ in range(200):
        event = happening(rng, wanted, state)
        state.apply(event)
        bare.apply(event)
        kept, made = decide(wanted, state, Standing()), decide(wanted, bare, Standing())
        assert {type(d) for d in kept} == {type(d) for d in made}
        assert [d for d in kept if not hasattr(d, "cells")] == [d for d in made if not hasattr(d, "cells")]


def test_facts_about_one_cell_cost_the_same_in_a_large_study() -> None:
    """What is counted while a fact is taken in: nothing that grows with the study."""
    looked = []
    for epochs in (4, 40):
        wanted, state = target(epochs=epochs), StudyState()
        for epoch in range(1, epochs + 1):
            state.apply(Event("checkpoint_saved", 1.0, {"checkpoint": checkpoint(TRIAL, epoch).to_json()}))
        counting = CountingDict(state.samples)
        state.samples = counting
        state.follower = Board(wanted, state)
        counting.looks = 0
        for cell in list(state.follower.wanted().values())[:8]:
            state.apply(Event("sample_drawn", 1.0, {"cell": cell.to_json(), "sample": sample(cell).to_json()}))
            decide(wanted, state, Standing())
        looked.append(counting.looks)
    assert looked[0] == looked[1] > 0


TRIAL = "main-00000001"


class CountingDict(dict[str, Sample]):
    """Counts how often something is looked up."""

    looks = 0

    def __contains__(self, key: object) -> bool:
        self.looks += 1
        return super().__contains__(key)
