"""What an epoch shows, in which order, and in which batches: pure functions of (seed, epoch).

An exposure is one showing of one picture; its position is its place in the epoch's order. Pictures of one forward pass
have one size. Torch-free but for the generator that shuffles.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Exposure:
    """The showing of item number `item` at a place of the epoch's order."""

    item: int
    position: int


Batch = tuple[Exposure, ...]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The source of all noise of an epoch; its first draw is the order."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def epoch_order(shown: Sequence[int], generator: torch.Generator) -> tuple[Exposure, ...]:
    """The exposures of an epoch in a drawn order."""
    order = torch.randperm(len(shown), generator=generator).tolist()
    return tuple(Exposure(shown[number], position) for position, number in enumerate(order))


def batches(order: Sequence[Exposure], sizes: Mapping[int, Hashable], batch: int, *, seed: int) -> tuple[Batch, ...]:
    """Fill batches of one size in the order of the exposures; what does not fill one makes a smaller one.

    With several sizes the batches are shuffled by `seed`: the small ones would all come last.
    """
    waiting: dict[Hashable, list[Exposure]] = {}
    full: list[Batch] = []
    for exposure in order:
        alike = waiting.setdefault(sizes[exposure.item], [])
        alike.append(exposure)
        if len(alike) == batch:
            full.append(tuple(alike))
            alike.clear()
    full += [tuple(alike) for alike in waiting.values() if alike]
    if len(waiting) > 1:
        drawn = torch.randperm(len(full), generator=torch.Generator().manual_seed(seed)).tolist()
        full = [full[i] for i in drawn]
    return tuple(full)


def steps(full: Sequence[Batch], grad_accum: int) -> tuple[tuple[Batch, ...], ...]:
    """Batches by optimizer step; the last step takes what is left."""
    return tuple(tuple(full[i : i + grad_accum]) for i in range(0, len(full), grad_accum))


def steps_per_epoch(shown: Sequence[int], sizes: Mapping[int, Hashable], batch: int, grad_accum: int) -> int:
    """Optimizer steps of one epoch, the same for every epoch."""
    alike: dict[Hashable, int] = {}
    for item in shown:
        alike[sizes[item]] = alike.get(sizes[item], 0) + 1
    return -(-sum(-(-count // batch) for count in alike.values()) // grad_accum)
