"""The transformer as drawing runs it: everything that does not change from step to step is worked out once.

A picture's steps differ in x and sigma alone. So, for one batch, each block's text keys and values, its shift, scale
and gate at every sigma, and the rotary table are made before the first step. All pictures of a batch are at one sigma,
which makes a block's modulated norm one layer norm with an affine part. The numbers are those of diffusers'
`CosmosTransformer3DModel.forward` up to rounding; the layers are called through the model's own modules, so whatever
was merged into their weights, or injected around them, takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import CosmosTransformer3DModel
from torch import Tensor

_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one batch needs at every step; L blocks, S sigmas, model width D, H heads of width E."""

    keys: tuple[Tensor, ...]
    """L times (B, H, text rows, E), normalised."""
    values: tuple[Tensor, ...]
    """L times (B, H, text rows, E)."""
    modulation: Tensor
    """(S, 3 L, 3, D): shift, 1 + scale and gate of self-attention, cross-attention and MLP of each block."""
    last: Tensor
    """(S, 2, D): shift and 1 + scale before the output."""
    cos: Tensor
    sin: Tensor
    """(tokens, E); the first half of `sin` is negated, so that a turn needs no negation."""


Velocity = Callable[..., Tensor]
"""`velocity`, or the same compiled."""


MOST_SHAPES = 64
"""Shapes of passes that are compiled before it counts as a fault; a grid has one for each size and length of text."""


def compiled(backend: str | Callable[..., Any] = "inductor") -> Velocity:
    """`velocity` by torch.compile, once for each shape of pass: merging writes into the weights it reads, so that
    changing adapters compiles nothing anew. Fused sums round otherwise, so pictures differ in their last bits.

    Threads that meet a new shape at the same time wait for the one that compiles it.
    """
    # torch's overloads leave `recompile_limit` out, and its setting of that name counts in one thread only.
    make = cast(Any, torch.compile)
    fast: Velocity = make(velocity, backend=backend, fullgraph=True, dynamic=False, recompile_limit=MOST_SHAPES)
    ready: set[tuple[object, ...]] = set()
    compiling = Lock()

    def run(transformer: CosmosTransformer3DModel, x: Tensor, *rest: Any) -> Tensor:
        keys = cast(Sequence[Tensor], rest[2])
        shape = (x.dtype, x.device, x.shape, keys[0].shape)
        if shape in ready:
            return fast(transformer, x, *rest)
        with compiling:
            drawn = fast(transformer, x, *rest)
            ready.add(shape)
        return drawn

    return run


class Denoiser:
    """Velocities of one batch, by sigma."""

    def __init__(
        self,
        transformer: CosmosTransformer3DModel,
        texts: Sequence[Tensor],
        shape: Sequence[int],
        sigmas: Sequence[float],
        dtype: torch.dtype,
        *,
        run: Velocity | None = None,
    ) -> None:
        """texts: each sample's conditioning (rows, dim), all with as many rows. shape: of one latent, (C, 1, h, w).
        sigmas: every sigma that will be asked for. run: `velocity` compiled; by default as it is."""
        self._transformer, self._dtype, self._run = transformer, dtype, run or velocity
        self._device = texts[0].device
        self._steps = {sigma: number for number, sigma in enumerate(sigmas)}
        with torch.inference_mode(), self._precision():
            self._prepared = prepare(transformer, texts, shape, tuple(sigmas), dtype)

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """x: (B, C, 1, h, w), any float dtype; gives the velocities, of the same shape, in the model's dtype.

        Raises KeyError for a sigma that was not announced.
        """
        ready, step = self._prepared, self._steps[sigma]
        with self._precision():
            return self._run(
                self._transformer,
                x.to(self._dtype),
                ready.modulation[step],
                ready.last[step],
                ready.keys,
                ready.values,
                ready.cos,
                ready.sin,
            )

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)


def prepare(
    transformer: CosmosTransformer3DModel,
    texts: Sequence[Tensor],
    shape: Sequence[int],
    sigmas: Sequence[float],
    dtype: torch.dtype,
) -> Prepared:
    """Arguments as for `Denoiser`. Every text is projected by itself, once, whoever else is in the batch."""
    keys, values = _text_heads(transformer, texts)
    modulation, last = _modulation(transformer, sigmas, texts[0].device, dtype)
    cos, sin = transformer.rope(torch.empty(1, *shape, device=texts[0].device))
    half = sin.shape[-1] // 2
    return Prepared(keys, values, modulation, last, cos, torch.cat((-sin[:, :half], sin[:, half:]), -1))


def velocity(
    transformer: CosmosTransformer3DModel,
    x: Tensor,
    modulation: Tensor,
    last: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    cos: Tensor,
    sin: Tensor,
) -> Tensor:
    """One forward pass: x (B, C, 1, h, w) to velocities of that shape; the rest is `Prepared` at one sigma."""
    heads = transformer.config.num_attention_heads
    hidden = transformer.patch_embed(x).flatten(1, 3)
    for number, block in enumerate(transformer.transformer_blocks):
        (shift, scale, gate), cross, mlp = modulation[3 * number : 3 * number + 3]
        attention, normed = block.attn1, _norm(hidden, scale, shift)
        query = _turn(_rms(attention.norm_q, _heads(attention.to_q(normed), heads)), cos, sin)
        key = _turn(_rms(attention.norm_k, _heads(attention.to_k(normed), heads)), cos, sin)
        value = _heads(attention.to_v(normed), heads)
        hidden = torch.addcmul(hidden, _attend(attention, query, key, value), gate)

        shift, scale, gate = cross
        attention = block.attn2
        query = _rms(attention.norm_q, _heads(attention.to_q(_norm(hidden, scale, shift)), heads))
        hidden = torch.addcmul(hidden, _attend(attention, query, keys[number], values[number]), gate)

        shift, scale, gate = mlp
        hidden = torch.addcmul(hidden, block.ff(_norm(hidden, scale, shift)), gate)
    shift, scale = last
    return _pictures(transformer, transformer.proj_out(_norm(hidden, scale, shift)), x.shape)


def _text_heads(
    transformer: CosmosTransformer3DModel, texts: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Keys and values of every block; texts that are one tensor are projected once."""
    heads = transformer.config.num_attention_heads
    distinct = {id(text): text for text in texts}
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for block in transformer.transformer_blocks:
        attention = block.attn2
        key = {name: _rms(attention.norm_k, _heads(attention.to_k(t[None]), heads)) for name, t in distinct.items()}
        value = {name: _heads(attention.to_v(t[None]), heads) for name, t in distinct.items()}
        keys.append(torch.cat([key[id(text)] for text in texts]))
        values.append(torch.cat([value[id(text)] for text in texts]))
    return tuple(keys), tuple(values)


def _modulation(
    transformer: CosmosTransformer3DModel, sigmas: Sequence[float], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`Prepared.modulation` and `.last`. Sigmas stay fp32 whatever the model is: bf16 would round them to 8 bits."""
    times = torch.tensor(sigmas, device=device, dtype=torch.float32)
    shared, embedded = transformer.time_embed(torch.empty(0, device=device, dtype=dtype), times)
    embedded = F.silu(embedded)

    def of(norm: Any, parts: int) -> Tensor:
        own = norm.linear_2(norm.linear_1(embedded))
        split = (own + shared[:, : own.shape[1]]).unflatten(1, (parts, -1))
        split[:, 1] += 1
        return split

    norms = [norm for block in transformer.transformer_blocks for norm in (block.norm1, block.norm2, block.norm3)]
    return torch.stack([of(norm, 3) for norm in norms], 1), of(transformer.norm_out, 2)


def _norm(hidden: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(hidden - mean) / deviation * scale + shift, over the last axis."""
    return F.layer_norm(hidden, hidden.shape[-1:], scale, shift, _NORM_EPS)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, tokens, H E) to (B, H, tokens, E)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _rms(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves apart: the second half of `x` meets the first of `sin`, which is negated."""
    half = x.shape[-1] // 2
    other = torch.cat((x[..., half:], x[..., :half]), -1)
    return torch.addcmul(x * cos, other, sin).to(x.dtype)


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    mixed = F.scaled_dot_product_attention(query, key, value)
    return attention.to_out[0](mixed.transpose(1, 2).flatten(2))


def _pictures(transformer: CosmosTransformer3DModel, tokens: Tensor, shape: torch.Size) -> Tensor:
    """(B, tokens, patch) to (B, C, frames, h, w); channels are the last of a patch going out, the first coming in."""
    frames, height, width = shape[2:]
    depth, tall, wide = transformer.config.patch_size
    patches = tokens.unflatten(2, (tall, wide, depth, -1)).unflatten(
        1, (frames // depth, height // tall, width // wide)
    )
    return patches.permute(0, 7, 1, 6, 2, 4, 3, 5).flatten(6, 7).flatten(4, 5).flatten(2, 3)
