"""Draw what a grid lacks on one device, judge it, and keep the table up to date. Whatever is done is never done again.

Cells come newest epoch first, and controls and probes after all that counts. An adapter that cannot be drawn is told of
and passed over: the others have their pictures, and the same command tries it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from evaluators.config import GridConfig
from evaluators.critic import judge_of
from evaluators.grid import base_cells, batches, select_cells, shown_cells
from evaluators.sidecar import is_whole, read_sample
from evaluators.sweep.table import Drawn, VerdictTable
from orchestrator.core.errors import AdapterError
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Checkpoint, Sample, Verdict

AHEAD = 2
"""Batches under way at once: one is finished and judged while the next is drawn."""
WRITES = 50
"""How often the table is written on the way through a grid; the verdicts themselves are on disk at once."""


class Artist(Protocol):
    """Draws cells that share adapter and weight. Two threads may call at the same time."""

    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        """Write each cell's picture and sidecar; samples in the order of the cells."""


class Critic(Protocol):
    """Judges drawn cells."""

    def judge(self, cells: Sequence[Cell], samples: Sequence[Sample]) -> list[Verdict]:
        """Verdicts in the order of the cells."""


@dataclass(frozen=True, slots=True)
class Judging:
    """A critic, and the name and version its verdicts are recorded under."""

    identity: tuple[str, int]
    critic: Critic


@dataclass(slots=True)
class Sweep:
    """A grid over checkpoints, and how far it is. `drawn` and `verdicts` are by cell key."""

    layout: Layout
    cells: Mapping[str, Cell]
    judging: Judging | None
    drawn: dict[str, Sample] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """Adapters that could not be drawn, by their sha256: why."""

    @property
    def table(self) -> VerdictTable:
        """Its table on disk."""
        return VerdictTable(self.layout)

    def look(self) -> None:
        """Take in what earlier runs drew and judged. A picture that is not what its sidecar says is drawn again."""
        with ThreadPoolExecutor(thread_name_prefix="look") as pool:
            found = pool.map(self._whole, self.cells.values())
            self.drawn = {key: sample for key, sample in zip(self.cells, found, strict=True) if sample is not None}
        if self.judging is not None:
            known = {judge: self.table.read(judge) for judge in set(self._judges.values())}
            given = ((key, known[judge].get(key)) for key, judge in self._judges.items() if key in self.drawn)
            self.verdicts = {key: verdict for key, verdict in given if verdict is not None}

    @property
    def _judges(self) -> dict[str, tuple[str, int]]:
        """Under which name and version a verdict on each cell is recorded."""
        given = self.judging.identity if self.judging else None
        return {key: judge_of(given, cell.prompt) for key, cell in self.cells.items()} if given else {}

    def _whole(self, cell: Cell) -> Sample | None:
        sample = read_sample(self.layout, cell)
        return sample if sample is not None and is_whole(self.layout, sample) else None

    def lacking(self) -> list[Cell]:
        """Cells without a picture, in their order."""
        return [cell for key, cell in self.cells.items() if key not in self.drawn]

    def finished(self) -> list[Drawn]:
        """What is drawn, in the order of the cells."""
        return [Drawn(cell, self.drawn[k], self.verdicts.get(k)) for k, cell in self.cells.items() if k in self.drawn]

    def run(self, artist: Artist, batch: int) -> Iterator[list[Drawn]]:
        """Draw and judge what lacks; gives each batch as it is done. The table is written in between and at the end."""
        try:
            self.judge(cell for key, cell in self.cells.items() if key in self.drawn and key not in self.verdicts)
            written, often = len(self.drawn), len(self.cells) // WRITES
            for cells, samples in self._ahead(artist, batches(self.lacking(), batch)):
                self.drawn |= {cell.key: sample for cell, sample in zip(cells, samples, strict=True)}
                self.judge(cells)
                yield [Drawn(cell, self.drawn[cell.key], self.verdicts.get(cell.key)) for cell in cells]
                if len(self.drawn) - written > often:
                    self.table.write(self.finished())
                    written = len(self.drawn)
        finally:
            self.table.write(self.finished())

    def _ahead(
        self, artist: Artist, wanted: Iterator[tuple[Cell, ...]]
    ) -> Iterator[tuple[tuple[Cell, ...], list[Sample]]]:
        """Batches with their pictures, in order; while one is taken, the next is drawn."""
        pool, waiting = ThreadPoolExecutor(AHEAD, "draw"), deque[tuple[tuple[Cell, ...], Future[list[Sample]]]]()
        try:
            while True:
                while len(waiting) < AHEAD and (cells := next(wanted, None)) is not None:
                    if cells[0].adapter_sha256 not in self.faults:
                        waiting.append((cells, pool.submit(artist.draw, cells)))
                if not waiting:
                    return
                cells, job = waiting.popleft()
                try:
                    yield cells, job.result()
                except AdapterError as error:
                    if not cells[0].adapter:
                        raise
                    self.faults[cells[0].adapter_sha256] = str(error)
        finally:
            pool.shutdown(cancel_futures=True)

    def judge(self, cells: Iterable[Cell]) -> None:
        """Have drawn cells judged and record it; nothing without a judge."""
        asked = list(cells)
        if self.judging is None or not asked:
            return
        given = self.judging.critic.judge(asked, [self.drawn[cell.key] for cell in asked])
        self.table.add(given)
        self.verdicts |= {verdict.cell_key: verdict for verdict in given}


def cells_of(checkpoints: Sequence[Checkpoint], grid: GridConfig, base_sha256: str) -> dict[str, Cell]:
    """Every cell of a grid over these checkpoints, by key: what counts first, the newest epoch first."""
    saved: dict[str, list[int]] = {}
    for checkpoint in checkpoints:
        saved.setdefault(checkpoint.trial, []).append(checkpoint.epoch)
    drawn = {trial: grid.select_epochs(tuple(sorted(epochs))) for trial, epochs in saved.items()}
    wanted = sorted((c for c in checkpoints if c.epoch in drawn[c.trial]), key=lambda c: (-c.epoch, c.trial))
    counted = (select_cells(c, grid, base_sha256).items() for c in wanted)
    shown = (shown_cells(c, grid, drawn[c.trial], base_sha256).items() for c in wanted)
    return dict(chain(*counted, base_cells(grid, base_sha256).items(), *shown))
