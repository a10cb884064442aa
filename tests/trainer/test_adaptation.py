"""The adapted layers compute what peft's own do, gradients included, with less work."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from anima.base import POCKET
from anima.load import Base, load_base
from trainer.adaptation import adapt
from trainer.config import TrainConfig


@pytest.mark.parametrize("train", [{"rank": 8}, {"rank": 8, "alpha": 3.0, "ranks": {"mlp": 4}}])
def test_every_layer_gives_what_pefts_own_forward_gives(train: dict) -> None:
    base = load_base(POCKET)
    adaptation = adapt(base, TrainConfig.model_validate(train))
    moved(adaptation.parameters)
    layers = [module for module in base.transformer.modules() if isinstance(module, LoraLayer)]
    assert len(layers) == len(adaptation.layers)
    generator = torch.Generator().manual_seed(0)
    for layer in layers[:10]:
        assert isinstance(layer, PeftLinear)
        x = torch.randn(2, 5, layer.in_features, generator=generator, requires_grad=True)
        ours, theirs = layer.forward(x), PeftLinear.forward(layer, x)
        assert near(ours, theirs)
        for one, other in zip(gradients(ours, layer, x), gradients(theirs, layer, x), strict=True):
            assert near(one, other)


def near(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() < 1e-5 * other.abs().max())


def moved(parameters: tuple[nn.Parameter, ...]) -> None:
    """Away from the start, where B is zero and half of the gradients are."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def gradients(out: Tensor, layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    trained = [p for p in layer.parameters() if p.requires_grad]
    return torch.autograd.grad(out.square().sum(), [x, *trained], retain_graph=True)


def test_a_bf16_base_keeps_no_fp32_copies_of_its_inputs() -> None:
    base: Base = load_base(POCKET, dtype=torch.bfloat16)
    adaptation = adapt(base, TrainConfig(rank=8))
    own = {p.untyped_storage().data_ptr() for p in base.transformer.parameters()}
    layer = base.transformer.get_submodule("transformer_blocks.0.attn1.to_q")
    x = torch.randn(1, 64, layer.in_features, dtype=torch.bfloat16, requires_grad=True)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert {tensor.dtype for tensor in kept} == {torch.bfloat16}
    assert {p.dtype for p in adaptation.parameters} == {torch.float32}
