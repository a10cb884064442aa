"""Colours by name: how far apart two colours look, and what a colour is called.

Distances are Euclidean in OKLab (B. Ottosson, "A perceptual color space for image processing", 2020), where black to
white is 1 and a difference just noticed between flat areas is near 0.02.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anima.pocket.world import ACCESSORY, EYES, HAIR, RGB, SKIN

FAR = 0.18
"""Beyond this distance a colour is none of the palette's, and is called by the nearest name of a wider list."""

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


@dataclass(frozen=True, slots=True)
class ColourName:
    """What a colour is called. `certainty` is 1 on the palette's own colour and 0 halfway to the runner-up."""

    name: str
    certainty: float
    runner_up: str


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB levels (..., 3) in [0, 255] as OKLab (..., 3)."""
    s = np.clip(np.asarray(rgb, dtype=np.float64) / 255, 0, 1)
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T


def hue_first(lab: np.ndarray) -> np.ndarray:
    """OKLab (..., 3) with lightness and chroma compressed: a small mark loses these to its outline, its hue remains."""
    tint = lab[..., 1:]
    chroma = np.linalg.norm(tint, axis=-1, keepdims=True)
    return np.concatenate([0.7 * lab[..., :1], tint * (chroma + 0.02) ** -0.4], axis=-1)


class Palette:
    """Names for colours; `wider` holds the names for what is far from all of them. `small` colours go by hue first."""

    def __init__(self, colours: Mapping[str, RGB], wider: Mapping[str, RGB], *, small: bool = False) -> None:
        self._names, self._all_names = tuple(colours), tuple(colours) + tuple(wider)
        self._lab = oklab(np.array([*colours.values(), *wider.values()]))
        self._small = small

    def name(self, rgb: np.ndarray) -> ColourName:
        """What sRGB levels (3,) are called."""
        lab, own = oklab(rgb), len(self._names)
        distances = np.linalg.norm(self._lab - lab, axis=1)
        if distances[:own].min() > FAR:
            return _nearest(self._all_names, distances)
        if self._small:
            distances = np.linalg.norm(hue_first(self._lab) - hue_first(lab), axis=1)
        return _nearest(self._names, distances[:own])


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
