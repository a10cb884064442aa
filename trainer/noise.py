"""Where on the way from picture to noise an exposure is trained, and how much its error counts. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from anima.flow import shift
from trainer.config import TrainConfig

MIN_SNR_GAMMA = 5.0


@dataclass(frozen=True, slots=True)
class Draws:
    """Everything random about a batch of exposures, on the CPU."""

    noise: Tensor
    """(B, C, 1, h, w), fp32."""
    sigmas: Tensor
    """(B,), fp32, in the configured range."""
    dropped: tuple[bool, ...]
    """Who is trained with the empty prompt."""


def draw(shape: torch.Size, generator: torch.Generator, config: TrainConfig) -> Draws:
    """Noise, sigmas and caption dropout for latents of `shape`, in this order."""
    noise = torch.randn(shape, generator=generator)
    sigmas = training_sigmas(shape[0], generator, config)
    dropped = torch.rand(shape[0], generator=generator) < config.caption_dropout
    return Draws(noise, sigmas, tuple(dropped.tolist()))


def training_sigmas(count: int, generator: torch.Generator, config: TrainConfig) -> Tensor:
    """(count,) sigmas: shift(sigmoid(mean + std normal)), moved from [0, 1] into the range; fp32."""
    normal = torch.randn(count, generator=generator)
    drawn = shift(config.sigma_shift, torch.sigmoid(config.sigma_mean + config.sigma_std * normal))
    low, high = config.sigma_range
    return low + (high - low) * drawn


def loss_weights(sigmas: Tensor, weighting: str) -> Tensor:
    """(B,) factors on the squared error of the velocity.

    min_snr: min(SNR, 5) on the error of the predicted picture, which is sigma times that of the velocity; with
    SNR = ((1 - sigma) / sigma)^2 this is min((1 - sigma)^2, 5 sigma^2). (Hang et al. 2023, arXiv 2303.09556.)
    cosmap: 2 / (pi (1 - 2 sigma + 2 sigma^2)). (Esser et al. 2024, arXiv 2403.03206.)
    """
    if weighting == "min_snr":
        return torch.minimum((1 - sigmas).square(), MIN_SNR_GAMMA * sigmas.square())
    if weighting == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas.square()))
    return torch.ones_like(sigmas)
