"""A cell's key changes exactly when its pixels do: studies are resumed by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.study import Cell, Drawing, Prompt

TRIO = Prompt("trio", "3girls, left side: kanachan, white background", ("kanachan",), "1girl")
CELL = Cell("main", 3, "a.safetensors", "ab12", 0.8, TRIO, 42, Drawing(), "base")


@pytest.mark.parametrize(
    ("drawing", "key"),
    [
        (Drawing(), "6fcfc36f23ea7786"),
        (Drawing(steps=12, width=96, height=64), "6f6d6b76d9a4e6e2"),
        (Drawing(sampler="euler", steps=20, cfg=4.0, shift=1.5, width=96, height=64), "2eec1da76573e162"),
    ],
)
def test_keys_of_drawn_studies_stay_what_they_are(drawing: Drawing, key: str) -> None:
    """The same pixels since the first version of the engine, so nothing drawn then is drawn again."""
    assert replace(CELL, drawing=drawing).key == key


@pytest.mark.parametrize(
    "change",
    [
        {"adapter_sha256": "cd34"},
        {"weight": 1.0},
        {"prompt": replace(TRIO, text="2girls")},
        {"prompt": replace(TRIO, negative="")},
        {"seed": 43},
        {"base_sha256": "other"},
        {"drawing": Drawing(steps=9)},
        {"drawing": Drawing(cfg=2.0)},
        {"drawing": Drawing(sampler="euler")},
        {"drawing": Drawing(schedule="linspace")},
        {"drawing": Drawing(noise="comfyui")},
    ],
)
def test_whatever_changes_pixels_changes_the_key(change: dict[str, Any]) -> None:
    assert replace(CELL, **change).key != CELL.key


@pytest.mark.parametrize("change", [{"trial": "b"}, {"epoch": 4}, {"adapter": "b.safetensors"}, {"purpose": "confirm"}])
def test_whatever_changes_no_pixels_does_not(change: dict[str, Any]) -> None:
    assert replace(CELL, **change).key == CELL.key


def test_cells_that_a_newer_engine_draws_otherwise_have_new_keys() -> None:
    """Keys of the first version, when parentheses were text and er_sde began at one sigma for every shift."""
    assert replace(CELL, drawing=Drawing(shift=2.0)).key != "f522a1921a7ce143"
    weighted = replace(CELL, prompt=replace(TRIO, text="(kanachan)"))
    assert weighted.key != "8a52f0c5775eb347"


def test_sidecars_without_the_newer_choices_are_read() -> None:
    facts = CELL.to_json()
    del facts["drawing"]["schedule"], facts["drawing"]["noise"]
    assert Cell.from_json(facts) == CELL
