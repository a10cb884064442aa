"""Comparisons on shared seeds against published figures."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from evaluators.decide.paired import Pairs, compare, control_outcomes, log_e, mcnemar, outcomes, pairs_of
from evaluators.decide.table import Row, make_table


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(5, 0, 0.0625), (6, 0, 0.03125), (0, 6, 0.03125), (1, 1, 1.0), (0, 0, 1.0), (8, 1, 0.0390625)],
)
def test_mcnemar_is_exact(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == pytest.approx(p)


def test_ten_seeds_cannot_tell_95_from_75_percent() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((5000, 10)) < 0.95, rng.random((5000, 10)) < 0.75
    alone, other = (first & ~second).sum(axis=1), (second & ~first).sum(axis=1)
    significant = [mcnemar(int(won), int(lost)) < 0.05 for won, lost in zip(alone, other, strict=True)]
    assert np.mean(significant) == pytest.approx(0.01, abs=0.006)


def test_looking_after_every_seed_stays_honest() -> None:
    """Under equality the e-process ever reaches 20 in at most one of twenty sequences."""
    ahead = np.random.default_rng(0).random((1500, 300)) < 0.5
    won, lost = np.cumsum(ahead, axis=1), np.cumsum(~ahead, axis=1)
    table = np.array([[log_e(w, n) for n in range(301)] for w in range(301)])
    reached = (table[won, lost] >= log(20)).any(axis=1)
    assert 0.01 < np.mean(reached) <= 0.05


def test_nine_against_ten_is_a_preference_and_no_proof() -> None:
    said = compare(Pairs(both=9, first=1, second=0, neither=0))
    assert (said.first_rate, said.second_rate) == (1.0, 0.9)
    assert said.p_value == 1.0
    assert said.first_better == pytest.approx(0.82, abs=0.01)
    assert said.low < 0 < said.high
    assert not said.settled
    assert said.more_seeds is not None
    assert 30 < said.more_seeds < 400


def test_eight_one_sided_pairs_settle_it() -> None:
    said = compare(Pairs(both=12, first=8, second=0, neither=1))
    assert said.settled
    assert said.e_value > 20
    assert said.more_seeds == 0
    assert said.first_better > 0.99


def test_the_comparison_is_the_mirror_of_its_mirror() -> None:
    one, other = compare(Pairs(10, 6, 2, 1)), compare(Pairs(10, 2, 6, 1))
    assert one.difference == pytest.approx(-other.difference, abs=5e-3)
    assert one.first_better == pytest.approx(1 - other.first_better)
    assert one.e_value == pytest.approx(other.e_value)


def test_nothing_in_common_says_nothing() -> None:
    said = compare(Pairs(0, 0, 0, 0))
    assert np.isnan(said.first_rate)
    assert said.more_seeds is None
    assert said.first_better == pytest.approx(0.5)


def test_only_seeds_scored_with_both_are_pairs() -> None:
    rows = [Row(1, "pass", "1"), Row(1, "fail", "2"), Row(1, "unscored", "3"), Row(1, "pass"), Row(1, "pass", "9")]
    rows += [Row(2, "fail", "1"), Row(2, "fail", "2"), Row(2, "pass", "3"), Row(2, "pass")]
    rows += [Row(1, "fail", "1", weight=0.0), Row(1, "unscored", "9", weight=0.0)]
    table = make_table(rows)
    assert pairs_of(outcomes(table, 1), outcomes(table, 2)) == Pairs(both=0, first=1, second=0, neither=1)
    assert pairs_of(outcomes(table, 1), control_outcomes(table)) == Pairs(both=0, first=1, second=0, neither=0)
