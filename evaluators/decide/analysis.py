"""Everything the statistics say about a table of verdicts, as one value that can be printed or written as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np

from evaluators.decide.choice import Decision, decide
from evaluators.decide.curve import Curve, estimate
from evaluators.decide.intervals import Calibration, Posterior, clustered
from evaluators.decide.paired import Comparison, Pairs, compare, control_outcomes, outcomes, pairs_of
from evaluators.decide.signs import EarlyWarning, SignCurve, early_warnings, sign_curves
from evaluators.decide.stopping import Enough, enough_pictures
from evaluators.decide.table import Row, Table, by_trial, make_table
from evaluators.decide.wording import percent
from evaluators.rates import wilson


@dataclass(frozen=True, eq=False)
class TrialAnalysis:
    """One trial. Without a scored picture there is a table and a reason, and nothing else."""

    table: Table
    reason: str
    curve: Curve | None = None
    decision: Decision | None = None
    pooled: Posterior | None = None
    """The rate over the whole plateau at the chosen weight, seeds counted as the clusters they are; uncorrected."""
    signs: tuple[SignCurve, ...] = ()
    warnings: tuple[EarlyWarning, ...] = ()
    enough: Enough | None = None
    against_runner_up: Comparison | None = None
    against_control: Comparison | None = None


@dataclass(frozen=True, eq=False)
class Analysis:
    """All trials of a table, the one with the smallest loss first; those with nothing scored last."""

    trials: tuple[TrialAnalysis, ...]
    margin: float
    calibration: Calibration | None

    @property
    def best(self) -> TrialAnalysis | None:
        return next((trial for trial in self.trials if trial.decision is not None), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data, ready for `json.dumps`."""
        data = {
            "margin": self.margin,
            "calibration": asdict(self.calibration) if self.calibration else None,
            "trials": [_trial_json(trial) for trial in self.trials],
        }
        return _plain(data)


def analyse(
    rows: Iterable[Row],
    *,
    margin: float = 0.1,
    context_weights: Mapping[str, float] | None = None,
    calibration: Calibration | None = None,
) -> Analysis:
    """Curve, plateau, onset, choice and signs of every trial among the rows."""
    trials = [
        analyse_trial(make_table(of_trial), margin=margin, context_weights=context_weights, calibration=calibration)
        for of_trial in by_trial(rows).values()
    ]
    # Trials share no draws, so they compete by what their chosen epoch is expected to reach.
    trials.sort(key=lambda t: -t.decision.chosen.rate if t.decision else 1.0)
    return Analysis(tuple(trials), margin, calibration)


def analyse_trial(
    table: Table,
    *,
    margin: float,
    context_weights: Mapping[str, float] | None = None,
    calibration: Calibration | None = None,
) -> TrialAnalysis:
    """The same for one trial."""
    if not table.scored.any():
        unscored = f"; {table.unscored} could not be scored" if table.unscored else ""
        return TrialAnalysis(table, f"No picture has a verdict that counts{unscored}: there is nothing to choose by.")
    curve = estimate(table, context_weights=context_weights, calibration=calibration)
    decision = decide(curve, margin)
    weight = table.weights.index(decision.chosen.weight)
    signs = sign_curves(table, margin, weight=weight)
    inside = table.scored & (table.weight == weight)
    inside &= (table.epoch >= decision.band.first) & (table.epoch <= decision.band.last)
    chosen, runner_up = decision.chosen, decision.runner_up
    own = outcomes(table, chosen.epoch, chosen.weight)
    rival = outcomes(table, runner_up.epoch, runner_up.weight) if runner_up else {}
    return TrialAnalysis(
        table=table,
        reason=reason(table, decision),
        curve=curve,
        decision=decision,
        pooled=clustered(table.passed[inside], table.seed[inside]) if inside.any() else None,
        signs=signs,
        warnings=early_warnings(table, decision.band.past, margin, weight=weight),
        enough=enough_pictures(decision, drawn=table.images),
        against_runner_up=_compared(pairs_of(own, rival), margin),
        against_control=_compared(pairs_of(own, control_outcomes(table)), margin),
    )


def _compared(pairs: Pairs, margin: float) -> Comparison | None:
    return compare(pairs, margin=margin) if pairs.n else None


def reason(table: Table, decision: Decision) -> str:
    """Why this epoch, and why not the runner-up, in two or three sentences."""
    chosen, other = decision.chosen, decision.runner_up
    several = f" at weight {chosen.weight:g}" if len(table.weights) > 1 else ""
    passes, scored, _ = table.counts()
    if not passes.sum():
        return f"Nothing passed, so nothing speaks for an epoch; {chosen.epoch}{several} stands in."
    rate = f"{percent(chosen.rate)} ({percent(chosen.low)} to {percent(chosen.high)})"
    sentences = []
    if passes.sum() == scored.sum():
        sentences.append("Everything passed: harder prompts or seeds would tell the epochs apart.")
    if other is None:
        return " ".join([*sentences, f"Epoch {chosen.epoch}{several} is the only one; its rate is {rate}."])
    first, last = decision.plateau
    place = f"on the plateau {first} to {last}" if first < last else "the only one near the best"
    sentences.append(f"Epoch {chosen.epoch}{several} is {place} and has the smallest loss; its rate is {rate}.")
    return " ".join([*sentences, why_not(chosen.weight, decision)])


def why_not(weight: float, decision: Decision) -> str:
    """What the runner-up lost by: the largest of the three parts of the loss."""
    chosen, other = decision.chosen, decision.runner_up
    assert other is not None
    named = f"Epoch {other.epoch}" + (f" at weight {other.weight:g}" if other.weight != weight else "")
    parts = {
        f"gives away {100 * (other.regret - chosen.regret):.1f} points more": other.regret - chosen.regret,
        f"is {100 * (chosen.hard_rate - other.hard_rate):.1f} points worse on hard seeds": 0.5
        * (other.hard_regret - chosen.hard_regret),
        f"is past the onset of overtraining with {percent(other.past)} instead of {percent(chosen.past)}": (
            decision.margin * (other.past - chosen.past)
        ),
    }
    loses_by = max(parts, key=lambda part: parts[part])
    if parts[loses_by] < 0.002:
        return f"{named} is as good as equal."
    return f"{named} comes second: it {loses_by}."


def _trial_json(trial: TrialAnalysis) -> dict[str, Any]:
    table, curve, decision = trial.table, trial.curve, trial.decision
    data: dict[str, Any] = {
        "trial": table.trial,
        "images": table.images,
        "scored": int(table.scored.sum()),
        "unscored": table.unscored,
        "repeated": table.repeated,
        "contradicted": table.contradicted,
        "controls": len(table.control),
        "reason": trial.reason,
    }
    if curve is None or decision is None:
        return data
    onset = decision.band.onset
    return data | {
        "method": curve.method,
        "held_out_log_loss": dict(curve.losses),
        "seeds_matter": curve.process.seeds_matter,
        "chosen": asdict(decision.chosen),
        "runner_up": asdict(decision.runner_up) if decision.runner_up else None,
        "plateau": decision.plateau,
        "plateau_rate": asdict(trial.pooled) if trial.pooled else None,
        "chance_of_regret": decision.chance_of_regret,
        "onset": {"not_yet": onset[-1], **{str(e): p for e, p in zip(table.epochs, onset, strict=False) if p}},
        "hard_seeds": [asdict(seed) for seed in decision.hard_seeds],
        "warnings": [asdict(warning) for warning in trial.warnings],
        "enough": asdict(trial.enough) if trial.enough else None,
        "against_runner_up": asdict(trial.against_runner_up) if trial.against_runner_up else None,
        "against_control": asdict(trial.against_control) if trial.against_control else None,
        "curves": [row for weight in range(len(table.weights)) for row in _curve_json(curve, decision, weight)],
        "signs": [
            {"about": s.about, "name": s.name, "pictures": s.pictures, "breaks_at": s.breaks_at, "share": s.mean}
            for s in trial.signs
        ],
    }


def _curve_json(curve: Curve, decision: Decision, weight: int) -> Iterable[dict[str, Any]]:
    table = curve.table
    passes, scored, unscored = table.counts()
    low, high = curve.interval()
    mean = curve.mean
    for at, epoch in enumerate(table.epochs):
        k, n = int(passes[weight, :, at].sum()), int(scored[weight, :, at].sum())
        yield {
            "weight": table.weights[weight],
            "epoch": int(epoch),
            "passes": k,
            "scored": n,
            "unscored": int(unscored[weight, :, at].sum()),
            "wilson": wilson(k, n),
            "rate": mean[weight, at],
            "low": low[weight, at],
            "high": high[weight, at],
            "loss": decision.losses[weight, at],
            "contexts": [
                {
                    "prompt": context.prompt,
                    "layout": context.layout,
                    "passes": int(passes[weight, c, at]),
                    "scored": int(scored[weight, c, at]),
                    "rate": curve.context_mean[weight, c, at],
                    "low": curve.context_low[weight, c, at],
                    "high": curve.context_high[weight, c, at],
                }
                for c, context in enumerate(table.contexts)
            ]
            if len(table.contexts) > 1
            else [],
        }


def _plain(value: Any) -> Any:
    """Numpy and what JSON cannot say, as plain data; not-a-number becomes None."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if isfinite(value) else None
    return value
