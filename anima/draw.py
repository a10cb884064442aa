"""Prompts and seeds to pictures: noise by seed, the sampler's loop over the transformer, the decoder.

A picture depends on its own prompt and seed alone; a batch is only company. That holds to the last bit on one kind of
device as long as the batch has one size, so callers keep it fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anima.flow import guided, initial_noise, simple_sigmas, step_noise
from anima.load import Base
from anima.samplers import sample
from anima.text import pad_rows
from orchestrator.core.study import Drawing


@dataclass(frozen=True, slots=True)
class Request:
    """One picture: what to draw, what to stay away from (used only when cfg is not 1), and from which noise."""

    prompt: str
    seed: int
    negative: str = ""


def draw(base: Base, requests: Sequence[Request], drawing: Drawing) -> Tensor:
    """Draw a batch: (B, 3, height, width) in [-1, 1], fp32, on the base's device. Raises ValueError for a bad size."""
    return base.codec.decode(draw_latents(base, requests, drawing))


@torch.inference_mode()
def draw_latents(base: Base, requests: Sequence[Request], drawing: Drawing) -> Tensor:
    """Finished latents of a batch: (B, C, 1, h, w), normalised, fp32."""
    shape = base.codec.latent_shape(drawing.width, drawing.height)
    positive = _conditions(base, [r.prompt for r in requests])
    negative = _conditions(base, [r.negative for r in requests]) if drawing.cfg != 1 else None

    def velocity(x: Tensor, sigma: float) -> Tensor:
        times = torch.full((len(requests),), sigma, device=base.device, dtype=torch.float32)
        wanted = _predict(base, x, times, positive)
        return wanted if negative is None else guided(_predict(base, x, times, negative), wanted, drawing.cfg)

    return sample(
        velocity,
        torch.stack([initial_noise(r.seed, shape) for r in requests]).to(base.device),
        simple_sigmas(drawing.steps, drawing.shift),
        sampler=drawing.sampler,
        step_noise=lambda step: torch.stack([step_noise(r.seed, step, shape) for r in requests]),
    )


def _predict(base: Base, x: Tensor, times: Tensor, conditions: Tensor) -> Tensor:
    with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
        predicted: Tensor = base.transformer(x.to(base.dtype), times, conditions, return_dict=False)[0]
    return predicted


def _conditions(base: Base, prompts: Sequence[str]) -> Tensor:
    return pad_rows([base.text.condition(p) for p in prompts]).to(base.device, base.dtype)
