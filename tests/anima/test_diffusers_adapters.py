"""Files of this project in diffusers' own pipeline: it finds every module and draws, on the miniature, our picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ModularPipeline
from diffusers.guiders import ClassifierFreeGuidance
from peft.tuners.lora import LoraLayer
from torch import Tensor

from anima.adapter_files import AdapterMetadata, read_adapter, write_adapter
from anima.adapters.convert import convert
from anima.adapters.names import layer_of
from anima.base import POCKET
from anima.draw import Request, draw
from anima.flow import initial_noise
from anima.load import Base, load_base
from anima.lora import Merger
from orchestrator.core.study import Drawing
from tests.anima.random_adapter import linear_layers, peft_state, random_lora

PROMPT = "2girls, left side: blue hair, twintails, white shirt, right side: red hair, short hair, white background"
# 8 steps divide the table of 1000, so diffusers' sigmas are ours; its Euler is deterministic.
DRAWING = Drawing(sampler="euler", steps=8, width=96, height=64)
METADATA = AdapterMetadata(8, 8.0, "b" * 64, "d" * 64, "trio", 7, 91, 14.5, ("kanachan",), "0.1.0")


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(POCKET)


@pytest.fixture(scope="module")
def state(base: Base) -> dict[str, Tensor]:
    """Every linear layer of transformer and conditioner, at three ranks, a quarter of the weights."""
    transformer, conditioner = base.transformer, base.text.conditioner
    pairs = random_lora(transformer, linear_layers("transformer", transformer), ranks=(8, 3), strength=0.25)
    pairs |= random_lora(conditioner, linear_layers("text_conditioner", conditioner), ranks=(5,), strength=0.25)
    return peft_state(pairs)


def ours(base: Base) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return (draw(base, [Request(PROMPT, 7)], DRAWING)[0] + 1) / 2


def theirs(path: Path | None) -> tuple[Tensor, dict[str, LoraLayer]]:
    """The picture of diffusers' pipeline with the file loaded, and the layers the file went to."""
    pipeline: Any = ModularPipeline.from_pretrained(str(POCKET))
    pipeline.load_components(dtype=torch.float32)
    pipeline.update_components(guider=ClassifierFreeGuidance(guidance_scale=1.0))
    if path is not None:
        pipeline.load_lora_weights(str(path), local_files_only=True)
    layers = {
        f"{component}.{name}": module
        for component in ("transformer", "text_conditioner")
        for name, module in getattr(pipeline, component).named_modules()
        if isinstance(module, LoraLayer)
    }
    noise = initial_noise(7, (8, 1, 16, 24)).unsqueeze(0)
    picture = pipeline(
        prompt=PROMPT, width=96, height=64, num_inference_steps=8, latents=noise, output="images", output_type="pt"
    )
    return picture[0], layers


@pytest.mark.parametrize("layout", ["own", "comfy", "diffusers"])
def test_diffusers_finds_every_module_and_draws_our_picture(
    tmp_path: Path, base: Base, state: dict[str, Tensor], layout: Any
) -> None:
    path = write_adapter(tmp_path / "own.safetensors", state, METADATA).path
    if layout != "own":
        path = convert(path, tmp_path / f"{layout}.safetensors", layout).target.path
    merger = Merger(base.transformer, base.text)
    plain = ours(base)
    assert merger.merge(read_adapter(path).state) == len(state) // 2
    merged = ours(base)
    merger.restore()
    picture, layers = theirs(path)
    named = {layer.diffusers for key in state if (layer := layer_of(key.rpartition(".lora_")[0])) is not None}
    assert layers.keys() == named
    assert len(named) == len(state) // 2 > 100
    assert {scale for layer in layers.values() for scale in layer.scaling.values()} == {1.0}
    assert (picture - merged.clamp(0, 1)).abs().max() < 1e-4
    assert (merged - plain).abs().mean() > 0.02


def test_without_an_adapter_both_draw_the_base(base: Base) -> None:
    picture, layers = theirs(None)
    assert layers == {}
    assert (picture - ours(base).clamp(0, 1)).abs().max() < 1e-4
