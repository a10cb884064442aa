"""The curve, its band and the choice: on studies done by hand, on simulated ones, and on what is hardly a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from evaluators.decide.analysis import Analysis, analyse
from evaluators.decide.band import band_of
from evaluators.decide.choice import Decision, decide
from evaluators.decide.curve import PROCESS, Curve, estimate
from evaluators.decide.intervals import Calibration
from evaluators.decide.read import read_rows
from evaluators.decide.signs import sign_curves
from evaluators.decide.table import Context, Row, Sign, make_table
from orchestrator.core.study import Outcome

EXAMPLES = Path(__file__).resolve().parents[2] / "conf" / "examples"


def chosen(rows: list[Row], margin: float = 0.05) -> Decision:
    return decide(estimate(make_table(rows)), margin)


def outcome(passed: object) -> Outcome:
    return "pass" if passed else "fail"


def studied(passes: dict[int, int], n: int = 6, weight: float = 1.0) -> list[Row]:
    """`passes` of `n` pictures at each epoch, each on a seed of its own."""
    return [Row(e, outcome(i < k), f"{e}-{i}", weight) for e, k in passes.items() for i in range(n)]


@pytest.mark.parametrize("margin", [0.05, 0.1])
def test_the_trio_done_by_hand_adopts_143_on_a_plateau_and_before_the_fall(margin: float) -> None:
    decision = chosen(read_rows(EXAMPLES / "trio_v2.csv"), margin)
    assert decision.chosen.epoch == 143
    first, last = decision.plateau
    assert 119 <= first <= 143 <= last <= 147
    epochs = [119, 131, 143, 147, 160, 170, 180, 190]
    onset = dict(zip(epochs, decision.band.onset, strict=False))
    assert sum(onset[e] for e in (119, 131, 143)) < 0.1, "overtraining begins after 143"
    assert sum(onset[e] for e in (147, 160, 170)) > 0.5
    assert [seed.seed for seed in decision.hard_seeds] == ["42"]
    assert decision.hard_seeds[0].failed_at == (119, 131)
    assert decision.hard_seeds[0].passed_at == (143,)
    assert decision.runner_up is not None
    assert decision.runner_up.loss > decision.chosen.loss


def test_the_hand_of_the_piggyback_is_held_at_140() -> None:
    decision = chosen(read_rows(EXAMPLES / "keikana_v2.csv"))
    assert decision.chosen.epoch == 140
    assert decision.plateau == (140, 140)
    assert decision.band.past.tolist() == sorted(decision.band.past.tolist())
    assert decision.band.past[-1] > 0.9


def test_without_the_hard_seed_nothing_speaks_for_143_over_131() -> None:
    """The second term of the loss at work: what the later epoch gains, it gains on the seed the others lose."""
    rows = read_rows(EXAMPLES / "trio_v2.csv")
    with_it, without = chosen(rows), chosen([row for row in rows if row.seed != "42"])
    assert with_it.chosen.hard_rate > 0.8
    lead = [d.losses[0, 1] - d.losses[0, 2] for d in (with_it, without)]
    assert lead[0] > lead[1]


def curve_at(draws: list[list[float]]) -> np.ndarray:
    """Draws of one weight from rows of (epochs,)."""
    return np.array(draws).T


def test_the_band_is_the_run_around_the_best_and_the_onset_follows_it() -> None:
    band = band_of(curve_at([[0.1, 0.9, 0.92, 0.9, 0.5, 0.4]] * 3), 0.05)
    assert (band.first, band.last) == (1, 3)
    assert band.onset.tolist() == [0, 0, 0, 0, 1, 0, 0]
    assert band.past.tolist() == [0, 0, 0, 0, 1, 1]


def test_a_rate_that_comes_back_had_not_gone() -> None:
    band = band_of(curve_at([[0.9, 0.5, 0.9, 0.9, 0.9, 0.9]]), 0.05)
    assert band.onset.tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_a_rising_curve_has_no_onset() -> None:
    band = band_of(curve_at([[0.1, 0.3, 0.5, 0.7, 0.9]]), 0.05)
    assert band.onset[-1] == 1
    assert (band.first, band.last) == (4, 4)


def test_one_late_good_draw_does_not_hide_a_fall() -> None:
    band = band_of(curve_at([[0.9, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.88]]), 0.05)
    assert band.onset.argmax() == 2


def simulated(seed: int, seeds: int, *, seed_sd: float) -> tuple[np.ndarray, list[Row]]:
    """True rates of 40 epochs that rise, stay and fall, and a grid on shared seeds."""
    rng = np.random.default_rng(seed)
    x = np.arange(40)
    logit = -1.5 + 4 * expit((x - 15) / 3) - 2.5 * expit((x - 33) / 2)
    effect = seed_sd * rng.standard_normal(seeds)
    nodes = seed_sd * np.random.default_rng(0).standard_normal(4000)
    truth = expit(logit[:, None] + nodes).mean(axis=1)
    passed = rng.random((40, seeds)) < expit(logit[:, None] + effect)
    rows = [Row(int(e) + 1, outcome(passed[e, s]), str(s)) for e in x for s in range(seeds)]
    return truth, rows


@pytest.mark.parametrize("seed_sd", [0.0, 1.5])
def test_intervals_of_the_curve_cover_the_truth(seed_sd: float) -> None:
    covered, regrets = [], []
    for number in range(25):
        truth, rows = simulated(number, 6, seed_sd=seed_sd)
        curve = estimate(make_table(rows), draws=600)
        low, high = (bound[0] for bound in curve.interval())
        covered.append(np.mean((low <= truth) & (truth <= high)))
        regrets.append(truth.max() - truth[decide(curve, 0.05).chosen.epoch - 1])
    assert np.mean(covered) >= 0.93
    assert np.mean(regrets) < 0.04


def test_shared_seeds_are_noticed_and_widen_the_curve() -> None:
    _, alike = simulated(3, 6, seed_sd=2.5)
    own = [Row(row.epoch, row.outcome) for row in alike]
    seeded, plain = estimate(make_table(alike)), estimate(make_table(own))
    assert seeded.process.seeds_matter > 0.95
    assert plain.process.seeds_matter == 0
    width = [float(np.subtract(*c.interval()[::-1]).mean()) for c in (seeded, plain)]
    assert width[0] > 1.3 * width[1]


def test_the_smoother_is_chosen_by_pictures_it_has_not_seen() -> None:
    _, rows = simulated(1, 6, seed_sd=1.5)
    curve = estimate(make_table(rows))
    assert curve.method == PROCESS
    assert curve.losses[PROCESS] < min(loss for name, loss in curve.losses.items() if name != PROCESS)


def test_a_curve_the_process_cannot_follow_falls_to_the_floor() -> None:
    """Good and bad epochs in turn are no curve at all: the local Beta of the smallest width says so better."""
    curve = estimate(make_table(studied({e: 30 * (e % 2) for e in range(1, 41)}, 30)))
    assert curve.method.startswith("local Beta")
    low, high = curve.interval()
    assert np.all(low[0, ::2] > high[0, 1::2])


def test_contexts_are_averaged_with_their_weights() -> None:
    rows = [
        Row(e, outcome(c == "easy"), f"{i}", context=Context(c))
        for e in (1, 2, 3)
        for i in range(30)
        for c in ("easy", "hard")
    ]
    table = make_table(rows)
    even = estimate(table)
    assert even.mean[0, 1] == pytest.approx(0.5, abs=0.05)
    assert even.context_mean[0, :, 1] == pytest.approx([1, 0], abs=0.06)
    assert estimate(table, context_weights={"easy": 3.0}).mean[0, 1] == pytest.approx(0.75, abs=0.05)


def test_weights_of_the_adapter_have_curves_of_their_own() -> None:
    rows = studied({e: 10 if e >= 3 else 4 for e in range(1, 7)}, 12, 0.8) + studied(
        dict.fromkeys(range(1, 7), 3), 12, 1.2
    )
    decision = chosen(rows)
    assert decision.chosen.weight == 0.8
    assert decision.chosen.epoch >= 3
    assert decision.losses.shape == (2, 6)


def test_only_epochs_somebody_looked_at_are_chosen() -> None:
    table = make_table(studied({10: 2, 20: 6, 30: 6}), epochs=range(1, 41))
    decision = decide(estimate(table), 0.05)
    assert decision.chosen.epoch in (20, 30)
    assert decision.runner_up is not None
    assert decision.runner_up.scored


def test_a_known_judge_moves_the_rate_and_not_the_choice() -> None:
    rows = studied(dict(enumerate((3, 8, 14, 17, 17, 17, 14, 9), 1)), 20)
    table = make_table(rows)
    plain = estimate(table)
    judge = Calibration(good=200, good_passed=190, bad=200, bad_failed=170)
    corrected = estimate(table, calibration=judge)
    assert decide(plain, 0.05).chosen.epoch == decide(corrected, 0.05).chosen.epoch
    assert corrected.mean[0, 4] > plain.mean[0, 4]
    assert corrected.mean[0, 0] < plain.mean[0, 0]


def test_who_breaks_first_and_how_is_told() -> None:
    rows = []
    for epoch in range(1, 21):
        for seed in range(8):
            signs: tuple[Sign, ...] = (Sign("drift", "kana"),) if epoch >= 12 else ()
            signs += (Sign("missing", "koharu"),) if seed == 0 else ()
            rows.append(Row(epoch, outcome(not signs), str(seed), signs=signs))
    curves = {curve.name: curve for curve in sign_curves(make_table(rows), 0.1)}
    assert list(curves) == ["drift", "missing", "kana", "koharu"]
    assert curves["drift"].breaks_at is not None
    assert 11 <= curves["drift"].breaks_at <= 13
    assert curves["koharu"].breaks_at is None
    assert curves["kana"].mean[-1] > 0.8
    assert curves["koharu"].mean == pytest.approx(np.full(20, 1 / 8), abs=0.07)


def analysed(rows: list[Row]) -> Analysis:
    analysis = analyse(rows)
    assert analysis.to_json() == analysis.to_json()
    return analysis


def test_no_rows_are_an_empty_analysis() -> None:
    assert analysed([]).trials == ()


def test_nothing_scored_is_said_and_nothing_is_chosen() -> None:
    (trial,) = analysed([Row(e, "unscored", str(s)) for e in (1, 2) for s in range(3)]).trials
    assert trial.decision is None
    assert "6 could not be scored" in trial.reason


def test_only_a_control_is_nothing_to_choose_by() -> None:
    (trial,) = analysed([Row(1, "fail", "1", weight=0.0)]).trials
    assert trial.decision is None


@pytest.mark.parametrize("said", ["pass", "fail"])
def test_one_picture_of_one_epoch(said: Outcome) -> None:
    trial = analysed([Row(7, said)]).best
    assert trial is not None
    assert trial.decision is not None
    assert trial.decision.chosen.epoch == 7
    assert trial.decision.runner_up is None
    assert trial.decision.plateau == (7, 7)


def test_everything_passes() -> None:
    trial = analysed(studied(dict.fromkeys(range(1, 9), 6))).best
    assert trial is not None
    assert trial.reason.startswith("Everything passed")
    assert trial.decision is not None
    assert trial.decision.plateau == (1, 8)
    assert trial.decision.band.onset[-1] > 0.8


def test_everything_fails() -> None:
    trial = analysed(studied(dict.fromkeys(range(1, 9), 0))).best
    assert trial is not None
    assert trial.reason.startswith("Nothing passed")
    assert trial.decision is not None
    assert trial.decision.chosen.rate < 0.2


def test_the_order_of_rows_changes_nothing() -> None:
    first, again = studied({10: 1, 2: 5, 7: 6, 4: 6}), [Row(30, "unscored", "x"), Row(2, "fail", "2-0")]
    rows, mixed = [*first, *again], [again[0], *reversed(first), again[1]]
    assert analysed(rows).to_json() == analysed(mixed).to_json()


def test_several_trials_are_ranked() -> None:
    weak = [Row(r.epoch, r.outcome, r.seed, trial="weak") for r in studied({1: 1, 2: 2, 3: 1})]
    strong = [Row(r.epoch, r.outcome, r.seed, trial="strong") for r in studied({1: 5, 2: 6, 3: 5})]
    silent = [Row(1, "unscored", "1", trial="silent")]
    assert [t.table.trial for t in analysed([*silent, *weak, *strong]).trials] == ["strong", "weak", "silent"]


def test_many_epochs_at_many_weights_are_thinned_out_without_losing_any() -> None:
    rng = np.random.default_rng(0)
    rows = [
        Row(e, outcome(rng.random() < expit(3 - abs(e - 500) / 120 - 3 * abs(w - 1))), "", w)
        for e in range(1, 801)
        for w in (0.6, 1.0, 1.4)
    ]
    curve: Curve = estimate(make_table(rows))
    assert curve.mean.shape == (3, 800)
    decision = decide(curve, 0.05)
    assert decision.chosen.weight == 1.0
    assert 350 < decision.chosen.epoch < 650
