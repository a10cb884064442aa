"""An analysis for people: reads well at 80 columns, in any font, without colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from evaluators.decide.analysis import Analysis, TrialAnalysis
from evaluators.decide.choice import Candidate
from evaluators.decide.curve import PROCESS, Curve
from evaluators.decide.render_pair import comparison_line
from evaluators.decide.signs import SignCurve
from evaluators.decide.table import Floats
from evaluators.decide.wording import percent, several, span
from evaluators.rates import wilson

ROWS = 24
"""Epochs shown one by one; of more, the ones evenly spaced and those around the choice."""
STEPS = " ▁▂▃▄▅▆▇█"


def render(analysis: Analysis) -> RenderableType:
    """All trials, the best first."""
    if not analysis.trials:
        return Text("No pictures: the table is empty.")
    parts: list[RenderableType] = []
    for trial in analysis.trials:
        if len(analysis.trials) > 1:
            parts.append(Text(f"trial {trial.table.trial or '(no name)'}", style="bold"))
        parts += [*_trial(trial, analysis), Text()]
    return Group(*parts[:-1])


def _trial(trial: TrialAnalysis, analysis: Analysis) -> Iterator[RenderableType]:
    table = trial.table
    yield Text(_counted(trial))
    if trial.curve is None or trial.decision is None:
        yield Text(trial.reason)
        return
    decision, chosen = trial.decision, trial.decision.chosen
    yield Text(f"\nAdopt epoch {chosen.epoch}{_at_weight(trial, chosen.weight)}.", style="bold")
    yield Text(trial.reason + "\n")
    yield _figures(trial, analysis)
    for weight in np.argsort([w != chosen.weight for w in table.weights], kind="stable"):
        yield Text(f"\nrate by epoch{_at_weight(trial, table.weights[weight])}")
        yield _strip(trial.curve.mean[weight], trial.curve.table.epochs)
    yield Text()
    yield _epochs(trial)
    yield Text("loss is what adopting an epoch is expected to cost, in points of the rate")
    if len(table.contexts) > 1:
        yield Text("\nby prompt and layout, at the chosen epoch")
        yield _contexts(trial.curve, chosen)
    if decision.hard_seeds:
        yield Text("\nhard seeds")
        for seed in decision.hard_seeds:
            named = f"{seed.seed} ({seed.context})" if any(seed.context) else seed.seed
            yield Text(
                f"  {named}: {seed.passes} of {seed.scored} passed; failed at {_listed(seed.failed_at)};"
                f" passed at {_listed(seed.passed_at)}"
            )
    if trial.signs:
        yield Text("\nwho breaks, and how (those that break first come first)")
        yield _signs(trial.signs)
    if trial.warnings:
        yield Text("\nearly warnings")
        yield from (Text(f"  epoch {w.epoch}: {w.sentence}") for w in trial.warnings)
    other = decision.runner_up
    own = f"epoch {chosen.epoch}{_at_weight(trial, chosen.weight)}"
    rival = f"the runner-up, epoch {other.epoch}{_at_weight(trial, other.weight)}" if other else ""
    for name, comparison in ((rival, trial.against_runner_up), ("the control", trial.against_control)):
        if comparison is not None:
            yield Text(f"\n{comparison_line(own, name, comparison)}")
    if trial.enough is not None:
        yield Text(f"\nEnough is drawn: {trial.enough.sentence}.")


def _signs(signs: Sequence[SignCurve]) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0), show_header=False)
    for sign in sorted(signs, key=lambda s: (s.about, s.breaks_at is None, s.breaks_at or 0)):
        since = f"more from epoch {sign.breaks_at} on" if sign.breaks_at is not None else ""
        grid.add_row(f"  {sign.about}", sign.name, several(sign.pictures, "picture"), since)
    return grid


def _counted(trial: TrialAnalysis) -> str:
    table = trial.table
    span = f", {table.epochs[0]} to {table.epochs[-1]}" if table.epochs.size > 1 else ""
    parts = [f"{several(table.images, 'picture')} of {several(table.epochs.size, 'epoch')}{span}"]
    if table.unscored:
        parts.append(f"{table.unscored} unscored (neither pass nor fail)")
    if table.repeated:
        parts.append(f"{table.repeated} judged again, {table.contradicted} of them otherwise: the last word counts")
    if table.control:
        passed = sum(row.outcome == "pass" for row in table.control)
        parts.append(f"control without the adapter: {passed} of {len(table.control)} passed")
    return "; ".join(parts)


def _figures(trial: TrialAnalysis, analysis: Analysis) -> Grid:
    assert trial.decision is not None
    assert trial.curve is not None
    decision, chosen, onset = trial.decision, trial.decision.chosen, trial.decision.band.onset
    grid = Grid(box=None, padding=(0, 2, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    first, last = decision.plateau
    counted, own = span(*wilson(chosen.passes, chosen.scored)), span(chosen.low, chosen.high)
    rows = {
        "counted": f"{chosen.passes} of {chosen.scored} passed (Wilson's 95 % interval {counted})",
        "first-try rate": f"{percent(chosen.rate)} (95 % interval {own}){_corrected(analysis)}",
        "plateau": f"{_epochs_named(first, last)}, within {100 * decision.margin:g} points of the best",
        "on the plateau": (
            f"{percent(trial.pooled.mean)} (95 % interval {span(trial.pooled.low, trial.pooled.high)}),"
            " all its epochs together"
            if trial.pooled and first < last
            else ""
        ),
        "how sure": f"{percent(chosen.best)} that it is the best of all, {percent(chosen.within)} that it is within"
        f" {100 * decision.margin:g} points of the best",
        "given away": f"{100 * chosen.regret:.1f} points expected",
        "overtraining": _onset(trial.curve.table.epochs, onset),
        "curve": _method(trial.curve),
        "seeds": _seeds(trial.curve),
    }
    for name, value in rows.items():
        if value:
            grid.add_row(name, value)
    return grid


def _epochs_named(first: int, last: int) -> str:
    return f"epochs {first} to {last}" if first < last else f"epoch {first} alone"


def _method(curve: Curve) -> str:
    if not curve.losses:
        return f"{curve.method}; too few pictures to hold any out"
    others = [name for name in curve.losses if (name == PROCESS) != (curve.method == PROCESS)]
    other = min(others, key=curve.losses.__getitem__)
    losses = f"{curve.losses[curve.method]:.3f} on held-out pictures, against {curve.losses[other]:.3f} ({other})"
    return f"{curve.method}: log-loss {losses}"


def _seeds(curve: Curve) -> str:
    matter = curve.process.seeds_matter
    if not curve.process.evidence.seeds.size:
        return "none is shared, so nobody can tell whether some are harder than others"
    if matter >= 0.85:
        return f"some are harder than others, with a probability of {percent(matter)}"
    return "no sign that some are harder than others" if matter <= 0.5 else "too early to tell whether some are harder"


def _onset(epochs: Sequence[int] | np.ndarray, onset: Floats) -> str:
    begun = np.cumsum(onset[:-1])
    never = f"{percent(float(onset[-1]))} that it has not begun by epoch {epochs[-1]}"
    if not begun.size or begun[-1] < 0.5:
        return never
    low, middle, high = (int(epochs[min(int(np.searchsorted(begun, q)), len(epochs) - 1)]) for q in (0.1, 0.5, 0.9))
    return f"begins about epoch {middle} (80 % interval {low} to {high}); {never}"


def _strip(rates: Floats, epochs: np.ndarray) -> Text:
    """The curve as one line of blocks from 0 to 100 %, epochs evenly thinned out to 60."""
    at = np.unique(np.linspace(0, rates.size - 1, min(60, rates.size)).astype(int))
    blocks = "".join(STEPS[round(float(rates[i]) * (len(STEPS) - 1))] for i in at)
    return Text(f"  |{blocks}|  {epochs[0]} to {epochs[-1]}")


def _epochs(trial: TrialAnalysis) -> Grid:
    assert trial.curve is not None
    assert trial.decision is not None
    curve, decision = trial.curve, trial.decision
    table, chosen = curve.table, decision.chosen
    weight = table.weights.index(chosen.weight)
    passes, scored, unscored = (count.sum(axis=1)[weight] for count in table.counts())
    low, high = curve.interval()
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("epoch", "passed", "rate", "95 %", "near best", "overtrained", "loss"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("")
    here = int(np.flatnonzero(table.epochs == chosen.epoch)[0])
    for at in _shown(table.epochs.size, here, decision.band.first, decision.band.last):
        marks = []
        if at == here:
            marks.append("chosen")
        if decision.band.first <= at <= decision.band.last:
            marks.append("plateau")
        if unscored[at]:
            marks.append(f"{int(unscored[at])} unscored")
        grid.add_row(
            str(table.epochs[at]),
            f"{int(passes[at])}/{int(scored[at])}",
            percent(float(curve.mean[weight, at])),
            span(float(low[weight, at]), float(high[weight, at])),
            percent(float(decision.band.within[at])),
            percent(float(decision.band.past[at])),
            f"{100 * decision.losses[weight, at]:.1f}",
            ", ".join(marks),
        )
    return grid


def _shown(count: int, chosen: int, first: int, last: int) -> list[int]:
    if count <= ROWS:
        return list(range(count))
    spread = np.linspace(0, count - 1, ROWS - 8).astype(int)
    near = [first, last, *range(chosen - 2, chosen + 3)]
    return sorted({int(at) for at in (*spread, *near) if 0 <= at < count})


def _contexts(curve: Curve, chosen: Candidate) -> Grid:
    table = curve.table
    weight, epoch = table.weights.index(chosen.weight), int(np.flatnonzero(table.epochs == chosen.epoch)[0])
    passes, scored, _ = table.counts()
    grid = Grid(box=None, padding=(0, 2, 0, 0), show_header=False)
    for number, context in enumerate(table.contexts):
        at = weight, number, epoch
        grid.add_row(
            f"  {context}",
            f"{int(passes[at])}/{int(scored[at])}",
            f"{percent(float(curve.context_mean[at]))} ({span(curve.context_low[at], curve.context_high[at])})",
        )
    return grid


def _corrected(analysis: Analysis) -> str:
    if analysis.calibration is None:
        return ""
    judge = analysis.calibration
    if not judge.informative:
        return "; NOT corrected: the judge is hardly better than a coin"
    passed, failed = f"{judge.good_passed} of {judge.good} good", f"{judge.bad_failed} of {judge.bad} bad"
    return f", corrected for a judge who passed {passed} and failed {failed} pictures"


def _at_weight(trial: TrialAnalysis, weight: float) -> str:
    return f" at weight {weight:g}" if len(trial.table.weights) > 1 else ""


def _listed(epochs: Sequence[int]) -> str:
    if not epochs:
        return "no epoch"
    return ", ".join(map(str, epochs)) if len(epochs) <= 8 else f"{len(epochs)} epochs from {epochs[0]} to {epochs[-1]}"
