"""The published comparison measures the real thing: every way loads the same weights, and its check sees one bit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anima.base import POCKET
from benchmarks.load import CACHES, CASES, FOLDER, Result, compare_forms, measure, page
from benchmarks.random_base import PARTS, write_random_base

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory peaks are read from /proc")
TENSORS = 127 + 42 + 35 + 118


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in pocket's sizes."""
    root = tmp_path_factory.mktemp("load") / "base"
    write_random_base(root, {part: POCKET / part / "config.json" for part in PARTS})
    return root


def test_both_forms_are_the_same_tensors(root: Path) -> None:
    assert compare_forms(root) == TENSORS


def test_every_case_is_measured_and_told(root: Path) -> None:
    results: dict[tuple[str, str], list[Result]] = {}
    for name in CASES:
        for cache in CACHES:
            result = measure(name, cache, root, "cpu")
            assert 0 < result.load_s <= result.ready_s
            assert result.peak_mb >= result.libraries_mb > 0
            results[name, cache] = [result]
    told = page(results, root, "cpu", TENSORS)
    assert all(case.told in told for case in CASES.values())
    assert f"gave {TENSORS} tensors" in told


def test_one_bit_of_one_tensor_is_seen(root: Path) -> None:
    file = root / FOLDER
    state = load_file(file)
    state["proj_out.weight"].view(torch.int16)[0, 0] ^= 1
    save_file(state, file)
    with pytest.raises(AssertionError, match=r"transformer proj_out\.weight differs"):
        compare_forms(root)
