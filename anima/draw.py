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

from anima.denoiser import Denoiser, Velocity
from anima.flow import comfyui_step_noise, guided, initial_noise, schedule_sigmas, step_noise
from anima.load import Base
from anima.samplers import plan, sample
from orchestrator.core.study import Drawing

Halves = Literal["apart", "joined"]
"""Guidance needs a forward pass for the negative and one for the prompt: one after the other, or both as one batch.

On a CPU the joined pass took 30 % less time for one picture, 18 % less for two, and no less from four on, where it
gave the same bits; below that the velocities differed in the last ones (4e-6).
"""


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
    run: Velocity | None = None,
) -> Tensor:
    """Finished latents of a batch: (B, C, 1, h, w), normalised, fp32. Arguments and errors as for `draw`.

    run: `anima.denoiser.velocity`, compiled.
    """
    shape = base.codec.latent_shape(drawing.width, drawing.height)
    sigmas = schedule_sigmas(drawing.schedule, drawing.steps, drawing.shift)

    def denoiser(prompts: Sequence[str]) -> Callable[[Tensor, float], Tensor]:
        return _denoiser(
            base, prompts, shape, [step.sigma for step in plan(sigmas, drawing.sampler, drawing.shift)], run
        )

    def noise_of(seed: int, step: int) -> Tensor:
        if drawing.noise == "comfyui":
            return comfyui_step_noise(seed, step, shape, base.device)
        return step_noise(seed, step, shape)

    return sample(
        _guidance(denoiser, requests, drawing.cfg, halves),
        torch.stack([initial_noise(r.seed, shape) for r in requests]).to(base.device),
        sigmas,
        sampler=drawing.sampler,
        step_noise=lambda step: torch.stack([noise_of(r.seed, step) for r in requests]),
        s=drawing.shift,
        on_step=on_step,
    )


def _guidance(
    denoiser: Callable[[Sequence[str]], Callable[[Tensor, float], Tensor]],
    requests: Sequence[Request],
    cfg: float,
    halves: Halves,
) -> Callable[[Tensor, float], Tensor]:
    """Guided velocities (B, ...) by x and sigma."""
    prompts, negatives = [r.prompt for r in requests], [r.negative for r in requests]
    if cfg == 1:
        return denoiser(prompts)
    if halves == "joined":
        both = denoiser([*negatives, *prompts])

        def joined(x: Tensor, sigma: float) -> Tensor:
            away, towards = both(torch.cat([x, x]), sigma).chunk(2)
            return guided(away, towards, cfg)

        return joined
    negative, positive = denoiser(negatives), denoiser(prompts)
    return lambda x, sigma: guided(negative(x, sigma), positive(x, sigma), cfg)


def _denoiser(
    base: Base, prompts: Sequence[str], shape: Sequence[int], sigmas: Sequence[float], run: Velocity | None
) -> Callable[[Tensor, float], Tensor]:
    """Velocities (B, ...) of a batch by x and sigma.

    Only texts of equal length share a forward pass: the transformer has no text mask, so zero rows below a text longer
    than the conditioner's minimum would change its picture.
    """
    known = {p: base.text.condition_prompt(p).to(base.device, base.dtype) for p in dict.fromkeys(prompts)}
    lengths = [known[p].shape[0] for p in prompts]
    groups = [
        (members, Denoiser(base.transformer, [known[prompts[i]] for i in members], shape, sigmas, base.dtype, run=run))
        for members in ([i for i, own in enumerate(lengths) if own == length] for length in dict.fromkeys(lengths))
    ]
    if len(groups) == 1:
        return groups[0][1]

    def velocity(x: Tensor, sigma: float) -> Tensor:
        predicted = torch.empty_like(x)
        for members, own in groups:
            predicted[members] = own(x[members], sigma).to(x)
        return predicted

    return velocity
