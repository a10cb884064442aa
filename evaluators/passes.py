"""How cells are cut into forward passes: by what is merged into the weights, then into batches of one fixed shape.

Cells of several prompts and seeds share a pass where their texts have equally many rows: the transformer has no text
mask, so a shorter text would be another picture beside a longer one. All pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from anima.draw import Request
from orchestrator.core.study import Cell, ConstantAdapter, Drawing

BATCH = 4
"""Pictures per forward pass: 4096 tokens each, as 1024 px have, keep a GPU busy from two on; on a CPU, with pocket
Anima, four take no longer apiece than eight, and fewer places are empty in the last pass of a group."""

Merged = tuple[ConstantAdapter, ...]
"""The adapters in the weights, with their strengths."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Cells that are drawn together. `requests` are filled up with the last one to the fixed size."""

    cells: tuple[Cell, ...]
    requests: tuple[Request, ...]

    @property
    def drawing(self) -> Drawing:
        """How all of them are drawn."""
        return self.cells[0].drawing


def merged_of(cell: Cell) -> Merged:
    """What must be in the weights for this cell."""
    own = (ConstantAdapter(cell.adapter, cell.adapter_sha256, cell.weight),) if cell.adapter else ()
    return own + cell.with_adapters


def by_merged(cells: Iterable[Cell]) -> dict[Merged, list[Cell]]:
    """Distinct cells by what must be in the weights for them, in the order in which that is first asked for."""
    groups: dict[Merged, list[Cell]] = {}
    for cell in {cell.key: cell for cell in cells}.values():
        groups.setdefault(merged_of(cell), []).append(cell)
    return groups


def passes_of(cells: Sequence[Cell], rows: Callable[[str], int], batch: int) -> list[Pass]:
    """Passes of `batch` pictures for cells that need the same weights; `rows` counts those of a prompt's text."""
    alike: dict[tuple[Drawing, int, int], list[Cell]] = {}
    for cell in cells:
        guided = cell.drawing.cfg != 1
        shape = (cell.drawing, rows(cell.prompt.text), rows(cell.prompt.negative) if guided else 0)
        alike.setdefault(shape, []).append(cell)
    return [
        _pass(members[start : start + batch], batch)
        for members in alike.values()
        for start in range(0, len(members), batch)
    ]


def _pass(cells: Sequence[Cell], batch: int) -> Pass:
    requests = [Request(cell.prompt.text, cell.seed, cell.prompt.negative) for cell in cells]
    return Pass(tuple(cells), (*requests, *([requests[-1]] * (batch - len(cells)))))
