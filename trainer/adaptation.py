"""The LoRA of a trial on the loaded base: on the transformer, and on the text conditioner where the targets say so."""

from __future__ import annotations

from dataclasses import dataclass

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
            if base.dtype != torch.float32:
                _keep_input_dtype(component)
    return Adaptation(base, layers, alpha, tuple(parameters))


def _keep_input_dtype(component: nn.Module) -> None:
    """Leave casting to autocast: peft's own cast to fp32 and autocast's cast back cancel out, but each keeps a copy."""
    for module in component.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
