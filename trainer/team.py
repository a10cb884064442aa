"""The processes that train one trial together: each takes its share of every step, and all make the same step.

The pictures of a step are what the configuration says, however many processes there are; noise and order are drawn by
everybody alike, so a team follows the loss curve of one process. Started by `accelerate launch` or torchrun.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Work = TypeVar("Work")

CHUNK_BYTES = 64 * 2**20
"""How much is summed over the team at once."""


@dataclass(frozen=True, slots=True)
class Team:
    """This process among the others. A team of one does nothing."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the trial's files."""
        return self.rank == 0

    def rows(self, part: int, parts: int, pictures: int) -> Sequence[int]:
        """This process's rows of micro-batch `part` of `parts`.

        Whole batches are dealt in turn; where they are fewer than the processes, the rows of each are.
        """
        if parts >= self.size:
            return range(pictures) if part % self.size == self.rank else range(0)
        return range(self.rank, pictures, self.size)

    def share(self, work: Sequence[Work]) -> Sequence[Work]:
        """This process's part of a list everybody has."""
        return work[self.rank :: self.size]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the team."""
        if self.size == 1:
            return
        from accelerate.utils import reduce

        for group in _groups(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            total = reduce(flat, reduction="sum")
            for tensor, value in zip(group, total.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(value.view_as(tensor))

    def wait(self) -> None:
        """Until everybody is here."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


@dataclass(frozen=True, slots=True)
class OneRow(Team):
    """Takes a single picture of a step, to see what it does by itself."""

    part: int = 0
    row: int = 0

    def rows(self, part: int, parts: int, pictures: int) -> Sequence[int]:  # noqa: ARG002 - as every team is asked
        return [self.row] if part == self.part else []


def join_team() -> Team:
    """The team this process was launched into."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team()
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return Team(state.process_index, state.num_processes)


def _groups(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    group: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if group and (held + tensor.nbytes > CHUNK_BYTES or tensor.dtype != group[0].dtype):
            yield group
            group, held = [], 0
        group.append(tensor)
        held += tensor.nbytes
    if group:
        yield group
