"""Posteriors of a rate against published figures and simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from evaluators.decide.intervals import Calibration, chance_above, clustered, jeffreys, likeness
from evaluators.rates import wilson


@pytest.mark.parametrize(
    ("passes", "n", "low", "high", "above"),
    [
        (6, 6, 0.670, 1.0, 0.75),
        (5, 6, 0.442, 0.981, 0.25),
        (10, 10, 0.783, 1.0, 0.86),
        (9, 10, 0.619, 0.989, 0.44),
        (20, 20, 0.883, 1.0, 0.96),
        (42, 42, 0.942, 1.0, 0.997),
    ],
)
def test_jeffreys_gives_the_published_intervals(passes: int, n: int, low: float, high: float, above: float) -> None:
    posterior = jeffreys(passes, n)
    assert (posterior.low, posterior.high) == pytest.approx((low, high), abs=1e-3)
    assert chance_above(0.9, passes, n) == pytest.approx(above, abs=6e-3)


def test_jeffreys_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="7 passes of 6"):
        jeffreys(7, 6)


def test_nothing_tried_is_half_and_anything_goes() -> None:
    posterior = jeffreys(0, 0)
    assert (posterior.mean, posterior.low, posterior.high) == (0.5, 0.0, 1.0)


def test_without_shared_seeds_the_clustered_posterior_is_jeffreys() -> None:
    passed = np.array([1.0, 1.0, 0.0, 1.0])
    assert clustered(passed, np.arange(4)) == jeffreys(3, 4)
    assert likeness(passed, np.arange(4)) == 0.0


def test_sharing_seeds_widens_the_interval() -> None:
    passed = np.array([1.0] * 36 + [0.0] * 6)
    alone, shared = clustered(passed, np.arange(42)), clustered(passed, np.repeat(np.arange(6), 7))
    assert shared.high - shared.low > 1.5 * (alone.high - alone.low)
    assert likeness(passed, np.repeat(np.arange(6), 7)) > 0.5


def simulated(rng: np.random.Generator, seed_sd: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Seven epochs of one rate on the same six seeds: the true rate over all seeds, the outcomes, the seeds."""
    logit = rng.uniform(0.5, 3) * np.sqrt(1 + 0.35 * seed_sd**2)
    truth = float(expit(logit + seed_sd * rng.standard_normal(4000)).mean())
    seed = np.tile(np.arange(6), 7)
    passed = rng.random(42) < expit(logit + seed_sd * rng.standard_normal(6)[seed])
    return truth, passed.astype(np.float64), seed


@pytest.mark.parametrize("seed_sd", [0.0, 2.0])
def test_the_clustered_interval_covers_where_pooled_counts_do_not(seed_sd: float) -> None:
    rng = np.random.default_rng(1)
    covered, pooled, studies = 0, 0, 250
    for _ in range(studies):
        truth, passed, seed = simulated(rng, seed_sd)
        posterior = clustered(passed, seed)
        covered += posterior.low <= truth <= posterior.high
        low, high = wilson(int(passed.sum()), passed.size)
        pooled += low <= truth <= high
    assert covered / studies >= 0.93
    if seed_sd:
        assert pooled / studies < 0.8, "what the cluster is there for"


def test_a_judges_errors_are_taken_out_of_a_rate() -> None:
    rng = np.random.default_rng(0)
    judge = Calibration(good=2000, good_passed=1900, bad=2000, bad_failed=1700)
    truth = 0.9
    judged = np.full(4000, truth * 0.95 + (1 - truth) * 0.15)
    corrected = judge.correct(judged, rng)
    assert corrected.mean() == pytest.approx(truth, abs=0.01)
    assert corrected.std() < 0.02


def test_few_labels_leave_their_own_uncertainty() -> None:
    """The published example: rate .9, sensitivity .9, specificity .95, 42 pictures, 50 + 50 labels: SD about .070."""
    rng = np.random.default_rng(0)
    judge = Calibration(good=50, good_passed=45, bad=50, bad_failed=47)
    judged = rng.beta(34.4 + 0.5, 42 - 34.4 + 0.5, 20_000)
    corrected = judge.correct(judged, rng)
    assert 0.055 < corrected.std() < 0.085
    assert corrected.max() <= 1.0


def test_a_judge_no_better_than_a_coin_is_known_as_one() -> None:
    assert not Calibration(50, 26, 50, 25).informative
    assert Calibration(50, 48, 50, 43).informative
    with pytest.raises(ValueError, match="51 of 50"):
        Calibration(50, 51, 50, 1)
