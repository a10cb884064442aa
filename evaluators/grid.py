"""From checkpoints to cells: the product epoch x weight x prompt x seed, in a stated order, keyed by what is drawn.

Order: checkpoints as given; within one, weights and prompts as the YAML lists them, then seeds. Controls and probes are
cells of their own, which no rate counts. All pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import count, islice
from typing import Literal

from evaluators.config import DecideConfig, GridConfig, PromptConfig
from orchestrator.core.study import Cell, Checkpoint

Purpose = Literal["select", "confirm", "show"]
BASE_ALONE = "base"
"""What cells without an adapter have in the place of a trial. No trial is called so: their names end in a hash."""
FINALISTS = 3
"""Epochs that a coarse round sends into a second one."""


@lru_cache(maxsize=16)
def select_cells(checkpoint: Checkpoint, grid: GridConfig, base_sha256: str) -> Mapping[str, Cell]:
    """The cells that speak for or against a checkpoint, by key. Those of a whole study would take much memory."""
    return _product(checkpoint, grid, grid.weights, grid.seeds, base_sha256, purpose="select")


@cache
def shown_cells(
    checkpoint: Checkpoint, grid: GridConfig, drawn: tuple[int, ...], base_sha256: str
) -> Mapping[str, Cell]:
    """Controls and probes of a checkpoint, one of the `drawn` epochs (ascending); by key."""
    cells = (
        cell_of(checkpoint, weight, prompt, seed, grid, base_sha256, purpose="show")
        for prompt in grid.shown_prompts
        if prompt.adapter and grid.shows(prompt, checkpoint.epoch, drawn)
        for weight in prompt.weights or grid.weights
        for seed in prompt.seeds or grid.seeds
    )
    return {cell.key: cell for cell in cells}


@cache
def base_cells(grid: GridConfig, base_sha256: str) -> Mapping[str, Cell]:
    """Controls of the base alone, which belong to no checkpoint; by key."""
    nobody = Checkpoint(BASE_ALONE, 0, "", "", 0, 0, 0.0, 0.0, 0.0)
    cells = (
        cell_of(nobody, 0.0, prompt, seed, grid, base_sha256, purpose="show")
        for prompt in grid.shown_prompts
        if not prompt.adapter
        for seed in prompt.seeds or grid.seeds
    )
    return {cell.key: cell for cell in cells}


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
    per_epoch = len(grid.weights) * len(grid.rate_prompts) * len(grid.seeds)
    match decide.policy:
        case "adaptive":
            return decide.budget
        case "coarse_to_fine":
            coarse = epochs // decide.coarse_every + bool(epochs % decide.coarse_every)
            finalists = min(FINALISTS, coarse * len(grid.weights))
            return coarse * per_epoch + finalists * decide.finalist_seeds * len(grid.rate_prompts)
        case "full":
            return epochs * per_epoch


def pictures_to_show(grid: GridConfig, drawn: Sequence[tuple[int, ...]]) -> int:
    """How many pictures are controls and probes; `drawn` are the epochs (ascending) of each trial."""
    shown, alone = 0, 0
    for prompt in grid.shown_prompts:
        seeds = len(prompt.seeds or grid.seeds)
        if prompt.adapter:
            epochs = sum(grid.shows(prompt, epoch, own) for own in drawn for epoch in own)
            shown += epochs * len(prompt.weights or grid.weights) * seeds
        else:
            alone += seeds
    return shown + alone


def batches(cells: Iterable[Cell], size: int) -> Iterator[tuple[Cell, ...]]:
    """Cells in their order, cut into batches of at most `size` that share adapter and weight."""
    batch: list[Cell] = []
    for cell in cells:
        if batch and (len(batch) == size or _request(cell) != _request(batch[0])):
            yield tuple(batch)
            batch = []
        batch.append(cell)
    if batch:
        yield tuple(batch)


def _request(cell: Cell) -> tuple[str, float]:
    return cell.adapter_sha256, cell.weight


def _product(
    checkpoint: Checkpoint,
    grid: GridConfig,
    weights: Sequence[float],
    seeds: Sequence[int],
    base_sha256: str,
    *,
    purpose: Purpose,
) -> Mapping[str, Cell]:
    rows = (
        _row(checkpoint, weight, prompt, seeds, grid, base_sha256, purpose)
        for weight in weights
        for prompt in grid.rate_prompts
    )
    return {cell.key: cell for row in rows for cell in row}


def cell_of(
    checkpoint: Checkpoint,
    weight: float,
    prompt: PromptConfig,
    seed: int,
    grid: GridConfig,
    base_sha256: str,
    *,
    purpose: Purpose = "select",
) -> Cell:
    """One cell of a grid."""
    (only,) = _row(checkpoint, weight, prompt, (seed,), grid, base_sha256, purpose)
    return only


def _row(
    checkpoint: Checkpoint,
    weight: float,
    prompt: PromptConfig,
    seeds: Sequence[int],
    grid: GridConfig,
    base_sha256: str,
    purpose: Purpose,
) -> Iterator[Cell]:
    """Cells that differ by their seed alone; they share what else they hold."""
    said, drawing, constants = prompt.prompt(), grid.drawing_of(prompt), grid.constants
    for seed in seeds:
        yield Cell(
            trial=checkpoint.trial,
            epoch=checkpoint.epoch,
            adapter=checkpoint.adapter,
            adapter_sha256=checkpoint.sha256,
            weight=weight,
            prompt=said,
            seed=seed,
            drawing=drawing,
            base_sha256=base_sha256,
            purpose=purpose,
            with_adapters=constants,
        )
