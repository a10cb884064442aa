"""How a step fits into memory: activations kept or computed again, and how many pictures pass at once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anima.load import Base
from trainer.config import TrainConfig

log = logging.getLogger(__name__)

CPU_KEPT_BYTES = 2**30
"""What the passes of `auto` may keep on a CPU, however large its memory."""
SHARE = 0.8
"""How much of the free memory kept activations may take: the rest is for what a step needs besides, and for holes."""


class _EnoughError(Exception):
    """Ends a forward pass of which only the beginning was wanted."""


@dataclass(frozen=True, slots=True)
class Economy:
    """Up to `micro` pictures of a step pass at once; `checkpointing` computes activations again."""

    micro: int
    checkpointing: bool

    def spared(self, batch: int) -> Economy:
        """What to try after running out of memory: computed again, half a batch at once."""
        return Economy(max(1, min(self.micro, batch) // 2), True)


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest input of a trial's passes: a picture's size in pixels, and a conditioning (1, rows, dim)."""

    width: int
    height: int
    conditions: Tensor


def economy_of(config: TrainConfig, base: Base, adapter_bytes: int, largest: Largest) -> Economy:
    """As configured; `auto` measures what a pass keeps on a GPU. On a CPU, where large passes are faster, it never
    checkpoints and lets as much of a step pass at once as keeps little.

    adapter_bytes: size of the fp32 parameters, whose gradients and moments will take their place beside activations.
    """
    if config.checkpointing != "auto":
        return Economy(config.batch, config.checkpointing == "on")
    try:
        kept = kept_bytes(base, largest, config.batch)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return Economy(config.batch, True)
    if base.device.type != "cuda":
        passes = min(config.grad_accum, max(1, CPU_KEPT_BYTES // max(1, kept)))
        return Economy(config.batch * passes, False)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(base.device)
    economy = Economy(config.batch, not fits(kept, free, adapter_bytes))
    log.info("a pass keeps %.1f GB of activations, %.1f GB are free | %s", kept / 1e9, free / 1e9, economy)
    return economy


def fits(kept: int, free: int, adapter_bytes: int) -> bool:
    """Whether a GPU with so much free memory holds a pass's activations beside gradients and both moments."""
    return kept <= SHARE * (free - 3 * adapter_bytes)


def kept_bytes(base: Base, largest: Largest, pictures: int) -> int:
    """What a pass without checkpointing keeps for its backward pass: measured on the first block, times the blocks."""
    blocks = list(base.transformer.get_submodule("transformer_blocks").children())
    own = {p.untyped_storage().data_ptr() for p in base.transformer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def stop(*_: object) -> None:
        raise _EnoughError

    shape = (pictures, *base.codec.latent_shape(largest.width, largest.height))
    # As if there were something to train before the first block: later blocks, and their text, always have that.
    latents = torch.zeros(shape, device=base.device, dtype=base.dtype, requires_grad=True)
    sigmas = torch.full((pictures,), 0.5, device=base.device)
    conditions = largest.conditions.detach().requires_grad_().expand(pictures, -1, -1)
    arrange(base, Economy(pictures, False))
    second = blocks[1].register_forward_pre_hook(stop) if len(blocks) > 1 else None
    try:
        with (
            suppress(_EnoughError),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32),
        ):
            base.transformer(latents, sigmas, conditions, return_dict=False)
    finally:
        if second is not None:
            second.remove()
    return sum(kept.values()) * len(blocks)


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


@contextmanager
def visiting(device: torch.device, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Bring modules to the device for some work; afterwards a GPU's memory is free of them again."""
    modules = list(modules)
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        send_away(device, modules)


def send_away(device: torch.device, modules: Iterable[nn.Module]) -> None:
    """Move modules out of a GPU's memory; on a CPU they are where they belong."""
    if device.type == "cuda":
        for module in modules:
            module.to("cpu")
        torch.cuda.empty_cache()


def peak_memory_mb(device: torch.device) -> int | None:
    """The most memory that tensors took on the GPU, or this process took of the machine's, so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes, on macOS bytes.
    return peak >> 20 if sys.platform == "darwin" else peak >> 10


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory, of a GPU or of this machine, ran out."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
