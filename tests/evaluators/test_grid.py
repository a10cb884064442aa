"""The grid: which cells, in which order, with which identity."""

from __future__ import annotations

from dataclasses import replace

from evaluators.config import DecideConfig, GridConfig
from evaluators.grid import batches, confirm_cells, fresh_seeds, select_cells
from orchestrator.core.study import Checkpoint

BASE = "b" * 64
CHECKPOINT = Checkpoint("main-00000001", 3, "trials/a.safetensors", "a" * 64, 10, 30, 0.5, 3.0, 1.0)
GRID = GridConfig.model_validate(
    {
        "prompts": [
            {"name": "trio", "text": "a b", "cast": ["a", "b"]},
            {"name": "solo", "text": "a", "cast": ["a"]},
        ],
        "seeds": [7, 3],
        "weights": [0.8, 1.0],
    }
)


def test_the_product_comes_weight_by_weight_prompt_by_prompt_seed_by_seed() -> None:
    cells = select_cells(CHECKPOINT, GRID, BASE).values()
    assert [(c.weight, c.prompt.name, c.seed) for c in cells] == [
        (w, p, s) for w in (0.8, 1.0) for p in ("trio", "solo") for s in (7, 3)
    ]
    assert {(c.trial, c.epoch, c.adapter, c.purpose) for c in cells} == {
        (CHECKPOINT.trial, 3, CHECKPOINT.adapter, "select")
    }


def test_keys_are_those_of_the_cells_and_distinct() -> None:
    cells = select_cells(CHECKPOINT, GRID, BASE)
    assert all(key == cell.key for key, cell in cells.items())
    assert len(cells) == 8


def test_a_key_follows_what_changes_the_pixels_and_nothing_else() -> None:
    cell = next(iter(select_cells(CHECKPOINT, GRID, BASE).values()))
    assert replace(cell, epoch=9, trial="other", purpose="confirm", adapter="elsewhere").key == cell.key
    changed = [
        replace(cell, seed=8),
        replace(cell, weight=0.9),
        replace(cell, adapter_sha256="c" * 64),
        replace(cell, base_sha256="c" * 64),
        replace(cell, prompt=replace(cell.prompt, text="a  b")),
        replace(cell, prompt=replace(cell.prompt, negative="x")),
        replace(cell, drawing=replace(cell.drawing, steps=9)),
    ]
    assert len({cell.key, *(c.key for c in changed)}) == 8
    assert replace(cell, prompt=replace(cell.prompt, name="x")).key == cell.key


def test_batches_never_mix_adapters_weights_or_prompts() -> None:
    cells = [*select_cells(CHECKPOINT, GRID, BASE).values()]
    cut = list(batches(cells, 3))
    assert [c for batch in cut for c in batch] == cells
    assert [len(batch) for batch in cut] == [2, 2, 2, 2]
    assert [len(batch) for batch in batches(cells[:2] * 1, 1)] == [1, 1]
    assert list(batches([], 3)) == []


def test_fresh_seeds_are_never_seeds_of_the_grid() -> None:
    decide = DecideConfig(confirm_seeds=3, confirm_first_seed=6)
    assert fresh_seeds(GRID, decide) == (6, 8, 9)
    cells = confirm_cells(CHECKPOINT, 1.0, GRID, decide, BASE).values()
    assert {c.purpose for c in cells} == {"confirm"}
    assert [(c.prompt.name, c.seed) for c in cells] == [(p, s) for p in ("trio", "solo") for s in (6, 8, 9)]
