"""Choosing by the smoothed curve: what the policies that draw only part of the grid ask for, and what they adopt.

Between the study's words (checkpoints, cells, verdicts) and those of `evaluators/decide` (situations, asks, rows).
Pure: the same target, state and work under way always give the same cells, so a resumed study goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from evaluators.grid import cell_of
from evaluators.rates import Selection, epoch_rate
from orchestrator.core.errors import StudyError
from orchestrator.core.study import Cell, Checkpoint, Drawing, EpochRate, Verdict

if TYPE_CHECKING:
    from evaluators.decide.choice import Candidate, Decision
    from evaluators.decide.situation import Ask, Situation, Space
    from orchestrator.planning.wanted import Target, TrialTarget
    from orchestrator.record.state import StudyState


LOOKING, WATCHING = 0.15, 0.5
"""Share of the budget `adaptive` may spend while training goes on: for first looks, or to see when the best is past."""


def recorded_cells(target: Target, state: StudyState) -> dict[str, Cell]:
    """Drawn cells that speak about an epoch, or are controls, as the study is configured now; by key."""
    there = {(t.trial, e): state.checkpoints.get((t.trial, e)) for t in target.trials for e in t.drawn}
    drawings = {p.prompt(): target.grid.drawing_of(p) for p in target.grid.rate_prompts}
    weights, constants = {0.0, *target.grid.weights}, target.grid.constants
    return {
        key: cell
        for key, cell in state.cells.items()
        if cell.purpose == "select"
        and (checkpoint := there.get((cell.trial, cell.epoch))) is not None
        and cell.adapter_sha256 == checkpoint.sha256
        and cell.base_sha256 == target.base_sha256
        and cell.drawing == drawings.get(cell.prompt)
        and cell.with_adapters == constants
        and cell.weight in weights
    }


def next_cells(
    target: Target, state: StudyState, verdicts: Mapping[str, Verdict], under_way: Iterable[Cell], at_most: int
) -> dict[str, Cell]:
    """Further cells, by key, so that up to `at_most` are open at once; none when the policy is content.

    It is asked again when half of them are judged: each answer rests on nearly all that is known, and is worked out
    once for several pictures.
    """
    recorded, flying = recorded_cells(target, state), [cell for cell in under_way if cell.purpose == "select"]
    found: dict[str, Cell] = {}
    for trial in target.trials:
        cells = [c for c in (*recorded.values(), *flying) if c.trial == trial.trial]
        situation = _situation(target, trial, state, cells, verdicts)
        room = at_most - len(found) - len(situation.pending)
        if room > 0 and 2 * room >= at_most and _in_time(target, state, cells):
            made = (_cell(target, state, trial, ask) for ask in _asks(target, situation, room))
            found |= {cell.key: cell for cell in made}
    return found


def _in_time(target: Target, state: StudyState, cells: Iterable[Cell]) -> bool:
    """Whether drawing these cells took less than the minutes that are allowed."""
    allowed = target.decide.minutes
    if allowed is None or target.decide.policy != "adaptive":
        return True
    samples = (state.samples.get(key) for key in {cell.key for cell in cells})
    return sum(sample.seconds for sample in samples if sample is not None) < 60 * allowed


def select_by_curve(target: Target, state: StudyState, verdicts: Mapping[str, Verdict]) -> Selection:
    """The epoch of smallest expected loss over all trials. Raises StudyError when nothing could be scored."""
    from evaluators.decide.analysis import reason

    recorded = recorded_cells(target, state)
    decided = []
    for trial in target.trials:
        cells = [c for c in recorded.values() if c.trial == trial.trial]
        situation = _situation(target, trial, state, cells, verdicts)
        if any(row.outcome != "unscored" and row.weight for row in situation.rows):
            decided.append((_decision(situation, target.decide.margin), trial, situation))
    if not decided:
        raise StudyError(
            "no image could be scored, so there is no rate to choose an epoch by",
            fix="see the reasons of the unscored images in the report, and the judge's settings",
        )
    best, trial, situation = max(decided, key=lambda found: found[0].chosen.rate)
    rates = {(c.epoch, c.weight): _rate(trial.trial, c, recorded, verdicts) for c in _named(best)}
    chosen, runner_up = best.chosen, best.runner_up
    return Selection(
        chosen=rates[chosen.epoch, chosen.weight],
        plateau=best.plateau,
        runner_up=rates[runner_up.epoch, runner_up.weight] if runner_up else None,
        reason=reason(situation.table(), best),
    )


def _named(decision: Decision) -> list[Candidate]:
    return [c for c in (decision.chosen, decision.runner_up) if c is not None]


def _rate(trial: str, named: Candidate, cells: Mapping[str, Cell], verdicts: Mapping[str, Verdict]) -> EpochRate:
    own = [k for k, c in cells.items() if (c.trial, c.epoch, c.weight) == (trial, named.epoch, named.weight)]
    return epoch_rate(trial, named.epoch, named.weight, [verdicts[key] for key in own if key in verdicts])


def _space(target: Target, trial: TrialTarget) -> Space:
    from evaluators.decide.situation import Space
    from evaluators.decide.table import Context

    grid, decide = target.grid, target.decide
    return Space(
        planned=trial.drawn,
        seeds=grid.seeds,
        weights=grid.weights,
        contexts=tuple(Context(prompt.name, _size(grid.drawing_of(prompt))) for prompt in grid.rate_prompts),
        prompt_weights=tuple((prompt.name, prompt.weight) for prompt in grid.rate_prompts),
        # Room for every seed of the grid among those that confirm, which leave them out.
        reserved=range(decide.confirm_first_seed, decide.confirm_first_seed + decide.confirm_seeds + len(grid.seeds)),
    )


def _situation(
    target: Target, trial: TrialTarget, state: StudyState, cells: Iterable[Cell], verdicts: Mapping[str, Verdict]
) -> Situation:
    from evaluators.decide.situation import Situation
    from evaluators.decide.table import rows_of

    by_key = {cell.key: cell for cell in cells}
    ordered = [by_key[key] for key in sorted(by_key)]
    return Situation(
        space=_space(target, trial),
        saved=tuple(e for e in trial.drawn if (trial.trial, e) in state.checkpoints),
        rows=tuple(rows_of(ordered, verdicts)),
        asked=frozenset(map(_ask, ordered)),
        pending=frozenset(_ask(cell) for cell in ordered if cell.key not in verdicts),
        budget=target.decide.budget if target.decide.policy == "adaptive" else None,
    )


def _ask(cell: Cell) -> Ask:
    from evaluators.decide.situation import Ask
    from evaluators.decide.table import Context

    return Ask(cell.epoch, cell.weight, Context(cell.prompt.name, _size(cell.drawing)), cell.seed)


def _size(drawing: Drawing) -> str:
    return f"{drawing.width}x{drawing.height}"


def _cell(target: Target, state: StudyState, trial: TrialTarget, ask: Ask) -> Cell:
    checkpoint: Checkpoint = state.checkpoints[trial.trial, ask.epoch]
    prompt = next(p for p in target.grid.prompts if p.name == ask.context.prompt)
    return cell_of(checkpoint, ask.weight, prompt, ask.seed, target.grid, target.base_sha256)


def _asks(target: Target, situation: Situation, at_most: int) -> tuple[Ask, ...]:
    """What the policy asks for. The adaptive one is content when the rules of `stopping` say so."""
    from evaluators.decide.grids import coarse_to_fine

    decide = target.decide
    if decide.policy == "coarse_to_fine":
        return coarse_to_fine(situation, at_most, stride=decide.coarse_every, again=decide.finalist_seeds)
    if _content(situation, decide.margin, decide.target_regret):
        return ()
    return _adaptive(situation, at_most, LOOKING if decide.stop == "off" else WATCHING)


@lru_cache(maxsize=16)
def _adaptive(situation: Situation, at_most: int, pace: float) -> tuple[Ask, ...]:
    from evaluators.decide.adaptive import adaptive

    return adaptive(situation, at_most, pace=pace).asks


@lru_cache(maxsize=16)
def _content(situation: Situation, margin: float, target_regret: float) -> bool:
    from evaluators.decide.stopping import enough_pictures

    if not situation.trained or not any(row.outcome != "unscored" for row in situation.rows):
        return False
    decision = _decision(situation, margin)
    enough = enough_pictures(decision, drawn=len(situation.asked), target_regret=target_regret, tolerated_chance=0.0)
    return enough is not None


@lru_cache(maxsize=16)
def _decision(situation: Situation, margin: float) -> Decision:
    from evaluators.decide.choice import decide
    from evaluators.decide.curve import estimate

    weights = dict(situation.space.prompt_weights)
    return decide(estimate(situation.table(), context_weights=weights), margin)
