"""What to do next, as a value: a pure function of what the study wants, what is recorded, and what is under way.

The rule, in order of the lines of `decide`:
train every trial whose saved epochs are not all there; judge what is drawn; draw what is saved, newest epoch first, so
that the curve on the screen is fresh, and controls and probes where nothing that counts is left to draw; when every
picture that speaks about an epoch is judged, choose; draw the chosen epoch with fresh seeds; when those are judged,
adopt it; finish. Which pictures are drawn to choose by is the study's `decide.policy`: all of the grid, or what
`choosing.py` asks for next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, islice
from math import isnan

from evaluators.config import GridConfig
from evaluators.critic import judge_of
from evaluators.grid import base_cells, batches, confirm_cells, shown_cells
from evaluators.rates import Selection, epoch_rate, epoch_rates, select
from orchestrator.core.errors import StudyError
from orchestrator.core.study import Cell, Checkpoint, Choice, EpochRate, Verdict
from orchestrator.deciding.board import Board
from orchestrator.deciding.choosing import next_cells, recorded_cells, select_by_curve
from orchestrator.deciding.decisions import Adopt, Decision, Draw, Finish, Halt, Judge, Standing, Train, Work
from orchestrator.deciding.stopping import as_stopped, stopped
from orchestrator.planning.wanted import Target
from orchestrator.record.state import StudyState

JUDGE_BATCH = 32
"""Pictures per request to a judge: small enough that verdicts keep coming, large enough that messages cost nothing."""


def decide(target: Target, state: StudyState, standing: Standing) -> tuple[Decision, ...]:
    """Everything that should start now. Empty means: wait. Raises StudyError when no choice can ever be made."""
    if halts := tuple(Halt(w) for w in standing.in_flight if isinstance(w, Train) and stopped(target, state, w.trial)):
        return halts
    training = unfinished_trials(target, state)
    lacking = _lacking(target, state, standing)
    beside = _lacking_of(target, state, cells_beside(target, state))
    if training or lacking.open or (target.judge is None and beside.open):
        return _start(target, standing, training, lacking, beside)
    if target.judge is None:
        return (Finish(),)
    selection = choose(target, state)
    fresh = _lacking_of(target, state, confirmation(target, state, selection))
    if fresh.open or beside.open:
        return _start(target, standing, (), fresh, beside)
    choice = conclude(target, state, selection)
    return (Finish(),) if choice == state.choice else (Adopt(choice),)


@dataclass(frozen=True, slots=True)
class _Lacking:
    """What wanted cells lack: whether anything at all, and lazily which to draw and which to judge, in order."""

    open: bool
    to_draw: Iterable[Cell]
    to_judge: Iterable[Cell]


def _lacking(target: Target, state: StudyState, standing: Standing) -> _Lacking:
    if target.decide.policy == "full":
        board = board_of(target, state)
        return _Lacking(board.open(), board.to_draw(), board.to_judge())
    return _lacking_of(target, state, wanted_cells(target, state) | _asked(target, state, standing))


def _lacking_of(target: Target, state: StudyState, cells: Mapping[str, Cell]) -> _Lacking:
    unread = (
        cell
        for key, cell in cells.items()
        if target.judge is not None and key in state.samples and not _is_judged(target.judge, state, cell)
    )
    undrawn = (cell for key, cell in cells.items() if key not in state.samples)
    return _Lacking(unjudged(target, state, cells), undrawn, unread)


def _start(target: Target, standing: Standing, training: tuple[Train, ...], *lacking: _Lacking) -> tuple[Work, ...]:
    """What may start of what is `lacking`, the first of them first."""
    ready_to_train = (w for w in training if w not in standing.in_flight)
    ready_to_judge = _judgements(chain.from_iterable(one.to_judge for one in lacking), standing.busy_keys(Judge))
    ready_to_draw = _drawings(target, chain.from_iterable(one.to_draw for one in lacking), standing.busy_keys(Draw))
    return (
        *_take(ready_to_train, standing.free(Train), standing.held),
        *_take(ready_to_judge, standing.free(Judge), standing.held),
        *_take(ready_to_draw, standing.free(Draw), standing.held),
    )


def _take(ready: Iterator[Work], free: int, held: frozenset[str]) -> list[Work]:
    taken: list[Work] = []
    while len(taken) < free and (work := next((w for w in ready if w.name not in held), None)) is not None:
        taken.append(work)
    return taken


def unfinished_trials(target: Target, state: StudyState) -> tuple[Train, ...]:
    """Trials with a saved epoch missing, in the order of the YAML."""
    trials = as_stopped(target, state).trials
    return tuple(Train(t.trial) for t in trials if any((t.trial, e) not in state.checkpoints for e in t.saved))


def board_of(target: Target, state: StudyState) -> Board:
    """The board that follows the state, or a new one."""
    kept = state.follower
    return kept if isinstance(kept, Board) and kept.target == target else Board(target, state)


def wanted_cells(target: Target, state: StudyState) -> dict[str, Cell]:
    """The cells that speak about an epoch, by key, newest epoch first: all of the grid, or those asked for so far."""
    if target.decide.policy == "full":
        return board_of(target, state).wanted()
    drawn = (c for c in recorded_cells(target, state).values() if c.weight != 0)
    return {cell.key: cell for cell in sorted(drawn, key=lambda c: (-c.epoch, c.weight, c.prompt.name, c.seed))}


def cells_beside(target: Target, state: StudyState) -> Mapping[str, Cell]:
    """Controls and probes of what is saved, by key, newest epoch first: they are shown, and no rate counts them."""
    if not target.grid.shown_prompts:
        return {}
    saved = tuple(
        (t.drawn, tuple(found for e in t.drawn if (found := state.checkpoints.get((t.trial, e))) is not None))
        for t in target.trials
    )
    return _beside(target.grid, target.base_sha256, saved)


@lru_cache(maxsize=4)
def _beside(
    grid: GridConfig, base_sha256: str, saved: tuple[tuple[tuple[int, ...], tuple[Checkpoint, ...]], ...]
) -> Mapping[str, Cell]:
    """`saved`: of each trial, the epochs that are drawn and those of them that are there. It is asked for at every
    decision, and changes when an epoch is saved."""
    cells = dict(base_cells(grid, base_sha256))
    for checkpoint, drawn in sorted(((c, drawn) for drawn, own in saved for c in own), key=lambda one: -one[0].epoch):
        cells |= shown_cells(checkpoint, grid, drawn, base_sha256)
    return cells


def _asked(target: Target, state: StudyState, standing: Standing) -> dict[str, Cell]:
    """What is asked for beyond the cells that are wanted anyway: under way, controls, and what to draw next."""
    if target.decide.policy == "full":
        return {}
    under_way = [cell for work in standing.in_flight if isinstance(work, Draw) for cell in work.cells]
    recorded = recorded_cells(target, state)
    ahead = target.grid.batch * max(1, standing.slots["draw"])
    said = verdicts_of(target, state, recorded)
    asked = {cell.key: cell for cell in under_way if cell.purpose == "select"}
    return recorded | asked | next_cells(as_stopped(target, state), state, said, under_way, ahead)


def unjudged(target: Target, state: StudyState, wanted: Mapping[str, Cell]) -> bool:
    """Whether a wanted cell still lacks its picture or its verdict."""
    return any(
        key not in state.samples or (target.judge is not None and not _is_judged(target.judge, state, cell))
        for key, cell in wanted.items()
    )


def _is_judged(judge: tuple[str, int], state: StudyState, cell: Cell) -> bool:
    return (cell.key, *judge_of(judge, cell.prompt)) in state.verdicts


def _drawings(target: Target, undrawn: Iterable[Cell], busy: set[str]) -> Iterator[Draw]:
    missing = (cell for cell in undrawn if cell.key not in busy)
    return (Draw(batch) for batch in batches(missing, target.grid.batch))


def _judgements(unread: Iterable[Cell], busy: set[str]) -> Iterator[Judge]:
    free = (cell for cell in unread if cell.key not in busy)
    for _, cells in groupby(free, key=lambda c: (c.trial, c.epoch)):
        while together := tuple(islice(cells, JUDGE_BATCH)):
            yield Judge(together)


def verdicts_of(target: Target, state: StudyState, cells: Mapping[str, Cell]) -> dict[str, Verdict]:
    """What the study's judge says of these cells, by key; cells it has not seen are left out."""
    if target.judge is None:
        return {}
    asked = {key: state.verdicts.get((key, *judge_of(target.judge, cell.prompt))) for key, cell in cells.items()}
    return {key: verdict for key, verdict in asked.items() if verdict is not None}


def rates(target: Target, state: StudyState) -> list[EpochRate]:
    """The curve so far, from the cells the grid wants."""
    if target.decide.policy == "full":
        return board_of(target, state).rates()
    wanted = wanted_cells(target, state)
    return epoch_rates(wanted.values(), verdicts_of(target, state, wanted))


def choose(target: Target, state: StudyState) -> Selection:
    """The epoch to adopt, from every judged cell that was wanted."""
    if target.decide.policy != "full":
        recorded = recorded_cells(target, state)
        return select_by_curve(as_stopped(target, state), state, verdicts_of(target, state, recorded))
    return select(rates(target, state), target.decide.margin)


def confirmation(target: Target, state: StudyState, selection: Selection) -> Mapping[str, Cell]:
    """The fresh cells that say how good the chosen epoch really is."""
    chosen = selection.chosen
    checkpoint = state.checkpoints[chosen.trial, chosen.epoch]
    return confirm_cells(checkpoint, chosen.weight, target.grid, target.decide, target.base_sha256)


def conclude(target: Target, state: StudyState, selection: Selection) -> Choice:
    """The choice with its evidence, once the fresh cells are judged."""
    chosen = selection.chosen
    checkpoint = state.checkpoints[chosen.trial, chosen.epoch]
    fresh = confirmation(target, state, selection)
    rate = epoch_rate(chosen.trial, chosen.epoch, chosen.weight, verdicts_of(target, state, fresh).values())
    if isnan(rate.rate):
        raise StudyError(
            f"none of the {len(fresh)} fresh pictures of epoch {chosen.epoch} could be scored",
            fix="see the reasons of the unscored pictures in the report",
        )
    return Choice(
        trial=chosen.trial,
        epoch=chosen.epoch,
        weight=chosen.weight,
        adapter=checkpoint.adapter,
        adapter_sha256=checkpoint.sha256,
        first_try_rate=rate.rate,
        interval=(rate.low, rate.high),
        n=rate.scored,
        plateau=selection.plateau,
        selection=chosen,
        reason=selection.reason,
        runner_up=selection.runner_up,
    )
