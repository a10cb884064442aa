"""Which layers a LoRA is put on: named sets, or every layer whose name holds a match of a regular expression.

Names are those of the released weights, as adapter files have them. The counts in the sets' names are the real model's,
of 28 blocks and a text conditioner of 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from anima.lora import TARGETS
from orchestrator.core.errors import ConfigError

PREFIX = "diffusion_model."
MODULATION = tuple(
    (f"adaln_modulation_{part}.{number}", f"norm{place}.linear_{number}")
    for place, part in enumerate(("self_attn", "cross_attn", "mlp"), start=1)
    for number in (1, 2)
)
"""The modulation of one block: the original name, and the module of diffusers that holds it."""
CONDITIONER = tuple(f"{part}_attn.{side}_proj" for part in ("self", "cross") for side in "qkv")
CONDITIONER_REST = ("self_attn.o_proj", "cross_attn.o_proj", "mlp.0", "mlp.2")


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a trial: original name -> module, by the component that holds them."""

    transformer: Mapping[str, str]
    conditioner: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.transformer) + len(self.conditioner)


def chosen_layers(targets: str, transformer: nn.Module, conditioner: nn.Module) -> Layers:
    """The layers of a named set or a regular expression. Raises ConfigError for an expression that matches none."""
    usual = _named(transformer, "transformer_blocks", "blocks", TARGETS)
    modulation = _named(transformer, "transformer_blocks", "blocks", MODULATION)
    conditioning = _named(conditioner, "blocks", "llm_adapter.blocks", ((m, m) for m in CONDITIONER))
    if targets == "dit-280":
        return Layers(usual, {})
    if targets == "toolkit-316":
        return Layers(usual, conditioning)
    if targets == "with-adaln-448":
        return Layers(usual | modulation, {})
    conditioning |= _named(conditioner, "blocks", "llm_adapter.blocks", ((m, m) for m in CONDITIONER_REST))
    pattern = re.compile(targets)
    found = Layers(_matching(pattern, usual | modulation), _matching(pattern, conditioning))
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


def _named(component: nn.Module, modules: str, names: str, layers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Layers of every block of a component, block by block."""
    blocks, layers = len(list(component.get_submodule(modules).children())), tuple(layers)
    return {
        f"{PREFIX}{names}.{block}.{original}": f"{modules}.{block}.{module}"
        for block in range(blocks)
        for original, module in layers
    }


def _matching(pattern: re.Pattern[str], layers: Mapping[str, str]) -> dict[str, str]:
    return {name: module for name, module in layers.items() if pattern.search(name.removeprefix(PREFIX))}
