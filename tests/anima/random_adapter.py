"""Adapters of random numbers on any layers, and what they come to by the formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from anima.adapters.names import Component, Layer, layer_at


def linear_layers(component: Component, module: nn.Module) -> dict[str, Layer]:
    """Every linear layer of a component, by its name in adapter files."""
    layers = {path: layer_at(component, path) for path, part in module.named_modules() if isinstance(part, nn.Linear)}
    unnamed = [path for path, layer in layers.items() if layer is None]
    assert unnamed == []
    return {layer.comfy: layer for layer in layers.values() if layer is not None}


def weight_of(component: nn.Module, layer: Layer) -> Tensor:
    """The weight of a layer, (out, in)."""
    weight = component.get_submodule(layer.module).weight
    assert isinstance(weight, Tensor)
    return weight


def random_lora(
    component: nn.Module,
    layers: Mapping[str, Layer],
    ranks: Sequence[int] = (4,),
    seed: int = 0,
    strength: float = 0.1,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer name -> A (rank, in), B (out, rank); the ranks take turns. The change is `strength` of the weight."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for i, (name, layer) in enumerate(layers.items()):
        weight, rank = weight_of(component, layer).detach().float(), ranks[i % len(ranks)]
        a = torch.randn(rank, weight.shape[1], generator=generator) / weight.shape[1] ** 0.5
        b = torch.randn(weight.shape[0], rank, generator=generator)
        pairs[name] = a, b * (strength * weight.norm() / (b @ a).norm())
    return pairs


def peft_state(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """As this project's files have it."""
    state: dict[str, Tensor] = {}
    for name, (a, b) in pairs.items():
        state |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    return state


def weights(component: nn.Module, layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    """Copies of the layers' weights, by name."""
    return {name: weight_of(component, layer).detach().clone() for name, layer in layers.items()}


def copies(module: nn.Module) -> dict[str, Tensor]:
    """Everything a module holds, copied."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module: nn.Module, before: Mapping[str, Tensor]) -> bool:
    """Whether it still holds that, bit for bit."""
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
