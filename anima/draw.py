"""Prompts and seeds to pictures: noise by seed, the sampler's loop over the transformer, the decoder.

A picture depends on its own prompt and seed alone; a batch is only company. That holds to the last bit on one kind of
device as long as the batch has one size, so callers keep it fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from anima.flow import comfyui_step_noise, guided, initial_noise, schedule_sigmas, step_noise
from anima.load import Base
from anima.samplers import sample
from orchestrator.core.study import Drawing

Halves = Literal["apart", "joined"]
"""Guidance needs a forward pass for the negative and one for the prompt: one after the other, or both as one batch.

On a CPU the joined pass took 30 % less time for one picture, 18 % less for two, and no less from four on, where it
gave the same bits; below that the velocities differed in the last ones (4e-6).
"""


_Texts = list[tuple[list[int], Tensor]]


@dataclass(frozen=True, slots=True)
class Request:
    """One picture: what to draw, what to stay away from (used only when cfg is not 1), and from which noise."""

    prompt: str
    seed: int
    negative: str = ""


def draw(
    base: Base,
    requests: Sequence[Request],
    drawing: Drawing,
    *,
    halves: Halves = "apart",
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Draw a batch: (B, 3, height, width) in [-1, 1], fp32, on the base's device.

    on_step: called after each step with its number (0-based) and the latents (B, C, 1, h, w) as they are guessed then.
    Raises ValueError for a bad size or number of steps, ConfigError for a prompt whose weights cannot be read.
    """
    return base.codec.decode(draw_latents(base, requests, drawing, halves=halves, on_step=on_step))


@torch.inference_mode()
def draw_latents(
    base: Base,
    requests: Sequence[Request],
    drawing: Drawing,
    *,
    halves: Halves = "apart",
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Finished latents of a batch: (B, C, 1, h, w), normalised, fp32. Arguments and errors as for `draw`."""
    shape = base.codec.latent_shape(drawing.width, drawing.height)
    prompts, negatives = [r.prompt for r in requests], [r.negative for r in requests]
    positive = _texts(base, prompts)
    negative = _texts(base, negatives) if drawing.cfg != 1 else []
    both = _texts(base, [*negatives, *prompts]) if negative and halves == "joined" else []

    def velocity(x: Tensor, sigma: float) -> Tensor:
        if both:
            away, towards = _predict(base, torch.cat([x, x]), sigma, both).chunk(2)
        elif negative:
            away, towards = _predict(base, x, sigma, negative), _predict(base, x, sigma, positive)
        else:
            return _predict(base, x, sigma, positive)
        return guided(away, towards, drawing.cfg)

    def noise_of(seed: int, step: int) -> Tensor:
        if drawing.noise == "comfyui":
            return comfyui_step_noise(seed, step, shape, base.device)
        return step_noise(seed, step, shape)

    return sample(
        velocity,
        torch.stack([initial_noise(r.seed, shape) for r in requests]).to(base.device),
        schedule_sigmas(drawing.schedule, drawing.steps, drawing.shift),
        sampler=drawing.sampler,
        step_noise=lambda step: torch.stack([noise_of(r.seed, step) for r in requests]),
        s=drawing.shift,
        on_step=on_step,
    )


def _predict(base: Base, x: Tensor, sigma: float, texts: _Texts) -> Tensor:
    """Velocities (B, ...) at one sigma."""
    if len(texts) == 1:
        return _forward(base, x, sigma, texts[0][1])
    predicted = torch.empty_like(x)
    for members, conditions in texts:
        predicted[members] = _forward(base, x[members], sigma, conditions).to(x)
    return predicted


def _forward(base: Base, x: Tensor, sigma: float, conditions: Tensor) -> Tensor:
    # The timestep stays fp32 whatever the model is: bf16 would round sigma to 8 bits.
    times = torch.full((x.shape[0],), sigma, device=base.device, dtype=torch.float32)
    with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
        predicted: Tensor = base.transformer(x.to(base.dtype), times, conditions, return_dict=False)[0]
    return predicted


def _texts(base: Base, prompts: Sequence[str]) -> _Texts:
    """The conditionings of a batch, on the base's device in its dtype: (members, (members, rows, dim)) by length.

    Only texts of equal length share a forward pass: the transformer has no text mask, so zero rows below a text longer
    than the conditioner's minimum would change its picture.
    """
    conditions = [base.text.condition_prompt(p).to(base.device, base.dtype) for p in prompts]
    lengths = [c.shape[0] for c in conditions]
    groups = [[i for i, own in enumerate(lengths) if own == length] for length in dict.fromkeys(lengths)]
    return [(members, torch.stack([conditions[i] for i in members])) for members in groups]
