"""The LoRA of a trial on the loaded base: on the transformer, and on the text conditioner where the targets say so."""

from __future__ import annotations

from dataclasses import dataclass
from types import MethodType
from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from anima.load import Base
from anima.lora import adapter_state, inject
from trainer.config import TrainConfig
from trainer.layers import Layers, chosen_layers, ranks_of


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What is trained. `parameters` keep one order: A then B, layer by layer, the transformer's first."""

    base: Base
    layers: Layers
    alpha: float
    parameters: tuple[nn.Parameter, ...]

    @property
    def trains_text(self) -> bool:
        """Whether the conditioner is adapted, so that conditionings change from step to step."""
        return bool(self.layers.conditioner)

    def state(self) -> dict[str, Tensor]:
        """As adapter files have it: fp32 copies on the CPU, scale folded in."""
        parts: dict[str, Tensor] = {}
        if self.layers.transformer:
            parts |= adapter_state(self.base.transformer, self.layers.transformer)
        if self.layers.conditioner:
            parts |= adapter_state(self.base.text.conditioner, self.layers.conditioner)
        return parts

    @torch.no_grad()
    def set(self, values: tuple[Tensor, ...]) -> None:
        """Put the values of all parameters back."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def adapt(base: Base, config: TrainConfig) -> Adaptation:
    """Inject the configured layers, in place, and freeze everything else.

    Raises ConfigError for patterns that fit no layer.
    """
    layers = chosen_layers(config.targets, base.transformer, base.text.conditioner)
    ranks = ranks_of([*layers.transformer, *layers.conditioner], config.ranks)
    alpha = config.alpha or float(config.rank)
    parameters: list[nn.Parameter] = []
    for component, targets, seed in (
        (base.transformer, layers.transformer, config.seed),
        (base.text.conditioner, layers.conditioner, config.seed + 1),
    ):
        if targets:
            own = {name: rank for name, rank in ranks.items() if name in targets}
            parameters += inject(component, config.rank, alpha, seed, targets=targets, ranks=own).parameters
            _fuse(component)
    return Adaptation(base, layers, alpha, tuple(parameters))


def _fuse(component: nn.Module) -> None:
    """Give every LoRA layer the forward below."""
    for module in component.modules():
        if isinstance(module, LoraLayer):
            # On the object: peft's class stays as it is for everybody else.
            setattr(module, "forward", MethodType(_fused_forward, module))  # noqa: B010 - mypy refuses the assignment


def _fused_forward(layer: LoraLayer, x: Tensor) -> Tensor:
    """W x + scale B A x with the sum made inside the last product: (..., in) to (..., out).

    peft's own forward scales and adds in passes of their own over the output, and keeps an fp32 copy of x where the
    base is bf16. It has cases for dropout, several adapters and merged weights, none of which occur here.
    """
    base = cast(nn.Linear, layer.get_base_layer())
    ((name, a),) = layer.lora_A.items()
    inner = nn.functional.linear(x, cast(nn.Linear, a).weight)
    plain = nn.functional.linear(x, base.weight, base.bias)
    b = cast(nn.Linear, layer.lora_B[name]).weight
    summed = torch.addmm(plain.flatten(0, -2), inner.flatten(0, -2), b.t(), alpha=float(layer.scaling[name]))
    return summed.view(plain.shape)
