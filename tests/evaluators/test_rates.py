"""Rates, plateaus and the choice, against published tables, a study done by hand, and simulated curves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import exp, isnan
from random import Random

import pytest

from evaluators.rates import epoch_rate, epoch_rates, plateau, select, smoothed, wilson
from orchestrator.core.errors import StudyError
from orchestrator.core.study import Cell, Drawing, EpochRate, Prompt, Verdict

BY_HAND = {119: 6, 131: 6, 143: 6, 147: 6, 160: 4, 170: 4, 180: 5, 190: 5}
"""Passes of six per epoch in a three-character study whose epoch 143 was adopted by eye."""


def rates_of(passes: dict[int, int], n: int, *, trial: str = "trio", weight: float = 1.0) -> list[EpochRate]:
    return [
        EpochRate(trial, epoch, weight, k, n, 0, k / n, *wilson(k, n)) if n else epoch_rate(trial, epoch, weight, [])
        for epoch, k in passes.items()
    ]


def cell(epoch: int, seed: int, **changes: object) -> Cell:
    drawn = Cell("trio", epoch, "a", f"sha{epoch}", 1.0, Prompt("p", "text", ("a",)), seed, Drawing(), "base")
    return replace(drawn, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("passes", "n", "low", "high"),
    [
        (6, 6, 0.610, 1.0),
        (5, 6, 0.436, 0.970),
        (10, 10, 0.722, 1.0),
        (9, 10, 0.596, 0.982),
        (20, 20, 0.839, 1.0),
        (42, 42, 0.916, 1.0),
        (0, 6, 0.0, 0.390),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_gives_the_published_intervals(passes: int, n: int, low: float, high: float) -> None:
    assert wilson(passes, n) == pytest.approx((low, high), abs=5e-4)


def test_wilson_is_symmetric_narrows_with_n_and_widens_with_confidence() -> None:
    low, high = wilson(3, 10)
    assert wilson(7, 10) == pytest.approx((1 - high, 1 - low))
    assert low < 0.3 < high
    assert wilson(30, 100)[1] - wilson(30, 100)[0] < high - low
    assert wilson(3, 10, confidence=0.99)[0] < low


@pytest.mark.parametrize(("passes", "n"), [(7, 6), (-1, 6), (1, 0)])
def test_wilson_refuses_impossible_counts(passes: int, n: int) -> None:
    with pytest.raises(ValueError, match="passes of"):
        wilson(passes, n)


def test_wilson_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = Random(3)
    covered = 0
    for _ in range(4000):
        truth = rng.uniform(0.5, 0.99)
        low, high = wilson(sum(rng.random() < truth for _ in range(10)), 10)
        covered += low <= truth <= high
    assert 0.94 < covered / 4000 < 0.97


def test_epoch_rates_count_only_judged_select_cells_and_leave_unscored_out_of_the_rate() -> None:
    cells = [cell(1, seed) for seed in range(4)] + [cell(2, seed) for seed in range(3)]
    cells += [cell(2, 90 + seed, purpose="confirm") for seed in range(5)]
    outcomes = ["pass", "fail", "unscored", None, "pass", "pass", None] + ["pass"] * 5
    verdicts = {
        c.key: Verdict(c.key, "judge", 1, outcome)  # type: ignore[arg-type]
        for c, outcome in zip(cells, outcomes, strict=True)
        if outcome
    }
    first, second = epoch_rates(reversed(cells), verdicts)
    assert (first.epoch, first.passes, first.scored, first.unscored, first.rate) == (1, 1, 2, 1, 0.5)
    assert (second.epoch, second.passes, second.scored, second.unscored, second.rate) == (2, 2, 2, 0, 1.0)
    assert (first.low, first.high) == wilson(1, 2)


def test_epoch_rates_keep_trials_and_weights_apart() -> None:
    cells = [cell(1, 1), cell(1, 1, weight=0.8), cell(1, 1, trial="other"), cell(2, 1)]
    cells[2] = replace(cells[2], adapter_sha256="another")
    verdicts = {c.key: Verdict(c.key, "judge", 1, "pass") for c in cells}
    coordinates = [(r.trial, r.weight, r.epoch) for r in epoch_rates(cells, verdicts)]
    assert coordinates == [("other", 1.0, 1), ("trio", 0.8, 1), ("trio", 1.0, 1), ("trio", 1.0, 2)]


def test_an_epoch_with_nothing_scored_has_no_rate_and_the_widest_interval() -> None:
    rate = epoch_rate("trio", 3, 1.0, [Verdict("k", "judge", 1, "unscored", reason="blank")])
    assert isnan(rate.rate)
    assert (rate.scored, rate.unscored, rate.low, rate.high) == (0, 1, 0.0, 1.0)


def test_smoothing_gives_neighbours_half_a_vote_each() -> None:
    curve = rates_of({1: 0, 2: 6, 3: 0}, 6)
    assert smoothed(curve) == pytest.approx([3 / 9, 6 / 12, 3 / 9])
    assert smoothed(curve[:1]) == [0.0]


def test_the_study_done_by_hand_adopts_the_epoch_its_author_adopted() -> None:
    selection = select(rates_of(BY_HAND, 6), 0.05)
    assert selection.plateau == (119, 143)
    assert selection.chosen.epoch == 143
    assert selection.runner_up is not None
    assert selection.runner_up.epoch == 131
    assert selection.reason == (
        "Epoch 143 passed 6 of 6 and is the right edge of the plateau, epochs 119 to 143, where the smoothed rate"
        " stays within 5 points of its best, 100 % at epoch 119; at epoch 147 it is 92 %."
    )


def test_a_wider_margin_admits_the_next_epoch() -> None:
    assert plateau(rates_of(BY_HAND, 6), 0.1) == (119, 147)


def test_one_lucky_epoch_makes_no_plateau() -> None:
    lucky = rates_of({1: 1, 2: 6, 3: 1, 4: 4, 5: 5, 6: 5, 7: 5, 8: 3}, 6)
    assert plateau(lucky, 0.09) == (5, 7)
    assert select(lucky, 0.09).chosen.epoch == 7


def test_the_chosen_epoch_is_never_worse_itself_than_the_margin_allows() -> None:
    curve = rates_of({1: 8, 2: 20, 3: 20, 4: 20, 5: 17, 6: 20, 7: 10}, 20)
    selection = select(curve, 0.1)
    assert selection.plateau == (3, 5)
    assert selection.chosen.epoch == 4
    assert "by its own rate too, the last good epoch" in selection.reason


def test_an_epoch_held_up_only_by_its_neighbours_is_not_the_best() -> None:
    selection = select(rates_of({1: 0, 2: 6, 3: 4, 4: 6, 5: 0}, 6), 0.05)
    assert selection.plateau == (2, 4)
    assert selection.chosen.epoch == 4


def test_a_curve_still_rising_adopts_its_last_epoch_and_says_so() -> None:
    selection = select(rates_of({1: 0, 2: 2, 3: 5, 4: 8}, 8), 0.05)
    assert selection.chosen.epoch == 4
    assert selection.plateau == (4, 4)
    flat_end = select(rates_of({1: 0, 2: 8, 3: 8, 4: 8}, 8), 0.05)
    assert flat_end.reason.endswith("it had not fallen when training ended.")


def test_one_epoch_is_its_own_plateau_and_has_no_runner_up() -> None:
    selection = select(rates_of({7: 3}, 4), 0.05)
    assert (selection.chosen.epoch, selection.plateau, selection.runner_up) == (7, (7, 7), None)
    assert selection.reason == "Epoch 7 passed 3 of 4 and is the only epoch that was judged."


def test_all_zero_still_names_an_epoch_and_admits_that_nothing_speaks_for_it() -> None:
    selection = select(rates_of({1: 0, 2: 0, 3: 0}, 6), 0.05)
    assert (selection.chosen.epoch, selection.plateau) == (3, (1, 3))
    assert selection.reason.startswith("No image of any epoch passed")


def test_everything_unscored_is_an_error_a_person_can_act_on() -> None:
    with pytest.raises(StudyError, match="no image could be scored"):
        select(rates_of({1: 0, 2: 0}, 0), 0.05)
    with pytest.raises(StudyError, match="no image could be scored"):
        select([], 0.05)


def test_unscored_epochs_are_passed_over() -> None:
    curve = rates_of({1: 2, 3: 6, 5: 6}, 6) + rates_of({2: 0, 4: 0}, 0)
    assert select(curve, 0.05).chosen.epoch == 5


def test_weights_compete_by_their_best_smoothed_rate() -> None:
    strong = rates_of({1: 4, 2: 5, 3: 4}, 6, weight=1.0)
    weak = rates_of({1: 5, 2: 6, 3: 6}, 6, weight=0.8)
    selection = select(strong + weak, 0.05)
    assert (selection.chosen.weight, selection.chosen.epoch) == (0.8, 3)
    assert "of trio at weight 0.8" in selection.reason


def test_equal_weights_are_settled_in_favour_of_the_one_nearest_to_1() -> None:
    curve = {1: 4, 2: 6, 3: 6}
    candidates = [rates_of(curve, 6, weight=w) for w in (0.6, 1.0, 1.2)]
    assert select([r for series in candidates for r in series], 0.05).chosen.weight == 1.0


def test_the_order_of_the_rates_does_not_matter() -> None:
    curve = rates_of(BY_HAND, 6) + rates_of({119: 5, 131: 5}, 6, weight=0.8)
    shuffled = Random(0).sample(curve, len(curve))
    assert select(shuffled, 0.05) == select(curve, 0.05)


def test_a_plateau_of_two_series_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match="one trial at one weight"):
        plateau(rates_of({1: 1}, 2) + rates_of({1: 1}, 2, weight=0.5), 0.05)


def simulated_truth(rng: Random, epochs: int) -> list[float]:
    """A rate that rises, stays, and falls: logistic rise and fall at random places."""
    rise, fall = rng.uniform(0.3, 0.6) * epochs, rng.uniform(0.75, 1.1) * epochs
    low, top, drop = rng.uniform(-3, -1), rng.uniform(1.5, 3), rng.uniform(1, 4)

    def step(z: float) -> float:
        return 1 / (1 + exp(-z))

    return [
        step(low + (top - low) * step((e - rise) / (0.05 * epochs)) - drop * step((e - fall) / (0.04 * epochs)))
        for e in range(1, epochs + 1)
    ]


def test_choosing_by_plateau_beats_choosing_the_highest_count() -> None:
    """Mean loss of true rate against the best epoch, over simulated studies of 30 epochs with 8 seeds each."""
    rng = Random(11)
    ours, highest, studies = 0.0, 0.0, 400
    for _ in range(studies):
        truth = simulated_truth(rng, 30)
        curve = rates_of({e: sum(rng.random() < p for _ in range(8)) for e, p in enumerate(truth, 1)}, 8)
        best_count = max(r.passes for r in curve)
        lucky = rng.choice([r.epoch for r in curve if r.passes == best_count])
        ours += max(truth) - truth[select(curve, 0.05).chosen.epoch - 1]
        highest += max(truth) - truth[lucky - 1]
    assert ours / studies < 0.045
    assert ours < 0.85 * highest


def test_rates_need_no_heavy_library() -> None:
    program = "import sys, evaluators.rates; print(sorted({'torch', 'numpy', 'scipy', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
