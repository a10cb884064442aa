"""The first-try rate over epochs, per weight, as posterior draws: by the smoother that foretells unseen pictures best.

Candidates are the local Beta of several widths and the logit Gaussian process. Pictures are dealt into folds; each
candidate is fitted without a fold and foretells it; log-loss per picture decides. Draws are of the rate
averaged over contexts with the weights asked for, and corrected for the judge's errors when they are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from evaluators.decide.intervals import Calibration, likeness, pooled_weights
from evaluators.decide.local import WIDTHS, independent_share, local_draws, local_mean
from evaluators.decide.process import Axes, Evidence, Process, fit_process
from evaluators.decide.seeds import Effects
from evaluators.decide.table import Floats, Ints, Table

PROCESS = "logit Gaussian process"
FOLDS = 6
HARD = -1.15
"""A hard seed lies this many SDs below the average one: it is harder than seven of eight."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Posterior draws of the rate, and what they rest on. Axes are (weights, epochs) or (weights, contexts, epochs)."""

    table: Table
    method: str
    losses: Mapping[str, float]
    """Held-out log-loss per picture of each candidate; empty when there were too few pictures to hold any out."""
    draws: Floats
    """(weights, epochs, draws)."""
    seed_sd: Floats
    """(draws,): how much seeds differ, on the logit scale."""
    context_mean: Floats
    context_low: Floats
    context_high: Floats
    process: Process

    @property
    def mean(self) -> Floats:
        """(weights, epochs)."""
        return self.draws.mean(axis=-1)

    def interval(self, confidence: float = 0.95) -> tuple[Floats, Floats]:
        """Low and high, each (weights, epochs)."""
        low, high = np.quantile(self.draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1)
        return low, high

    def hard_draws(self) -> Floats:
        """Draws of the rate on hard seeds, (weights, epochs, draws); where seeds do not differ, the same draws."""
        scale = np.sqrt(1 + np.pi * self.seed_sd**2 / 8)
        return expit(scale * logit(np.clip(self.draws, 1e-6, 1 - 1e-6)) + HARD * self.seed_sd)


def estimate(
    table: Table,
    *,
    context_weights: Mapping[str, float] | None = None,
    calibration: Calibration | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Curve:
    """The curve of a table with at least one epoch. `context_weights` is by prompt name; prompts left out count 1.

    Without any scored picture the curve is the prior: wide, and the same everywhere.
    """
    if not table.epochs.size:
        raise ValueError("a curve needs at least one epoch")
    rng = np.random.default_rng(seed)
    scored = table.rows_where(table.scored)
    axes = Axes.of(table)
    point = axes.points(scored)
    process = fit_process(axes, Evidence.of(point, scored.seed, scored.passed))
    losses, method = held_out_losses(axes, point, scored.seed, scored.passed, process)
    count = draws if table.epochs.size * len(table.weights) <= 2000 else max(400, draws // 3)
    if method == PROCESS:
        at_knots, seed_sd = process.draws(count, rng)
    else:
        width = _width_of(method)
        alike = independent_share(axes, point, scored.seed, width, likeness(scored.passed, scored.seed))
        at_knots, seed_sd = local_draws(axes, point, scored.passed, width, alike, count, rng), np.zeros(count)
    if calibration is not None and calibration.informative:
        at_knots = calibration.correct(at_knots, rng)
    shares = context_shares(table, context_weights or {})
    low, mean, high = _spread(at_knots)
    return Curve(
        table=table,
        method=method,
        losses=losses,
        draws=np.einsum("wckd,c->wkd", at_knots, shares)[:, axes.knot],
        seed_sd=seed_sd,
        context_mean=mean[..., axes.knot],
        context_low=low[..., axes.knot],
        context_high=high[..., axes.knot],
        process=process,
    )


def context_shares(table: Table, weights: Mapping[str, float]) -> Floats:
    """Share of each context in the average: the weight of its prompt, divided among the prompt's layouts."""
    prompts = [context.prompt for context in table.contexts]
    return pooled_weights([weights.get(prompt, 1.0) / prompts.count(prompt) for prompt in prompts])


def held_out_losses(
    axes: Axes, point: Ints, seed: Ints, passed: Floats, process: Process
) -> tuple[dict[str, float], str]:
    """Log-loss per picture of each candidate on pictures it was not fitted to, and the candidate to take.

    The process is taken unless the best local Beta is better by more than two standard errors of the difference: it
    knows of seeds, and where pictures were drawn on seeds because those had failed, it alone is not misled. Below
    twelve pictures nothing is held out, and the process is taken.
    """
    if passed.size < 12:
        return {}, PROCESS
    fold = np.arange(passed.size) % FOLDS
    loss = {name: np.zeros(passed.size) for name in (*map(_local_name, WIDTHS), PROCESS)}
    for held in range(FOLDS):
        out, kept = fold == held, fold != held
        for width in WIDTHS:
            foretold = local_mean(axes, point[kept], passed[kept], width)[point[out]]
            loss[_local_name(width)][out] = log_losses(passed[out], foretold)
        evidence = Evidence.of(point[kept], seed[kept], passed[kept])
        fitted = fit_process(axes, evidence, previous=process, likely=process)
        effects = Effects.of(fitted, point[kept], seed[kept], passed[kept], int(seed.max()) + 1)
        loss[PROCESS][out] = log_losses(passed[out], effects.foretell(point[out], seed[out]))
    means = {name: float(each.mean()) for name, each in loss.items()}
    floor = min(map(_local_name, WIDTHS), key=lambda name: means[name])
    lead = loss[PROCESS] - loss[floor]
    clearly_worse = lead.mean() > 2 * lead.std() / np.sqrt(lead.size)
    return means, floor if clearly_worse else PROCESS


def log_losses(passed: Floats, foretold: Floats) -> Floats:
    """-log of the probability given to what happened, per picture."""
    p = np.clip(foretold, 1e-6, 1 - 1e-6)
    return -(passed * np.log(p) + (1 - passed) * np.log1p(-p))


def _local_name(width: float) -> str:
    return f"local Beta, width {100 * width:g} % of the epochs"


def _width_of(method: str) -> float:
    return next(width for width in WIDTHS if _local_name(width) == method)


def _spread(draws: Floats) -> tuple[Floats, Floats, Floats]:
    low, high = np.quantile(draws, [0.025, 0.975], axis=-1)
    return low, draws.mean(axis=-1), high
