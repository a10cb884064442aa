"""How a step fits into memory: activations kept or computed again, and how many pictures pass at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from anima.load import Base
from trainer.config import TrainConfig

KEPT_PER_TOKEN = 120
"""Bytes a block keeps for its backward pass, per token and per unit of width, in bf16 with an adapter on every target:
44 for the adapters' fp32 inputs, the rest for attention, modulation and MLP. Counted from the block, not measured."""
SHARE = 0.6
"""How much of the free memory kept activations may take."""


@dataclass(frozen=True, slots=True)
class Economy:
    """`micro` pictures pass at once (never more than the batch); `checkpointing` computes activations again."""

    micro: int
    checkpointing: bool

    def spared(self) -> Economy:
        """What to try after running out of memory: computed again, half as many at once."""
        return replace(self, micro=max(1, self.micro // 2), checkpointing=True)


def economy_of(config: TrainConfig, base: Base) -> Economy:
    """As configured; `auto` looks at the GPU's free memory and never checkpoints on a CPU."""
    if config.checkpointing != "auto":
        return Economy(config.batch, config.checkpointing == "on")
    if base.device.type != "cuda":
        return Economy(config.batch, False)
    free, _ = torch.cuda.mem_get_info(base.device)
    return Economy(config.batch, kept_bytes(config, base.transformer, base.codec.scale_factor) > SHARE * free)


def kept_bytes(config: TrainConfig, transformer: nn.Module, scale: int) -> int:
    """Estimate of what one micro-batch keeps without checkpointing."""
    blocks = list(transformer.get_submodule("transformer_blocks").children())
    width = blocks[0].get_submodule("attn1.to_q").in_features
    tokens = config.resolution[0] * config.resolution[1] // (2 * scale) ** 2
    numbers = 2 if config.dtype == "fp32" else 1
    return KEPT_PER_TOKEN * numbers * int(width) * len(blocks) * tokens * config.batch  # type: ignore[arg-type]


def arrange(base: Base, economy: Economy) -> None:
    """Switch checkpointing of the transformer as the economy says."""
    if economy.checkpointing:
        base.transformer.enable_gradient_checkpointing()
    else:
        base.transformer.disable_gradient_checkpointing()


def compile_blocks(transformer: nn.Module, backend: str = "inductor") -> None:
    """Compile every block by itself, in place: they share their code, so it is compiled once per shape."""
    for block in transformer.get_submodule("transformer_blocks").children():
        block.compile(backend=backend)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory, of a GPU or of this machine, ran out."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
