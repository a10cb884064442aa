"""The grid: which cells, in which order, with which identity."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from evaluators.adapter_source import AdapterSource
from evaluators.config import DecideConfig, GridConfig
from evaluators.grid import (
    base_cells,
    batches,
    confirm_cells,
    fresh_seeds,
    pictures_to_show,
    select_cells,
    shown_cells,
)
from orchestrator.core.study import Cell, Checkpoint, ConstantAdapter

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


def test_batches_mix_prompts_but_never_adapters_or_weights() -> None:
    cells = [*select_cells(CHECKPOINT, GRID, BASE).values()]
    cut = list(batches(cells, 3))
    assert [c for batch in cut for c in batch] == cells
    assert [len(batch) for batch in cut] == [3, 1, 3, 1]
    assert all(len({(c.adapter_sha256, c.weight) for c in batch}) == 1 for batch in cut)
    assert [len(batch) for batch in batches(cells[:2] * 1, 1)] == [1, 1]
    assert list(batches([], 3)) == []


def test_fresh_seeds_are_never_seeds_of_the_grid() -> None:
    decide = DecideConfig(confirm_seeds=3, confirm_first_seed=6)
    assert fresh_seeds(GRID, decide) == (6, 8, 9)
    cells = confirm_cells(CHECKPOINT, 1.0, GRID, decide, BASE).values()
    assert {c.purpose for c in cells} == {"confirm"}
    assert [(c.prompt.name, c.seed) for c in cells] == [(p, s) for p in ("trio", "solo") for s in (6, 8, 9)]


BESIDE = GridConfig.model_validate(
    {
        "prompts": [
            {"name": "pair", "text": "a b", "cast": ["a", "b"]},
            {"name": "base", "text": "a b", "cast": ["a", "b"], "role": "control", "adapter": False},
            {"name": "strangers", "text": "two girls", "role": "control", "weights": [0.6]},
            {
                "name": "coat",
                "text": "a in a coat",
                "cast": ["a"],
                "role": "probe",
                "size": [832, 1216],
                "seeds": [7],
                "epochs": {"every": 2},
            },
        ],
        "seeds": [7, 3],
        "weights": [0.8, 1.0],
    }
)


def test_controls_and_probes_are_cells_of_their_own() -> None:
    drawn = (1, 2, 3, 4)
    fourth, third = (replace(CHECKPOINT, epoch=epoch) for epoch in (4, 3))
    shown = shown_cells(fourth, BESIDE, drawn, BASE).values()
    assert [(c.prompt.name, c.weight, c.seed) for c in shown] == [
        ("strangers", 0.6, 7),
        ("strangers", 0.6, 3),
        ("coat", 0.8, 7),
        ("coat", 1.0, 7),
    ]
    assert {c.purpose for c in shown} == {"show"}
    assert {(c.drawing.width, c.drawing.height) for c in shown if c.prompt.role == "probe"} == {(832, 1216)}
    assert {c.prompt.name for c in shown_cells(third, BESIDE, drawn, BASE).values()} == {"strangers"}
    counted = select_cells(fourth, BESIDE, BASE)
    assert {c.prompt.name for c in counted.values()} == {"pair"}
    assert not counted.keys() & {c.key for c in shown}
    assert pictures_to_show(BESIDE, [drawn]) == 4 * 2 + 2 * 2 + 2


def test_the_base_alone_is_drawn_once_whatever_the_trials() -> None:
    alone = base_cells(BESIDE, BASE).values()
    assert [(c.trial, c.epoch, c.weight, c.adapter, c.seed) for c in alone] == [
        ("base", 0, 0.0, "", 7),
        ("base", 0, 0.0, "", 3),
    ]


def test_a_grid_of_controls_alone_is_refused() -> None:
    only = {"prompts": [{"name": "base", "text": "two girls", "role": "control"}], "seeds": [1]}
    with pytest.raises(ValidationError, match="at least one must count in the rate"):
        GridConfig.model_validate(only)


def test_adapters_drawn_along_are_part_of_the_key_once_their_content_is_known() -> None:
    plain = {"prompts": [{"name": "solo", "text": "a", "cast": ["a"]}], "seeds": [1]}
    turbo = GridConfig.model_validate(plain | {"with_adapters": [{"source": "loras/turbo.safetensors", "weight": 0.8}]})
    with pytest.raises(ValueError, match="nobody looked at the content"):
        select_cells(CHECKPOINT, turbo, BASE)
    keys = [
        *select_cells(CHECKPOINT, GridConfig.model_validate(plain), BASE),
        *select_cells(CHECKPOINT, turbo.pinned(["c" * 64]), BASE),
        *select_cells(CHECKPOINT, turbo.pinned(["d" * 64]), BASE),
    ]
    assert len(set(keys)) == 3
    (cell,) = select_cells(CHECKPOINT, turbo.pinned(["c" * 64]), BASE).values()
    assert cell.with_adapters == (ConstantAdapter("turbo", "c" * 64, 0.8),)
    assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell
    assert GridConfig.model_validate(plain | {"with_adapters": ["turbo.safetensors"]}).with_adapters[0].weight == 1


def test_a_model_is_no_adapter() -> None:
    with pytest.raises(ValidationError, match="an adapter is a file"):
        AdapterSource(source="hf://owner/model")
