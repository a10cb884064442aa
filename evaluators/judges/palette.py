"""Colours by name: how far apart two colours look, and what a colour is called.

Distances are Euclidean in OKLab (B. Ottosson, "A perceptual color space for image processing", 2020), where black to
white is 1 and a difference just noticed between flat areas is near 0.02.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anima.pocket.world import ACCESSORY, EYES, HAIR, RGB, SKIN

FAR, MUCH_NEARER = 0.1, 0.5
"""A colour further than FAR from all of a palette takes a name of a wider list that is nearer by this factor."""
ALIKE, MOST = 70.0, 0.7
"""Pixels within this RGB distance of each other are one colour; this share of them makes it a part's only colour."""

_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


_S = np.arange(256) / 255
_LINEAR = np.where(_S <= 0.04045, _S / 12.92, ((_S + 0.055) / 1.055) ** 2.4)
"""sRGB levels as linear light."""


@dataclass(frozen=True, slots=True)
class ColourName:
    """What a colour is called. `certainty` is 1 on the palette's own colour and 0 halfway to the runner-up."""

    name: str
    certainty: float
    runner_up: str


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB levels (..., 3) in [0, 255], rounded, as OKLab (..., 3)."""
    levels = np.minimum(np.maximum(np.asarray(rgb) + 0.5, 0), 255).astype(np.intp)
    return np.cbrt(_LINEAR[levels] @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T


def hue_first(lab: np.ndarray) -> np.ndarray:
    """OKLab (..., 3) with lightness and chroma compressed: a small mark loses these to its outline, its hue remains."""
    tint = lab[..., 1:]
    chroma = np.sqrt((tint * tint).sum(-1, keepdims=True))
    return np.concatenate([0.7 * lab[..., :1], tint * (chroma + 0.02) ** -0.4], axis=-1)


class Palette:
    """Names for colours; `wider` holds the names for what is far from all of them. `small` colours go by hue first."""

    def __init__(self, colours: Mapping[str, RGB], wider: Mapping[str, RGB], *, small: bool = False) -> None:
        self._names, self._all_names = tuple(colours), tuple(colours) + tuple(wider)
        self._lab = oklab(np.array([*colours.values(), *wider.values()]))
        self._hues = hue_first(self._lab) if small else None

    def name(self, rgb: np.ndarray) -> ColourName:
        """What sRGB levels (3,) are called."""
        lab, own = oklab(rgb), len(self._names)
        distances = _distances(self._lab, lab)
        if FAR < distances[:own].min() > distances.min() / MUCH_NEARER:
            return _nearest(self._all_names, distances)
        if self._hues is not None:
            distances = _distances(self._hues, hue_first(lab))
        return _nearest(self._names, distances[:own])

    def dominant(self, pixels: np.ndarray) -> np.ndarray:
        """The colour (3,) of most sRGB pixels (n, 3): their median, or that of the commonest name among them."""
        if not len(pixels):
            return np.zeros(3, dtype=np.float32)
        median = _median(pixels)
        if (_distances(pixels, median) < ALIKE).mean() >= MOST:
            return median
        lab = oklab(pixels)
        names = np.linalg.norm(lab[:, None] - self._lab[: len(self._names)], axis=-1).argmin(-1)
        return _median(pixels[names == np.bincount(names).argmax()])


def _median(pixels: np.ndarray) -> np.ndarray:
    return np.partition(pixels, len(pixels) // 2, axis=0)[len(pixels) // 2]


def _distances(some: np.ndarray, one: np.ndarray) -> np.ndarray:
    away = some - one
    return np.sqrt((away * away).sum(-1))


def _nearest(names: tuple[str, ...], distances: np.ndarray) -> ColourName:
    first, second = np.argsort(distances)[:2]
    return ColourName(names[first], float(1 - distances[first] / distances[second]), names[second])


BARE = "skin"
"""What eyes are called that are not drawn."""
HAIR_PALETTE = Palette(HAIR, {"white": ACCESSORY["white"]})
EYES_PALETTE = Palette(
    EYES, {BARE: SKIN, "black": HAIR["black"], "yellow": HAIR["blonde"], "grey": HAIR["silver"]}, small=True
)
ACCESSORY_PALETTE = Palette(
    ACCESSORY,
    {name: HAIR[name] for name in ("black", "brown", "orange", "pink", "purple")} | {"grey": HAIR["silver"]},
    small=True,
)
