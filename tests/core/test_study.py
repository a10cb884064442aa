"""A cell's key changes exactly when its pixels do: studies are resumed by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.study import Cell, Drawing, Finding, Prompt

TRIO = Prompt("trio", "3girls, left side: kanachan, white background", ("kanachan",), "1girl")
CELL = Cell("main", 3, "a.safetensors", "ab12", 0.8, TRIO, 42, Drawing(), "base")


@pytest.mark.parametrize(
    ("drawing", "key"),
    [
        (Drawing(), "705d18e7f63af898"),
        (Drawing(steps=12, width=96, height=64), "00a63f6280446aaf"),
        (Drawing(sampler="euler", steps=20, cfg=4.0, shift=1.5, width=96, height=64), "7500979db3e8611c"),
    ],
)
def test_keys_of_drawn_studies_stay_what_they_are(drawing: Drawing, key: str) -> None:
    """The same pixels since version 3 of the engine, so nothing drawn then is drawn again."""
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
    """Keys of the first two versions of the engine: every picture has other last bits since."""
    assert CELL.key != "6fcfc36f23ea7786"
    assert replace(CELL, drawing=Drawing(shift=2.0)).key != "f522a1921a7ce143"


def test_sidecars_without_the_newer_choices_are_read() -> None:
    facts = CELL.to_json()
    del facts["drawing"]["schedule"], facts["drawing"]["noise"]
    assert Cell.from_json(facts) == CELL


def test_findings_are_english() -> None:
    drift = Finding("drift", "kanachan", "eyes", "brown", "red")
    assert drift.sentence() == "kanachan's eyes are red, not brown"
    assert replace(drift, attribute="hair").sentence() == "kanachan's hair is red, not brown"
