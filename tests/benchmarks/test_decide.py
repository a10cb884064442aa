"""The page of the simulated studies: what it promises, and that it says so when a promise is broken."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.decide import SPACE, lines_of, measured, study
from benchmarks.decide_page import STRIDES, Line, promises, report
from benchmarks.worlds import SETTINGS, Setting, World
from evaluators.decide.situation import Situation


def lines(adaptive: float = 0.025, coarse: float = 0.04, covered: float = 0.95) -> list[Line]:
    """Three studies of every promised setting, with these regrets and coverage."""
    found = []
    for setting in SETTINGS:
        for policy, regret, marks in (
            ("adaptive", adaptive, (102, 144, 230, 252)),
            ("coarse to fine", coarse, STRIDES),
        ):
            found += [Line(setting.name, policy, at, (regret, regret, regret), 0.03, covered, 1.0) for at in marks]
    return found


def broken(found: list[Line]) -> set[str]:
    return {re.sub(r".*: ", "", promise.what) for promise in promises(found) if not promise.kept}


def test_every_promise_is_looked_at() -> None:
    assert len(promises(lines())) == 3 + len(SETTINGS) * len(STRIDES) + 1
    assert broken(lines()) == set()
    assert broken(lines(adaptive=0.031)) == {"mean regret at most 0.030"}
    assert broken(lines(adaptive=0.05)) == {
        *(f"mean regret at most {bound}" for bound in ("0.045", "0.030", "0.040")),
        "adaptive is not worse than coarse to fine",
    }
    (coverage,) = broken(lines(covered=0.92))
    assert "at least 93 % of the epochs" in coverage


def test_the_page_says_what_was_not_kept() -> None:
    page = report("About.", lines(adaptive=0.031), {"seed SD 0": [(12, 0.01), (0, 0.0)]}, {1: 0.5}, "command", 120.0)
    assert page.count("**not kept**") == 1
    assert "2 minutes of CPU time" in page
    assert "| adaptive | 230 | 0.0310 ± 0.0000 | 0 % | 0.0300 | 0.950 | 1.000 |" in page
    assert "1 of 2 trainings stopped, 12 of 150 epochs saved in each; 0.50 points" in page


def test_a_lead_is_counted_study_by_study() -> None:
    ours, theirs = (Line("s", "p", 1, regrets, 0.0, 1.0, 1.0) for regrets in ((0.1, 0.3), (0.2, 0.4)))
    assert ours.ahead_of(theirs) == pytest.approx((0.1, 0.0))


def test_one_study_measures_every_policy_at_every_mark() -> None:
    (setting,) = SETTINGS[:1]
    found = {(line.policy, line.pictures): line for line in lines_of(setting, [study(setting, range(0), 5)])}
    assert {at for policy, at in found if policy == "adaptive"} == {102, 144, 230, 252}
    assert {at for policy, at in found if policy == "coarse to fine"} == set(STRIDES)
    assert found["full", 900].regret < 0.2
    assert np.isnan(found["by hand", 252].covered)


def test_without_a_picture_the_prior_covers_everything() -> None:
    nothing = measured(World(Setting(), 0), "nothing", Situation(SPACE, SPACE.planned))
    assert nothing[4] == 1.0
