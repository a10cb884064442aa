"""What an adapter does to one layer: a change of its weight, in the form the file keeps it.

W = W0 + strength * delta, where delta (out, in) is
LoRA  scale * B A                      (arXiv 2106.09685, eq. 3)
LoHa  scale * (B1 A1) * (B2 A2)        (elementwise; arXiv 2108.06098, eq. 4)
LoKr  scale * kron(W1, W2)             (arXiv 2309.14859, sec. 3.3); W1 and W2 plain or products of two factors
full  the delta itself.
scale is alpha / rank. All arithmetic is fp32 on the device of the weight, whatever the factors are stored in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from anima.adapters.keys import Kind


class Delta(Protocol):
    """A change of one layer's weight."""

    @property
    def kind(self) -> Kind:
        """The family of its form."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the layer it was made for."""

    @property
    def rank(self) -> int | None:
        """Rank of its factors; None where it has none."""

    @property
    def scale(self) -> float:
        """alpha / rank, 1 where there is none."""

    def add_to(self, weight: Tensor, strength: float) -> None:
        """weight += strength * delta, in place; `weight` is fp32 (out, in)."""

    def columns(self, count: int) -> Delta:
        """The change of the first `count` inputs alone."""

    def norm(self) -> float:
        """Frobenius norm of delta."""


@dataclass(frozen=True)
class LowRank:
    """LoRA: `a` (rank, in), `b` (out, rank). Convolutions come with their kernels flattened into `in`."""

    a: Tensor
    b: Tensor
    scale: float = 1.0

    kind: Kind = "LoRA"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def rank(self) -> int:
        """Rows of `a`."""
        return self.a.shape[0]

    def add_to(self, weight: Tensor, strength: float) -> None:
        """weight += strength * scale * b a."""
        weight.addmm_(_fp32(self.b, weight), _fp32(self.a, weight), alpha=strength * self.scale)

    def columns(self, count: int) -> LowRank:
        """The first `count` inputs."""
        return replace(self, a=self.a[:, :count])

    def norm(self) -> float:
        """|b a|^2 = sum((b^T b) * (a a^T)): no matrix of the layer's size is made."""
        a, b = self.a.float(), self.b.float()
        squared = ((b.T @ b) * (a @ a.T)).sum(dtype=torch.float64).clamp_min(0)
        return abs(self.scale) * float(squared.sqrt())


@dataclass(frozen=True)
class Kronecker:
    """LoKr: `w1` and `w2` are each one matrix, or two whose product it is."""

    w1: tuple[Tensor, ...]
    w2: tuple[Tensor, ...]
    scale: float = 1.0

    kind: Kind = "LoKr"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.w1[0].shape[0] * self.w2[0].shape[0], self.w1[-1].shape[1] * self.w2[-1].shape[1]

    @property
    def rank(self) -> int | None:
        """Rank of the factored matrix: of w2 where both are, since the scale goes by it."""
        return next((w[1].shape[0] for w in (self.w2, self.w1) if len(w) == 2), None)

    def add_to(self, weight: Tensor, strength: float) -> None:
        """weight += strength * scale * kron(w1, w2)."""
        weight.add_(torch.kron(_product(self.w1, weight), _product(self.w2, weight)), alpha=strength * self.scale)

    def columns(self, count: int) -> Full:
        """The first `count` inputs."""
        return _expand(self).columns(count)

    def norm(self) -> float:
        """|kron(w1, w2)| = |w1| |w2|."""
        sides = [float(_product(w, torch.empty(0)).norm()) for w in (self.w1, self.w2)]
        return abs(self.scale) * sides[0] * sides[1]


@dataclass(frozen=True)
class Hadamard:
    """LoHa: the elementwise product of two low-rank matrices, given as (b1 (out, rank), a1 (rank, in)) and the same."""

    w1: tuple[Tensor, Tensor]
    w2: tuple[Tensor, Tensor]
    scale: float = 1.0

    kind: Kind = "LoHa"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.w1[0].shape[0], self.w1[1].shape[1]

    @property
    def rank(self) -> int:
        """Of each factor; the product's rank is up to its square."""
        return self.w1[1].shape[0]

    def add_to(self, weight: Tensor, strength: float) -> None:
        """weight += strength * scale * (b1 a1) * (b2 a2)."""
        weight.addcmul_(_product(self.w1, weight), _product(self.w2, weight), value=strength * self.scale)

    def columns(self, count: int) -> Hadamard:
        """The first `count` inputs."""
        (b1, a1), (b2, a2) = self.w1, self.w2
        return replace(self, w1=(b1, a1[:, :count]), w2=(b2, a2[:, :count]))

    def norm(self) -> float:
        """Of the expanded product."""
        return _expand(self).norm()


@dataclass(frozen=True)
class Full:
    """The change itself, (out, in)."""

    diff: Tensor

    kind: Kind = "full"
    scale: float = 1.0
    rank: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.diff.shape[0], self.diff.shape[1]

    def add_to(self, weight: Tensor, strength: float) -> None:
        """weight += strength * diff."""
        weight.add_(_fp32(self.diff, weight), alpha=strength)

    def columns(self, count: int) -> Full:
        """The first `count` inputs."""
        return replace(self, diff=self.diff[:, :count])

    def norm(self) -> float:
        """Of the matrix."""
        return float(self.diff.float().norm())


def _expand(delta: Delta) -> Full:
    """Any delta as a matrix, fp32 on the CPU."""
    matrix = torch.zeros(delta.shape)
    delta.add_to(matrix, 1.0)
    return Full(matrix)


def _product(factors: tuple[Tensor, ...], like: Tensor) -> Tensor:
    first, *rest = (_fp32(factor, like) for factor in factors)
    return first @ rest[0] if rest else first


def _fp32(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.to(like.device, torch.float32)
