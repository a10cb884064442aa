"""Training gives the numbers it gave: a change that should not alter results is held to that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anima.base import POCKET, base_sha256
from tests.trainer.golden import GOLDEN, STEPS, losses

TOLERANCE = 1e-4
"""Relative. The instruction sets of one CPU differ by 4e-7 after forty steps; other makes of CPU have room."""


def test_forty_steps_follow_the_recorded_losses(tmp_path: Path) -> None:
    record = json.loads(GOLDEN.read_text())
    assert record["base_sha256"] == base_sha256(POCKET), "another base: python -m tests.trainer.golden"
    found = losses(tmp_path)
    assert len(found) == STEPS
    assert found == pytest.approx(record["losses"], rel=TOLERANCE)
