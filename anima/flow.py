"""Rectified flow as Anima uses it: a picture is a point on the straight line from data to noise, at height sigma.

x_sigma = (1 - sigma) x0 + sigma noise, the model predicts the velocity noise - x0, and its timestep is sigma itself, in
[0, 1]. Everything here is a pure function; randomness enters only through a seed or a generator that is an argument.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

Schedule = Literal["simple", "linspace"]
NoiseRule = Literal["keyed", "comfyui"]

SHIFT = 3.0
"""Anima's shift: it moves the middle of a schedule from sigma 0.5 to 0.75."""

_TABLE_LENGTH = 1000


@overload
def shift(s: float, u: float) -> float: ...
@overload
def shift(s: float, u: Tensor) -> Tensor: ...
def shift(s: float, u: float | Tensor) -> float | Tensor:
    """s u / (1 + (s - 1) u): bends [0, 1] towards 1 for s > 1 and keeps both ends; s = 1 changes nothing."""
    return s * u / (1 + (s - 1) * u)


def schedule_sigmas(schedule: Schedule, steps: int, s: float = SHIFT) -> tuple[float, ...]:
    """steps + 1 sigmas from 1 down to 0 by the named schedule. Raises ValueError unless steps is 1 to 1000."""
    return simple_sigmas(steps, s) if schedule == "simple" else linspace_sigmas(steps, s)


def simple_sigmas(steps: int, s: float = SHIFT) -> tuple[float, ...]:
    """ComfyUI's `simple` schedule: steps + 1 sigmas from 1 down to 0.

    Picks every (1000 / steps)-th entry, rounded down, of the table S_i = shift(s, i / 1000). The spacing is rounded to
    a float before it is multiplied, as ComfyUI does; that decides one entry when steps = 38.
    """
    _check_steps(steps)
    spacing = _TABLE_LENGTH / steps
    return (*(shift(s, (_TABLE_LENGTH - int(k * spacing)) / _TABLE_LENGTH) for k in range(steps)), 0.0)


def linspace_sigmas(steps: int, s: float = SHIFT) -> tuple[float, ...]:
    """diffusers' schedule: shift(s, linspace(1, 1 / steps, steps)), then 0. Equals `simple` if steps divides 1000."""
    _check_steps(steps)
    return (*(shift(s, (steps - k) / steps) for k in range(steps)), 0.0)


def training_sigmas(count: int, generator: torch.Generator, s: float = SHIFT) -> Tensor:
    """(count,) sigmas to train at: shift(s, sigmoid(normal)), fp32 on the generator's device; median s / (1 + s)."""
    normal = torch.randn(count, generator=generator, device=generator.device, dtype=torch.float32)
    return shift(s, torch.sigmoid(normal))


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_sigma = (1 - sigma) x0 + sigma noise. x0, noise: (B, ...); sigma: (B,); gives (B, ...)."""
    height = sigma.reshape(-1, *(1 for _ in x0.shape[1:]))
    return (1 - height) * x0 + height * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """What the model learns to predict, at every sigma: noise - x0. Shapes as given."""
    return noise - x0


def guided(negative: Tensor, positive: Tensor, cfg: float) -> Tensor:
    """Classifier-free guidance of velocities: negative + cfg (positive - negative). cfg 1 is `positive` alone."""
    return negative + cfg * (positive - negative)


def initial_noise(seed: int, shape: Sequence[int]) -> Tensor:
    """Starting noise of one sample: fp32 on the CPU, shape without a batch axis, e.g. (16, 1, h, w).

    The same numbers as ComfyUI's at batch 1. torch's CPU generator reads the low 32 bits of a seed only.
    """
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def step_noise(seed: int, step: int, shape: Sequence[int]) -> Tensor:
    """Noise a stochastic sampler adds after `step` (0-based) to the sample of `seed`: fp32 on the CPU.

    A function of (seed, step) alone, so a sample comes out the same in any batch and when resumed at any step.
    """
    key = hashlib.sha256(f"step-noise:{seed}:{step}".encode()).digest()
    return initial_noise(int.from_bytes(key[:4], "little"), shape)


def comfyui_step_noise(seed: int, step: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """The noise ComfyUI adds after `step` (0-based) when it draws the picture of `seed` in a batch of one: fp32.

    ComfyUI takes one tensor after the other from one generator on the latent's device, seeded with `seed` (with
    seed + 1 on the CPU), so the numbers depend on the kind of device. Every call starts that generator again.
    """
    generator = torch.Generator(device).manual_seed(seed + 1 if device.type == "cpu" else seed)
    for _ in range(step):
        torch.randn(tuple(shape), generator=generator, device=device, dtype=torch.float32)
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=torch.float32)


def _check_steps(steps: int) -> None:
    if not 1 <= steps <= _TABLE_LENGTH:
        raise ValueError(f"steps must be between 1 and {_TABLE_LENGTH}, not {steps}")
