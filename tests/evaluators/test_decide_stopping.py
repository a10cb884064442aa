"""When drawing is enough, and when training may stop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from benchmarks.decide import stopped_training
from benchmarks.worlds import Setting
from evaluators.decide.choice import Decision, decide
from evaluators.decide.curve import Curve, estimate
from evaluators.decide.stopping import Mode, behind, enough_pictures, training_advice
from evaluators.decide.table import Row, make_table


def curve_of(rates: np.ndarray, pictures: int) -> Curve:
    """A curve of epochs 1, 2, ... with these rates, `pictures` of each."""
    rng = np.random.default_rng(0)
    rows = [
        Row(epoch, "pass" if rng.random() < rate else "fail")
        for epoch, rate in enumerate(rates, 1)
        for _ in range(pictures)
    ]
    return estimate(make_table(rows), draws=800)


@pytest.fixture(scope="module")
def sure() -> Decision:
    """One good epoch among bad ones, with many pictures."""
    return decide(curve_of(np.array([0.2, 0.3, 0.5, 0.97, 0.5, 0.3]), 80), 0.1)


@pytest.fixture(scope="module")
def unsure() -> Decision:
    return decide(curve_of(np.full(30, 0.6), 2), 0.1)


def test_a_sure_choice_needs_no_more_pictures(sure: Decision) -> None:
    said = enough_pictures(sure, drawn=480)
    assert said is not None
    assert said.rule == "regret"
    assert "epoch 4" in said.sentence


def test_an_unsure_one_goes_on_until_budget_or_time_are_spent(unsure: Decision) -> None:
    assert enough_pictures(unsure, drawn=60, target_regret=0.01) is None
    budget = enough_pictures(unsure, drawn=60, budget=60)
    assert budget is not None
    assert budget.rule == "budget"
    late = enough_pictures(unsure, drawn=60, budget=90, seconds_left=0)
    assert late is not None
    assert late.rule == "time"


def test_few_pictures_are_never_enough_by_themselves(sure: Decision) -> None:
    assert enough_pictures(sure, drawn=39) is None


def test_a_small_chance_of_being_far_off_is_enough(sure: Decision) -> None:
    poor = replace(sure, chosen=replace(sure.chosen, regret=0.05), chance_of_regret=0.04)
    said = enough_pictures(poor, drawn=480)
    assert said is not None
    assert said.rule == "chance"


def fallen(epochs: int) -> np.ndarray:
    """Rates that rise to .95 at epoch 30 and fall to .4 after epoch 60."""
    x = np.arange(1, epochs + 1)
    return np.asarray(0.95 * expit((x - 20) / 4) - 0.55 * expit((x - 60) / 3))


@pytest.mark.parametrize(("mode", "action"), [("advise", "advise"), ("on", "stop"), ("off", "train")])
def test_training_whose_best_is_behind_may_stop(mode: Mode, action: str) -> None:
    advice = training_advice(curve_of(fallen(80), 4), planned_epochs=150, exposures=160, mode=mode)
    assert advice.action == action
    assert advice.saved_epochs == (0 if mode == "off" else 70)
    if mode != "off":
        assert advice.best_epoch is not None
        assert 28 <= advice.best_epoch <= 58
        assert advice.chance > 0.95


@pytest.mark.parametrize("epochs", [25, 55])
def test_training_that_rises_or_stays_goes_on(epochs: int) -> None:
    advice = training_advice(curve_of(fallen(epochs), 4), planned_epochs=150, exposures=100, mode="on")
    assert advice.action == "train"
    assert advice.chance < 0.5


def test_the_minimum_of_exposures_is_kept() -> None:
    curve = curve_of(fallen(80), 4)
    advice = training_advice(curve, planned_epochs=150, exposures=160, mode="on", min_exposures=200)
    assert advice.action == "train"
    assert "160 of the 200 exposures" in advice.reason


def test_training_that_is_over_is_not_stopped() -> None:
    assert training_advice(curve_of(fallen(80), 4), planned_epochs=80, exposures=80, mode="on").action == "train"


def test_without_verdicts_on_the_newest_epochs_nothing_is_advised() -> None:
    assert training_advice(None, planned_epochs=10, exposures=5, mode="on").action == "train"
    judged = [Row(e, "pass") for e in range(1, 40)]
    table = make_table(judged, epochs=range(1, 81))
    advice = training_advice(estimate(table, draws=300), planned_epochs=150, exposures=160, mode="on")
    assert advice.action == "train"
    assert "too few of the newest" in advice.reason


def test_behind_needs_something_on_both_sides() -> None:
    draws = np.full((1, 4, 10), 0.5)
    assert behind(draws, np.array([True] * 4), 0.05)[0] == 0.0
    assert behind(draws, np.array([False] * 4), 0.05)[0] == 0.0


def test_a_low_rate_that_falls_may_only_not_have_risen() -> None:
    draws = np.repeat(np.array([0.4, 0.4, 0.1, 0.1])[None, :, None], 10, axis=2)
    newest = np.array([False, False, True, True])
    assert behind(draws, newest, 0.1)[0] == 0.0
    assert behind(draws * 2, newest, 0.1)[0] == 1.0


def test_stopping_by_itself_gives_little_away() -> None:
    """A few of the simulated trainings of `python -m benchmarks.decide`."""
    outcomes = [stopped_training(Setting(), number) for number in range(8)]
    assert np.mean([lost for _, lost in outcomes]) < 0.02
