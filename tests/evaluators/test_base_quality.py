"""The shipped base follows held-out captions as its model card says; fewer captions than the card measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from anima.base import base_folder
from anima.load import load_base
from anima.pocket.world import HEIGHT, WIDTH
from evaluators.base_quality import Quality, held_out, measure
from orchestrator.core.study import Drawing

DRAWING = Drawing(steps=12, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def quality() -> Quality:
    return measure(load_base(base_folder("pocket")), held_out(60), DRAWING)


def test_the_shipped_base_draws_what_captions_ask_for(quality: Quality) -> None:
    assert quality.count >= 0.95
    assert quality.traits["hair"] >= 0.90
    assert quality.traits["style"] >= 0.85


def test_what_was_not_asked_for_is_counted_as_wrong(tmp_path: Path) -> None:
    """Captions of other scenes than the pictures show: the measure is not blind."""
    asked = held_out(20)
    mixed = [replace(a, caption=b.caption) for a, b in zip(asked, [*asked[3:], *asked[:3]], strict=True)]
    wrong = measure(load_base(base_folder("pocket")), mixed, DRAWING, folder=tmp_path)
    assert wrong.traits["hair"] < 0.5
    assert len(list(tmp_path.glob("*.png"))) == 20
