"""From checkpoints to cells: the product epoch x weight x prompt x seed, in a stated order, keyed by what is drawn.

Order: checkpoints as given; within one, weights and prompts as the YAML lists them, then seeds. All pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import count, islice
from typing import Literal

from evaluators.config import DecideConfig, GridConfig
from orchestrator.core.study import Cell, Checkpoint

FINALISTS = 3
"""Epochs that a coarse round sends into a second one."""


@cache
def select_cells(checkpoint: Checkpoint, grid: GridConfig, base_sha256: str) -> Mapping[str, Cell]:
    """The cells that speak for or against a checkpoint, by key."""
    return _product(checkpoint, grid, grid.weights, grid.seeds, base_sha256, purpose="select")


@cache
def confirm_cells(
    checkpoint: Checkpoint, weight: float, grid: GridConfig, decide: DecideConfig, base_sha256: str
) -> Mapping[str, Cell]:
    """Fresh cells of the adopted checkpoint: same prompts and drawing, seeds that took no part in choosing."""
    return _product(checkpoint, grid, (weight,), fresh_seeds(grid, decide), base_sha256, purpose="confirm")


def fresh_seeds(grid: GridConfig, decide: DecideConfig) -> tuple[int, ...]:
    """The first `confirm_seeds` seeds from `confirm_first_seed` on that are not seeds of the grid."""
    used = set(grid.seeds)
    return tuple(islice((s for s in count(decide.confirm_first_seed) if s not in used), decide.confirm_seeds))


def pictures_to_choose_by(grid: GridConfig, decide: DecideConfig, epochs: int) -> int:
    """How many pictures a trial with so many `epochs` to draw takes before an epoch is chosen, at most."""
    per_epoch = len(grid.weights) * len(grid.prompts) * len(grid.seeds)
    match decide.policy:
        case "adaptive":
            return decide.budget
        case "coarse_to_fine":
            coarse = epochs // decide.coarse_every + bool(epochs % decide.coarse_every)
            finalists = min(FINALISTS, coarse * len(grid.weights))
            return coarse * per_epoch + finalists * decide.finalist_seeds * len(grid.prompts)
        case "full":
            return epochs * per_epoch


def batches(cells: Iterable[Cell], size: int) -> Iterator[tuple[Cell, ...]]:
    """Cells in their order, cut into batches of at most `size` that share adapter, weight and prompt."""
    batch: list[Cell] = []
    for cell in cells:
        if batch and (len(batch) == size or _request(cell) != _request(batch[0])):
            yield tuple(batch)
            batch = []
        batch.append(cell)
    if batch:
        yield tuple(batch)


def _request(cell: Cell) -> tuple[str, float, str]:
    return cell.adapter_sha256, cell.weight, cell.prompt.name


def _product(
    checkpoint: Checkpoint,
    grid: GridConfig,
    weights: Sequence[float],
    seeds: Sequence[int],
    base_sha256: str,
    *,
    purpose: Literal["select", "confirm"],
) -> Mapping[str, Cell]:
    drawing = grid.drawing.drawing()
    cells = (
        Cell(
            trial=checkpoint.trial,
            epoch=checkpoint.epoch,
            adapter=checkpoint.adapter,
            adapter_sha256=checkpoint.sha256,
            weight=weight,
            prompt=prompt.prompt(),
            seed=seed,
            drawing=drawing,
            base_sha256=base_sha256,
            purpose=purpose,
        )
        for weight in weights
        for prompt in grid.prompts
        for seed in seeds
    )
    return {cell.key: cell for cell in cells}
