"""Which layers a LoRA is put on: named sets, or every layer whose name holds a match of a regular expression.

Names are those of the released weights, as adapter files have them. The counts in the sets' names are the real model's,
of 28 blocks and a text conditioner of 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from anima.adapters.names import Component, layer_at
from anima.lora import target_names
from orchestrator.core.errors import ConfigError

PREFIX = "diffusion_model."
_MODULATION = re.compile(r"blocks\.\d+\.adaln_modulation_")
_CONDITIONER_QKV = re.compile(r"llm_adapter\.blocks\.\d+\.(self|cross)_attn\.[qkv]_proj")


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a trial: original name -> module, by the component that holds them."""

    transformer: Mapping[str, str]
    conditioner: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.transformer) + len(self.conditioner)


def chosen_layers(targets: str, transformer: nn.Module, conditioner: nn.Module) -> Layers:
    """The layers of a named set or a regular expression. Raises ConfigError for an expression that matches none."""
    usual = target_names(transformer)
    inside, beside = _linear_layers("transformer", transformer), _linear_layers("text_conditioner", conditioner)
    if targets == "dit-280":
        return Layers(usual, {})
    if targets == "toolkit-316":
        return Layers(usual, _matching(_CONDITIONER_QKV, beside))
    if targets == "with-adaln-448":
        return Layers(usual | _matching(_MODULATION, inside), {})
    pattern = re.compile(targets)
    found = Layers(_matching(pattern, inside), _matching(pattern, beside))
    if not len(found):
        some = ", ".join(name.removeprefix(PREFIX) for name in list(usual)[:2])
        raise ConfigError(f"{targets!r} matches no layer", where="train.targets", fix=f"names are like {some}")
    return found


def ranks_of(names: Iterable[str], ranks: Mapping[str, int]) -> dict[str, int]:
    """The rank of each layer that a pattern of `ranks` matches. Raises ConfigError for a pattern that matches none."""
    own: dict[str, int] = {}
    unused = dict.fromkeys(ranks)
    for name in names:
        matching = [pattern for pattern in ranks if re.search(pattern, name.removeprefix(PREFIX))]
        for pattern in matching:
            unused.pop(pattern, None)
        if matching:
            own[name] = ranks[matching[0]]
    if unused:
        raise ConfigError(f"{next(iter(unused))!r} matches no adapted layer", where="train.ranks")
    return own


def _linear_layers(component: Component, module: nn.Module) -> dict[str, str]:
    """Every linear layer of the conditioner, or of the transformer's blocks: original name -> module.

    The transformer's embeddings are left out: the padding mask is folded away, so they are not in their original shape.
    """
    linear = (path for path, child in module.named_modules() if isinstance(child, nn.Linear))
    layers = [layer for path in linear if (layer := layer_at(component, path)) is not None]
    inside = [layer for layer in layers if component != "transformer" or layer.original.startswith("blocks.")]
    return {layer.comfy: layer.module for layer in inside}


def _matching(pattern: re.Pattern[str], layers: Mapping[str, str]) -> dict[str, str]:
    return {name: module for name, module in layers.items() if pattern.search(name.removeprefix(PREFIX))}
