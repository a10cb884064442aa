"""The board: which cells of a study are to draw, to judge, and done, kept up to date fact by fact.

It says nothing that does not follow from target and state: `board_of` makes one from them whenever none is kept, and a
kept one is the same (`tests/orchestrator/test_board.py`). Keeping it makes a decision cost what changed since the last
one, not what there is: a grid of 100,000 cells is decided on as fast as one of a hundred.

It knows the cells of `decide.policy: full`. The other policies ask for a few hundred cells in all and count them anew.
Of an epoch that nobody has begun to draw, or that is judged to the last picture, it keeps counts: which cells those are
follows from the grid.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from evaluators.grid import select_cells
from evaluators.rates import counted_rate
from orchestrator.core.collecting import nothing_collected
from orchestrator.core.study import Cell, Checkpoint, EpochRate, Outcome, Verdict

if TYPE_CHECKING:
    from orchestrator.planning.wanted import Target
    from orchestrator.record.state import StudyState


AT_HAND = 8
"""Sheets whose cells are kept beside those that are under way."""


@dataclass(order=True, slots=True)
class Sheet:
    """The cells of one saved epoch. Sheets are ordered as they are drawn: newest epoch first."""

    place: tuple[int, int]
    """Minus the epoch, and the position of its trial in the YAML."""
    checkpoint: Checkpoint = field(compare=False)
    to_draw: dict[str, Cell] | None = field(compare=False, default_factory=dict)
    """Wanted, without a picture; None: all, and nobody has asked which those are."""
    to_judge: dict[str, Cell] = field(compare=False, default_factory=dict)
    """With a picture, without a verdict."""
    outcomes: dict[float, dict[Outcome, int]] = field(compare=False, default_factory=dict)
    """By weight: how many verdicts of each kind."""

    def rates(self) -> Iterator[EpochRate]:
        """The rates of this epoch, of each weight with a verdict."""
        for weight, counts in self.outcomes.items():
            if any(counts.values()):
                yield counted_rate(self.checkpoint.trial, self.checkpoint.epoch, weight, counts)

    def lacking(self, key: str) -> Cell | None:
        """The cell of this key, if it lacks its picture or its verdict and these are known one by one."""
        return (self.to_draw or {}).get(key) or self.to_judge.get(key)


class Board:
    """All sheets of a study. Its methods cost as much as they return, `drawn` and `judged` nothing to speak of."""

    def __init__(self, target: Target, state: StudyState) -> None:
        self.target = target
        self._state = state
        self._stale = True
        self._lay_out()

    def saved(self, checkpoint: Checkpoint) -> None:
        """An epoch was saved that was not known, or is another now."""
        if self._stale:
            return
        wanted = (t for t in self.target.trials if t.trial == checkpoint.trial and checkpoint.epoch in t.drawn)
        if next(wanted, None) is None:
            return
        if checkpoint.sha256 in self._sheets or (checkpoint.trial, checkpoint.epoch) in self._known:
            self._stale = True
        else:
            self._add(checkpoint)

    def same(self, cell: Cell) -> Cell:
        """The grid's own object for an equal cell, so that a study keeps each of its cells once."""
        sheet = None if self._stale else self._sheets.get(cell.adapter_sha256)
        known = None if sheet is None else sheet.lacking(cell.key)
        return known if known is not None and known == cell else cell

    def drawn(self, cell: Cell) -> None:
        """A cell has its first picture."""
        if self._stale:
            return
        sheet = self._sheets.get(cell.adapter_sha256)
        wanted = None if sheet is None else self._undrawn_of(sheet).pop(cell.key, None)
        if sheet is None or wanted is None:
            self._fresh_drawn += cell.purpose == "confirm"
            return
        self._drawn += 1
        if not sheet.to_draw:
            self._undrawn.pop(sheet.place, None)
            sheet.to_draw = {}  # An emptied dictionary keeps its room.
        if self.target.judge is not None and (cell.key, *self.target.judge) not in self._state.verdicts:
            sheet.to_judge[cell.key] = wanted
            self._unjudged[sheet.place] = sheet

    def judged(self, verdict: Verdict) -> None:
        """A cell has its first verdict of some judge."""
        if self._stale or (verdict.judge, verdict.judge_version) != self.target.judge:
            return
        cell = self._state.cells.get(verdict.cell_key)
        sheet = self._sheets.get(cell.adapter_sha256) if cell else None
        if cell is None or sheet is None or (sheet.lacking(cell.key) is None and not self._has(sheet, cell)):
            self._fresh_judged += cell is not None and cell.purpose == "confirm"
            return
        self._judged += 1
        sheet.to_judge.pop(cell.key, None)
        if not sheet.to_judge:
            self._unjudged.pop(sheet.place, None)
            sheet.to_judge = {}
        counts = sheet.outcomes.setdefault(cell.weight, {"pass": 0, "fail": 0, "unscored": 0})
        counts[verdict.outcome] += 1

    def forget(self) -> None:
        """Something that was known is not true any more: everything is counted again when it is asked for next."""
        self._stale = True

    def wanted(self) -> dict[str, Cell]:
        """Every cell of the grid there can be so far, newest epoch first."""
        self._lay_out()
        return dict(chain.from_iterable(self._cells(sheet).items() for sheet in self._order))

    def open(self) -> bool:
        """Whether a wanted cell lacks its picture or its verdict."""
        self._lay_out()
        return bool(self._undrawn or self._unjudged)

    def to_draw(self) -> Iterator[Cell]:
        """Wanted cells without a picture, newest epoch first."""
        self._lay_out()
        for place in sorted(self._undrawn):
            yield from self._undrawn_of(self._undrawn[place]).values()

    def to_judge(self) -> Iterator[Cell]:
        """Wanted cells with a picture and without a verdict, newest epoch first."""
        self._lay_out()
        for place in sorted(self._unjudged):
            yield from self._unjudged[place].to_judge.values()

    def rates(self) -> list[EpochRate]:
        """The curve so far, in order of trial, weight and epoch."""
        self._lay_out()
        found = chain.from_iterable(sheet.rates() for sheet in self._order)
        return sorted(found, key=lambda r: (r.trial, r.weight, r.epoch))

    def rate_at(self, cell: Cell) -> EpochRate | None:
        """The rate of the epoch and weight of a wanted cell; None before its first verdict, and for other cells."""
        self._lay_out()
        sheet = self._sheets.get(cell.adapter_sha256)
        if sheet is None or not self._has(sheet, cell):
            return None
        return next((r for r in sheet.rates() if r.weight == cell.weight), None)

    def counts(self) -> tuple[int, int]:
        """How many wanted cells are drawn, and how many are judged."""
        self._lay_out()
        return self._drawn, self._judged

    def fresh_counts(self) -> tuple[int, int]:
        """How many cells that confirm a choice, this one or an earlier one, are drawn, and how many are judged."""
        self._lay_out()
        return self._fresh_drawn, self._fresh_judged

    def _cells(self, sheet: Sheet) -> Mapping[str, Cell]:
        """All cells of a sheet; those of the sheets that were asked for last are at hand."""
        place = sheet.place
        cells = self._at_hand.pop(place, None)
        if cells is None:
            cells = select_cells(sheet.checkpoint, self.target.grid, self.target.base_sha256)
            while len(self._at_hand) >= AT_HAND:
                del self._at_hand[next(iter(self._at_hand))]
        self._at_hand[place] = cells
        return cells

    def _has(self, sheet: Sheet, cell: Cell) -> bool:
        return cell.key in self._cells(sheet)

    def _undrawn_of(self, sheet: Sheet) -> dict[str, Cell]:
        """What of a sheet is to draw, one by one from now on."""
        if sheet.to_draw is None:
            sheet.to_draw = dict(self._cells(sheet))
        return sheet.to_draw

    def _lay_out(self) -> None:
        """Count everything anew, if something that was known is not true any more."""
        if self._stale:
            with nothing_collected():
                self._count()

    def _count(self) -> None:
        self._sheets: dict[str, Sheet] = {}
        self._known: set[tuple[str, int]] = set()
        self._order: list[Sheet] = []
        self._undrawn: dict[tuple[int, int], Sheet] = {}
        self._unjudged: dict[tuple[int, int], Sheet] = {}
        self._at_hand: dict[tuple[int, int], Mapping[str, Cell]] = {}
        self._drawn = self._judged = 0
        there = self._state.checkpoints
        saved = [there[t.trial, e] for t in self.target.trials for e in t.drawn if (t.trial, e) in there]
        # Where two epochs have the very same adapter, their cells are the same; the older epoch has them.
        for checkpoint in sorted(saved, key=lambda c: self._place(c), reverse=True):
            self._known.add((checkpoint.trial, checkpoint.epoch))
            if checkpoint.sha256 not in self._sheets:
                self._add(checkpoint)
        self._fresh_drawn, self._fresh_judged = self._count_fresh()
        self._stale = False

    def _place(self, checkpoint: Checkpoint) -> tuple[int, int]:
        trials = [t.trial for t in self.target.trials]
        return -checkpoint.epoch, trials.index(checkpoint.trial)

    def _add(self, checkpoint: Checkpoint) -> None:
        state, judge = self._state, self.target.judge
        sheet = Sheet(self._place(checkpoint), checkpoint)
        cells = self._cells(sheet)
        self._known.add((checkpoint.trial, checkpoint.epoch))
        self._sheets[checkpoint.sha256] = sheet
        insort(self._order, sheet)
        to_draw: dict[str, Cell] = {}
        for key, cell in cells.items():
            verdict = None if judge is None else state.verdicts.get((key, *judge))
            if key not in state.samples:
                to_draw[key] = cell
            else:
                self._drawn += 1
                if judge is not None and verdict is None:
                    sheet.to_judge[key] = cell
            if verdict is not None:
                self._judged += 1
                counts = sheet.outcomes.setdefault(cell.weight, {"pass": 0, "fail": 0, "unscored": 0})
                counts[verdict.outcome] += 1
        if to_draw:
            sheet.to_draw = None if len(to_draw) == len(cells) else to_draw
            self._undrawn[sheet.place] = sheet
        if sheet.to_judge:
            self._unjudged[sheet.place] = sheet

    def _count_fresh(self) -> tuple[int, int]:
        state, judge = self._state, self.target.judge
        fresh = [k for k, c in state.cells.items() if c.purpose == "confirm" and not self._is_wanted(c)]
        judged = 0 if judge is None else sum((key, *judge) in state.verdicts for key in fresh)
        return sum(key in state.samples for key in fresh), judged

    def _is_wanted(self, cell: Cell) -> bool:
        sheet = self._sheets.get(cell.adapter_sha256)
        return sheet is not None and self._has(sheet, cell)
