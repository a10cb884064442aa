"""Compiled drawing: cells of their own, pictures within rounding, nothing compiled after a shape's first pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend

from anima.adapter_files import AdapterMetadata, write_adapter
from anima.base import POCKET, base_sha256
from anima.denoiser import compiled
from anima.load import load_transformer
from anima.lora import adapter_state, inject
from evaluators.config import DrawingConfig
from evaluators.engine import Engine
from evaluators.sidecar import read_sample
from orchestrator.core.errors import MissingError
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Drawing, Prompt

PAIR = Prompt("pair", "2girls, left side: kanachan, right side: koharu, white background", ("kanachan", "koharu"))
SOLO = Prompt("solo", "koharu, 1girl", ("koharu",))
BASE_SHA256 = base_sha256(POCKET)
PLAIN = DrawingConfig(steps=3, width=96, height=64).drawing()
FUSED = DrawingConfig(steps=3, width=96, height=64, compile=True).drawing()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, tuple[str, ...]]:
    """A study folder with the adapters of epochs 1 and 2, and their hashes."""
    layout, hashes = Layout(tmp_path_factory.mktemp("compiled")), []
    for epoch in (1, 2):
        transformer = load_transformer(POCKET / "transformer")
        for parameter in inject(transformer, rank=2, alpha=2.0, seed=epoch).parameters:
            parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(epoch))
        metadata = AdapterMetadata(2, 2.0, BASE_SHA256, "none", "main", epoch, 1, 1.0, ("koharu",), "test")
        hashes.append(write_adapter(layout.adapter("main", epoch), adapter_state(transformer), metadata).sha256)
    return layout, tuple(hashes)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


Cells = Callable[..., list[Cell]]


@pytest.fixture
def cells(adapters: tuple[Layout, tuple[str, ...]]) -> Cells:
    layout, hashes = adapters

    def made(drawing: Drawing, epoch: int, *seeds: int, weight: float = 1.0) -> list[Cell]:
        path, sha256 = layout.relative(layout.adapter("main", epoch)), hashes[epoch - 1]
        return [
            Cell("main", epoch, path, sha256, weight, prompt, seed, drawing, BASE_SHA256)
            for prompt in (PAIR, SOLO)
            for seed in seeds
        ]

    return made


def test_it_makes_other_cells_and_leaves_the_keys_of_all_others(cells: Cells) -> None:
    plain, fused = cells(PLAIN, 1, 1, 2), cells(FUSED, 1, 1, 2)
    assert len({cell.key for cell in (*plain, *fused)}) == 8
    older = Cell("t", 1, "a", "a" * 64, 1.0, Prompt("p", "text", ("a",)), 7, Drawing(), "b" * 64, with_adapters=())
    assert older.key == "1c8db41da64ed83c"
    assert "compile" not in older.to_json()["drawing"]
    assert Cell.from_json(fused[0].to_json()) == fused[0]
    assert Cell.from_json(fused[0].to_json()).key == fused[0].key


def check(layout: Layout, cells: Cells, counter: Any) -> None:
    """Draw plain and compiled; `counter` counts what is compiled."""
    engine = Engine(str(POCKET), str(layout.root), threads=2, batch=2)
    engine.draw(plain := [*cells(PLAIN, 1, 1, 2, 3), *cells(PLAIN, 2, 1, 2, 3, weight=0.6)])
    assert counter.frame_count == 0
    engine.draw(first := cells(FUSED, 1, 1, 2, 3))
    assert counter.frame_count == 1, "one graph, whichever thread met it first"
    engine.draw(second := cells(FUSED, 2, 1, 2, 3, weight=0.6))
    engine.draw(again := cells(FUSED, 1, 4))
    assert counter.frame_count == 1, "adapters, weights, prompts and seeds compile nothing"
    levels = []
    for cell, other in zip(plain, [*first, *second], strict=True):
        pictures = [Image.open(layout.image(c.trial, c.epoch, c.key)).convert("RGB") for c in (cell, other)]
        levels.append([np.asarray(picture, int) for picture in pictures])
    assert max(abs(one - other).max() for one, other in levels) <= 1
    assert abs(levels[0][0] - levels[6][0]).max() > 8, "the adapters show"
    assert all(read_sample(layout, cell) for cell in again)
    engine.draw([replace(cells(FUSED, 1, 1)[0], drawing=replace(FUSED, width=64))])
    assert counter.frame_count == 2, "another size is another graph"


@pytest.mark.usefixtures("fresh_compiler")
def test_one_graph_serves_a_study(
    adapters: tuple[Layout, tuple[str, ...]], cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as for the real compiler, and run as plain torch: compiling takes a minute."""
    counter = CompileCounter()
    monkeypatch.setattr("evaluators.engine.compiled", lambda: compiled(counter))
    check(adapters[0], cells, counter)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.usefixtures("fresh_compiler")
def test_really_compiled_it_is_the_same_picture_within_rounding(
    tmp_path: Path, adapters: tuple[Layout, tuple[str, ...]], cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    counter = CompileCounterWithBackend("inductor")
    monkeypatch.setattr("evaluators.engine.compiled", lambda: compiled(counter))
    layout = Layout(tmp_path / "study")
    shutil.copytree(adapters[0].root / "trials", layout.root / "trials")
    check(layout, cells, counter)
    # Whoever draws a compiled cell, alone or in company, draws the same file.
    wanted = [*cells(FUSED, 1, 1, 2, 3)]
    drawn = [read_sample(layout, cell) for cell in wanted]
    for cell in wanted:
        layout.image(cell.trial, cell.epoch, cell.key).unlink()
    other = Engine(str(POCKET), str(layout.root), threads=1, batch=2)
    again = [other.draw([cell])[0] for cell in reversed(wanted)]
    assert [one.sha256 for one in reversed(again)] == [one.sha256 for one in drawn if one]


def test_without_a_compiler_one_line_says_so_before_anything_is_drawn(
    adapters: tuple[Layout, tuple[str, ...]], cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    wanted = cells(replace(FUSED, steps=1), 1, 99)
    said = r"grid\.drawing\.compile: no C\+\+ compiler \(no-such-compiler\) on this machine"
    with pytest.raises(MissingError, match=said):
        Engine(str(POCKET), str(adapters[0].root), threads=1).draw([*cells(replace(PLAIN, steps=1), 1, 99), *wanted])
    assert not any(adapters[0].image(c.trial, c.epoch, c.key).exists() for c in cells(replace(PLAIN, steps=1), 1, 99))
