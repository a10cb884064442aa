"""The published comparison measures the real thing: both sides merge, and its checks tell right from wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from anima.lora import target_names
from benchmarks.merge import STEPS, Size, fingerprints, run_side, table

SMALL = Size(blocks=2, heads=1, text=64, modulation=16, rank=16)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory peaks are read from /proc")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "adapter.safetensors"
    assert SMALL.write_adapter(path) == path.stat().st_size
    return path


def test_the_default_is_the_released_models_shapes() -> None:
    shapes = Size().shapes()
    targets = [shapes.get_submodule(module).weight for module in target_names(shapes).values()]
    assert len(targets) == 280
    # One 2048-wide block: 4 + 2 square projections, 2 from the text of 1024, 2 of the MLP; and the padding mask folded.
    assert sum(w.numel() for w in targets) == 28 * (6 * 2048**2 + 2 * 2048 * 1024 + 2 * 8192 * 2048)
    assert sum(p.numel() for p in shapes.parameters()) == 1_956_405_248 - 4 * 2048
    assert {p.dtype for p in shapes.parameters()} == {torch.bfloat16}


def test_ours_is_the_formula_to_the_bit_and_touches_nothing_else(adapter: Path) -> None:
    result = run_side("epochsweep", SMALL, adapter)
    assert (result.layers, result.misrounded, result.others_changed, result.not_restored) == (20, 0, 0, 0)
    assert result.merged == 2 * (6 * 128**2 + 2 * 128 * 64 + 2 * 512 * 128)
    assert result.largest_error <= 0.5
    assert result.seconds.keys() == result.peak_mb.keys() == set(STEPS)
    assert table([result]).count("\n") == 12


def test_the_other_side_merges_too_and_the_checks_see_its_rounding(adapter: Path) -> None:
    result = run_side("peft", SMALL, adapter)
    assert (result.layers, result.others_changed) == (20, 0)
    # Its sum of two bf16 numbers is rounded twice, so some weights are a neighbour of the right one, none is far.
    assert 0 < result.misrounded < result.merged // 4
    assert 0.5 < result.largest_error < 2.5
    assert result.not_restored > 0


def test_the_fingerprints_see_a_single_bit() -> None:
    model = SMALL.transformer()
    before = fingerprints(model)
    assert fingerprints(SMALL.transformer()) == before
    model.proj_out.weight.view(torch.int16)[0, 0] ^= 1
    after = fingerprints(model)
    assert [name for name in before if before[name] != after[name]] == ["proj_out.weight"]
