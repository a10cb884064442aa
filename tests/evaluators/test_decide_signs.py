"""Who breaks first and how, and what is said before the rate falls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluators.decide.analysis import analyse
from evaluators.decide.read import read_rows
from evaluators.decide.signs import early_warnings, sign_curves
from evaluators.decide.table import Context, Row, Sign, make_table

EXAMPLES = Path(__file__).resolve().parents[2] / "conf" / "examples"
DRIFT, COUNT = Sign("drift", "kana"), Sign("count")


def study(signs: dict[int, tuple[Sign, ...]], *, seeds: int = 6, failing: int = 10**6) -> list[Row]:
    """Epochs 1 to 12; one picture of an epoch has its signs; from `failing` on all pictures have, and fail."""
    rows = []
    for epoch in range(1, 13):
        for seed in range(seeds):
            bad = epoch >= failing
            mine = signs.get(epoch, ()) if bad or seed == 0 else ()
            rows.append(Row(epoch, "fail" if bad else "pass", f"{epoch}-{seed}", signs=mine))
    return rows


def warned(rows: list[Row], past: list[float] | None = None) -> list[tuple[int, str]]:
    table = make_table(rows)
    begun = np.array(past or [0.0] * table.epochs.size)
    return [(w.epoch, w.sentence) for w in early_warnings(table, begun, 0.1, weight=0)]


def test_a_colour_that_drifts_is_told_before_anything_fails() -> None:
    (trial,) = analyse(read_rows(EXAMPLES / "trio_v2.csv")).trials
    assert trial.decision is not None
    first = trial.warnings[0]
    assert first.epoch == 147
    assert first.sentence.startswith("drift on kanachan is seen for the first time: on 1 of 6 pictures")
    table, drifted = trial.table, Sign("drift", "kanachan")
    assert (
        min(table.epochs[table.epoch[i]] for i in range(78) if drifted in table.signs[i] and not table.passed[i]) == 160
    )
    breaks = {sign.name: sign.breaks_at for sign in trial.signs}
    assert breaks["kanachan"] == breaks["drift"] == 160
    assert [name for name in breaks if breaks[name]] == ["drift", "kanachan"], "two odd pictures break nobody"


def test_the_newest_epoch_may_be_the_first_with_a_sign() -> None:
    ((epoch, sentence),) = warned(study({12: (DRIFT,)}))
    assert epoch == 12
    assert sentence.startswith("drift on kana is seen for the first time: on 1 of 6 pictures")
    assert sentence.endswith("on none of 66 before")


def test_a_sign_that_went_away_or_was_always_there_is_no_first_sign() -> None:
    assert warned(study({9: (DRIFT,)})) == []
    assert warned(study(dict.fromkeys(range(1, 13), (COUNT,)))) == []


def test_what_is_only_seen_on_failed_pictures_warns_of_nothing_early() -> None:
    said = warned(study(dict.fromkeys(range(8, 13), (DRIFT,)), failing=8))
    assert [sentence.split(":")[0] for _, sentence in said] == ["drift on kana has become more"]


def test_a_rise_is_dated_and_must_last() -> None:
    table = make_table(study(dict.fromkeys(range(8, 13), (COUNT,)), failing=8))
    (count,) = sign_curves(table, 0.1)
    assert count.breaks_at in (7, 8)
    once = make_table(
        [Row(e, "pass", f"{e}-{s}", signs=(COUNT,) if e == 5 else ()) for e in range(1, 13) for s in range(6)]
    )
    assert sign_curves(once, 0.1)[0].breaks_at is None


@pytest.mark.parametrize(
    ("outcomes", "lost"),
    [
        ("ppff", [(3, "seed 7 fails again: it had passed at 2")]),
        ("ppfp", []),
        ("pppf", []),
        ("pfpfpfff", []),
        ("ppppppff", [(7, "seed 7 fails again: it had passed at 6")]),
    ],
)
def test_a_seed_is_lost_when_it_fails_more_than_its_luck_explains(outcomes: str, lost: list[tuple[int, str]]) -> None:
    assert warned([Row(e, "pass" if o == "p" else "fail", "7") for e, o in enumerate(outcomes, 1)]) == lost


def test_a_seed_lost_when_everything_is_lost_is_no_warning() -> None:
    rows = [Row(e, "pass" if e < 9 else "fail", "7", context=Context(c)) for e in range(1, 13) for c in ("a", "b")]
    lost = "fails again: it had passed at 8"
    assert warned(rows) == [(9, f"seed 7 (a) {lost}"), (9, f"seed 7 (b) {lost}")]
    assert [sentence for _, sentence in warned(rows, [0.0] * 7 + [1.0] * 5) if lost in sentence] == []


def test_overtraining_is_dated_where_it_is_likelier_than_not() -> None:
    past = [0.0] * 8 + [0.3, 0.6, 0.9, 1.0]
    assert warned(study({}), past) == [(10, "overtraining has begun, more likely than not")]
    unseen = [Row(r.epoch, "unscored" if r.epoch == 10 else r.outcome, r.seed) for r in study({})]
    assert [epoch for epoch, _ in warned(unseen, past)] == [11], "nobody has looked at 10"


def test_signs_at_another_weight_warn_of_nothing() -> None:
    rows = study({})
    rows += [Row(r.epoch, r.outcome, r.seed, 1.2, signs=(DRIFT,)) for r in study({})]
    assert warned(rows) == []
