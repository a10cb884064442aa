"""The same cell is the same file: alone or in company, whoever merged what before; and no damaged adapter is drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from anima.adapter_files import AdapterMetadata, write_adapter
from anima.base import POCKET, base_sha256
from anima.load import load_transformer
from anima.lora import adapter_state, inject
from evaluators.config import DrawingConfig
from evaluators.engine import Engine
from orchestrator.core.errors import AdapterError
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, ConstantAdapter, Drawing, Prompt, Sample

PROMPT = Prompt("pair", "2girls, left side: kanachan, right side: koharu, white background", ("kanachan", "koharu"))
DRAWING = Drawing(steps=3, width=96, height=64)
BASE_SHA256 = base_sha256(POCKET)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, dict[int, str]]:
    """A study folder with two adapters that change pictures, and their hashes by epoch."""
    layout = Layout(tmp_path_factory.mktemp("study"))
    hashes = {}
    for epoch in (1, 2):
        transformer = load_transformer(POCKET / "transformer")
        adapter = inject(transformer, rank=2, alpha=2.0, seed=epoch)
        generator = torch.Generator().manual_seed(epoch)
        for parameter in adapter.parameters:
            parameter.data.normal_(0, 0.1, generator=generator)
        metadata = AdapterMetadata(2, 2.0, BASE_SHA256, "none", "main", epoch, 1, 1.0, ("koharu",), "test")
        file = write_adapter(layout.adapter("main", epoch), adapter_state(transformer), metadata)
        hashes[epoch] = file.sha256
    return layout, hashes


@pytest.fixture(scope="module")
def engine(study: tuple[Layout, dict[int, str]]) -> Engine:
    return Engine("pocket", str(study[0].root), threads=1, batch=3)


def cells(study: tuple[Layout, dict[int, str]], epoch: int, seeds: Sequence[int], weight: float = 1.0) -> list[Cell]:
    layout, hashes = study
    adapter = layout.relative(layout.adapter("main", epoch))
    return [Cell("main", epoch, adapter, hashes[epoch], weight, PROMPT, seed, DRAWING, BASE_SHA256) for seed in seeds]


def test_alone_or_in_company_before_or_after_others_it_is_the_same_file(
    engine: Engine, study: tuple[Layout, dict[int, str]]
) -> None:
    together = engine.draw(cells(study, 1, [1, 2, 3, 4]))
    other = engine.draw(cells(study, 2, [2]))
    alone = engine.draw(cells(study, 1, [2]))
    fresh = Engine("pocket", str(study[0].root), threads=1, batch=3).draw(cells(study, 1, [4]))
    assert alone[0].sha256 == together[1].sha256
    assert fresh[0].sha256 == together[3].sha256
    assert other[0].sha256 != together[1].sha256
    assert len({s.sha256 for s in together}) == 4


def test_weight_is_an_axis_and_zero_is_the_base(engine: Engine, study: tuple[Layout, dict[int, str]]) -> None:
    def drawn(epoch: int, weight: float) -> Sample:
        return engine.draw(cells(study, epoch, [5], weight))[0]

    assert drawn(1, 0.0).sha256 != drawn(1, 0.5).sha256 != drawn(1, 1.0).sha256
    paths = [study[0].resolve(drawn(epoch, 0.0).image) for epoch in (1, 2)]
    pictures = [Image.open(p).convert("RGB").tobytes() for p in paths]
    assert pictures[0] == pictures[1]


def test_the_sidecar_tells_everything_needed_to_draw_again(
    engine: Engine, study: tuple[Layout, dict[int, str]]
) -> None:
    [cell] = cells(study, 1, [9])
    [sample] = engine.draw([cell])
    path = study[0].resolve(sample.image)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert Cell.from_json(sidecar) == cell
    assert sidecar["cell_key"] == cell.key == sample.cell_key
    assert sidecar["image_sha256"] == sample.sha256
    assert len(sidecar["sigmas"]) == DRAWING.steps + 1
    assert "Seed: 9" in Image.open(path).text["parameters"]  # type: ignore[attr-defined]


def test_schedule_and_noise_are_choices_of_the_grid(engine: Engine, study: tuple[Layout, dict[int, str]]) -> None:
    [plain] = cells(study, 1, [9])
    choices = [
        DrawingConfig(steps=3, width=96, height=64),
        DrawingConfig(steps=3, width=96, height=64, schedule="linspace"),
        DrawingConfig(steps=3, width=96, height=64, noise="comfyui"),
    ]
    drawn = [engine.draw([replace(plain, drawing=choice.drawing())])[0] for choice in choices]
    assert drawn[0].cell_key == plain.key
    assert len({sample.sha256 for sample in drawn}) == len({sample.cell_key for sample in drawn}) == 3
    path = study[0].resolve(drawn[1].image)
    assert "Schedule type: linspace" in Image.open(path).text["parameters"]  # type: ignore[attr-defined]
    assert json.loads(path.with_suffix(".json").read_text())["sigmas"] == [1.0, 0.85714286, 0.6, 0.0]


def test_adapters_of_others_are_merged_along(study: tuple[Layout, dict[int, str]]) -> None:
    """Epoch 1 with epoch 2 beside it, from outside the study, is epoch 2 with epoch 1 beside it; alone it is not."""
    layout, hashes = study
    elsewhere = {digest: str(layout.adapter("main", epoch)) for epoch, digest in hashes.items()}
    engine = Engine("pocket", str(layout.root), threads=1, batch=1, adapters=elsewhere, base_name="pocket")

    def drawn(epoch: int, beside: int | None) -> Sample:
        constant = (ConstantAdapter("turbo", hashes[beside], 0.5),) if beside else ()
        return engine.draw([replace(cells(study, epoch, [4], 0.5)[0], with_adapters=constant)])[0]

    alone, both, swapped = drawn(1, None), drawn(1, 2), drawn(2, 1)
    levels = [np.asarray(Image.open(layout.resolve(s.image)).convert("RGB"), int) for s in (alone, both, swapped)]
    assert abs(levels[0] - levels[1]).max() > 8
    assert abs(levels[1] - levels[2]).max() <= 1, "sums of floats in another order"
    sidecar = json.loads(layout.resolve(both.image).with_suffix(".json").read_text())
    assert [(a["name"], a["weight"]) for a in sidecar["adapters"]] == [("main-epoch1", 0.5), ("turbo", 0.5)]
    assert (sidecar["base"], sidecar["backend"], sidecar["threads"]) == ("pocket", "engine", 1)
    text = Image.open(layout.resolve(both.image)).text["parameters"]  # type: ignore[attr-defined]
    assert 'Lora weights: "main-epoch1: 0.5, turbo: 0.5"' in text
    base = replace(cells(study, 1, [4], 0.0)[0], trial="base", epoch=0, adapter="", adapter_sha256="", with_adapters=())
    bare, zero = engine.draw([base])[0], engine.draw([cells(study, 1, [4], 0.0)[0]])[0]
    assert layout.resolve(bare.image).parent.name == "epoch-0000"
    pictures = [Image.open(layout.resolve(s.image)).convert("RGB").tobytes() for s in (bare, zero)]
    assert pictures[0] == pictures[1]


def test_a_damaged_adapter_is_never_drawn(engine: Engine, study: tuple[Layout, dict[int, str]]) -> None:
    layout, _ = study
    path = layout.adapter("main", 2)
    whole = path.read_bytes()
    engine.draw(cells(study, 1, [1]))
    try:
        path.write_bytes(whole[:-8] + bytes(8))
        with pytest.raises(AdapterError, match=r"adapter\.safetensors"):
            engine.draw(cells(study, 2, [31]))
        assert not layout.image("main", 2, cells(study, 2, [31])[0].key).exists()
    finally:
        path.write_bytes(whole)


def test_cells_of_one_call_share_the_adapter(engine: Engine, study: tuple[Layout, dict[int, str]]) -> None:
    with pytest.raises(ValueError, match="must share"):
        engine.draw([*cells(study, 1, [1]), *cells(study, 2, [1])])
