"""Which size each picture is trained at: one for all, or the bucket of about the same area that suits its shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.errors import ConfigError
from trainer.config import SIDE, BucketConfig, TrainConfig
from trainer.dataset import Dataset

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture comes to its training size."""

    size: Size
    scale: float
    """Its sides are multiplied by this before it is cropped; above 1 it is enlarged."""
    cropped: float
    """Share of its area that is cut off."""


def training_fits(dataset: Dataset, config: TrainConfig) -> tuple[Fit, ...]:
    """The training size of every item, in order. Raises ConfigError when no bucket is as small as the resolution."""
    pictures = [(item.picture.width, item.picture.height) for item in dataset.items]
    if config.buckets is None:
        return tuple(fit(picture, config.resolution) for picture in pictures)
    sizes = bucket_sizes(config.resolution, config.buckets)
    if not sizes:
        raise ConfigError(
            f"no bucket of at least {config.buckets.min_side} pixels a side has the area of {config.resolution}",
            where="train.buckets",
            fix="lower min_side, or raise resolution",
        )
    return tuple(choose(picture, sizes, config.buckets) for picture in pictures)


def fit(picture: Size, size: Size) -> Fit:
    """Cover `size`, crop the rest."""
    scale = max(size[0] / picture[0], size[1] / picture[1])
    kept = size[0] * size[1] / (picture[0] * picture[1] * scale * scale)
    return Fit(size, scale, max(0.0, 1 - kept))


def bucket_sizes(resolution: Size, config: BucketConfig) -> tuple[Size, ...]:
    """Every bucket: for each width the largest height within the area of `resolution`, and the same lying down.

    Empty when the area is too small for `min_side`.
    """
    area = resolution[0] * resolution[1]
    sizes = set()
    first = -(-config.min_side // config.step) * config.step
    for width in range(first, config.max_side + 1, config.step):
        height = min(area // width, config.max_side) // config.step * config.step
        if height >= config.min_side and max(width, height) <= config.max_aspect * min(width, height):
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def choose(picture: Size, sizes: Sequence[Size], config: BucketConfig) -> Fit:
    """The bucket of the nearest shape; of two equally near ones the larger, then the wider."""
    aspect = math.log(picture[0] / picture[1])
    size = min(sizes, key=lambda s: (round(abs(math.log(s[0] / s[1]) - aspect), 9), -s[0] * s[1], -s[0]))
    chosen = fit(picture, size)
    if chosen.scale <= 1 or config.upscale:
        return chosen
    width, height = (_rounded(min(own, side), config.step) for own, side in zip(picture, size, strict=True))
    longest = _rounded(int(config.max_aspect * min(width, height)), config.step)
    return fit(picture, (min(width, longest), min(height, longest)))


def _rounded(side: int, step: int) -> int:
    """Down to whole steps; a side shorter than one to whole patches, of which it needs one."""
    return side // step * step or max(side // SIDE * SIDE, SIDE)
