"""The benchmark of the policies replays real decisions, counts every picture, and rounds nothing up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.adaptive import FULL_SEEDS, Result, replayed, report, wanted
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Verdict
from orchestrator.deciding.policy import choose
from tests.orchestrator.scripted import JUDGE, checkpoint, target

EPOCHS = 6


class Pool:
    """Epoch 4 passes nine of ten seeds, the others three; it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def verdicts(self, cells: Iterable[Cell]) -> list[Verdict]:
        said = []
        for cell in cells:
            self.asked.append(cell.key)
            good = cell.weight > 0 and cell.seed % 10 < (9 if cell.epoch == 4 else 3)
            said.append(Verdict(cell.key, *JUDGE, "pass" if good else "fail"))
        return said


def study(tmp_path: Path) -> SimpleNamespace:
    two = target(epochs=EPOCHS, trials=("one-00000001", "two-00000002"))
    return SimpleNamespace(target=two, layout=Layout(tmp_path), config=SimpleNamespace(decide=two.decide))


@pytest.mark.parametrize("policy", ["adaptive", "coarse_to_fine", "full"])
def test_a_replayed_study_draws_what_its_policy_asks_and_finds_the_epoch(tmp_path: Path, policy: str) -> None:
    asks = wanted(study(tmp_path), 1, policy)  # type: ignore[arg-type]
    assert [t.trial for t in asks.trials] == ["two-00000002"]
    pool = Pool()
    saved = [checkpoint("two-00000002", epoch) for epoch in range(1, EPOCHS + 1)]
    state = replayed(asks, saved, pool)  # type: ignore[arg-type]
    assert choose(asks, state).chosen.epoch == 4
    drawn = [cell.key for cell in state.cells.values()]
    assert set(pool.asked) == set(drawn)
    assert all((key, *JUDGE) in state.verdicts for key in drawn)
    full = EPOCHS * FULL_SEEDS
    if policy == "full":
        assert len(drawn) == full
    if policy == "adaptive":
        assert len(drawn) <= full // 3
    assert all(cell.purpose == "select" for cell in state.cells.values())


def test_studies_share_no_seed_to_begin_with(tmp_path: Path) -> None:
    seeds = [set(wanted(study(tmp_path), number, "full").grid.seeds) for number in range(10)]  # type: ignore[arg-type]
    assert sum(map(len, seeds)) == len(set.union(*seeds)) == 10 * FULL_SEEDS


def test_the_table_counts_what_lies_within_and_does_not_round_up() -> None:
    one = Result(0, "one", "adaptive", 90, 2, 0.85, 0.9)
    results = [one, replace(one, study=1, rate=0.849, pictures=96), replace(one, study=2, epoch=3, rate=0.9)]
    said = report(results, {"one": {1: 0.1, 2: 0.85, 3: 0.9}}, 150)
    assert "| adaptive | 2 of 3 | 0.034 | 0.051 | 90 to 96 | 2, 2, 3 |" in said
    assert "| one | 0.100 | 0.850 | 0.900 |" in said
