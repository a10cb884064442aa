"""The shapes of the drawn world as the judge knows them, taken from its own renderer so that the two cannot disagree.

A drawn figure is an affine function of its colours: every point is a fixed ink plus weights times the colours of hair,
eyes, shirt, accessory and of whatever lies behind. A `stencil` holds those numbers for one silhouette on a grid whose
origin is the head's centre and whose step is one picture pixel at normal size; filled with colours it is a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from anima.pocket.world import (
    ACCESSORY,
    BACKGROUND,
    EYES,
    HAIR,
    HEIGHT,
    RGB,
    SHIRT,
    SKIN,
    STYLES,
    WIDTH,
    Figure,
    Place,
    Scene,
    render,
)

HAIR_W, EYES_W, SHIRT_W, ACCESSORY_W = range(4)
"""Channels of a stencil that are weights of a figure's own colours."""
BEHIND, INK = slice(4, 5), slice(5, 8)
"""The weight of what lies behind, and the RGB that is always there."""
ABOVE, REACH = 25, 20
"""The grid's first row is ABOVE over the head's centre, its first column REACH to the left; no figure is wider."""
ROWS, COLUMNS = HEIGHT, 2 * REACH + 1
KINDS = ("plain", "ribbon", "scrunchie")

_MODEL = Figure("blonde", "short hair", "blue", None, False, "white")


@cache
def stencil(style: str, kind: str = "plain", ahoge: bool = False) -> np.ndarray:
    """One silhouette: float32 (ROWS, COLUMNS, 8)."""
    figure = replace(_MODEL, style=style, accessory=None if kind == "plain" else (kind, "red"), ahoge=ahoge)
    base = _drawn(figure)
    changes: list[tuple[Figure, str, RGB, RGB]] = [
        (replace(figure, hair="black"), "white", HAIR["blonde"], HAIR["black"]),
        (replace(figure, eyes="red"), "white", EYES["blue"], EYES["red"]),
        (replace(figure, shirt="navy"), "white", SHIRT["white"], SHIRT["navy"]),
        (replace(figure, accessory=figure.accessory and (kind, "blue")), "white", ACCESSORY["red"], ACCESSORY["blue"]),
        (figure, "blue", BACKGROUND["white"], BACKGROUND["blue"]),
    ]
    weights = [_weight(base, _drawn(changed, behind), colour, other) for changed, behind, colour, other in changes]
    stacked = np.stack(weights, axis=-1)
    ink = base - stacked @ np.array([colour for _, _, colour, _ in changes], dtype=np.float64)
    return _softened(np.concatenate([stacked, ink], axis=-1)).astype(np.float32)


def _drawn(figure: Figure, background: str = "white") -> np.ndarray:
    """The renderer's picture of one figure on the stencil grid, (ROWS, COLUMNS, 3)."""
    where = Place((WIDTH + 1) / 2, ABOVE + 0.5)
    picture = np.asarray(render(Scene((figure,), (where,), background)).image, dtype=np.float64)
    return picture[:, WIDTH // 2 - REACH : WIDTH // 2 + REACH + 1]


def _weight(base: np.ndarray, changed: np.ndarray, colour: RGB, other: RGB) -> np.ndarray:
    """How much a point takes of a colour, from two pictures that differ in that colour alone (least squares)."""
    change = np.subtract(other, colour).astype(np.float64)
    return (changed - base) @ change / (change @ change)


def _softened(array: np.ndarray) -> np.ndarray:
    """Blurred as much as reading a picture between its pixels does on average: variance 1/6 along each axis."""
    for axis in (0, 1):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(array.ndim)]
        wide = np.pad(array, pad, mode="edge")
        before, after = (wide.take(np.arange(array.shape[axis]) + k, axis) for k in (0, 2))
        array = (before + 10 * array + after) / 12
    return array


def fill(stencils: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Put RGB colours (4, 3) of hair, eyes, shirt and accessory into stencils (..., 8): (..., 3), nothing behind."""
    return stencils[..., INK] + stencils[..., :4] @ colours


@dataclass(frozen=True, slots=True)
class Regions:
    """Where to look: points of the stencil grid, as flat indices.

    `head` looks the same whatever she wears and however her hair is done; `hair` and `shirt` are the inner parts of
    these shapes, the others the points that depend on one answer. Eyes are within `head`.
    """

    head: np.ndarray
    hair: np.ndarray
    eyes: np.ndarray
    left_eye: np.ndarray
    right_eye: np.ndarray
    shirt: np.ndarray
    silhouette: np.ndarray
    ahoge: np.ndarray
    ahoge_beside_ribbon: np.ndarray
    ribbon: np.ndarray
    ribbon_beside_scrunchie: np.ndarray
    scrunchie: np.ndarray


@cache
def regions() -> Regions:
    """The regions all stencils have in common."""
    plain, ribbon, scrunchie = (np.stack([stencil(style, kind) for style in STYLES]) for kind in KINDS)
    ahoge = np.stack([stencil(style, "plain", True) for style in STYLES])
    everything = np.concatenate([plain, ribbon, scrunchie, ahoge])
    u, v = np.arange(-REACH, REACH + 1), np.arange(-ABOVE, ROWS - ABOVE)[:, None]
    spread, least = np.ptp(everything[..., :5], axis=0).max(-1), everything.min(axis=0)
    ahoge_zone, ribbon_zone, scrunchie_zone = (_differ(some, plain) for some in (ahoge, ribbon, scrunchie))
    style_zone = np.ptp(np.concatenate([plain, scrunchie])[..., :5], axis=0).max(-1) > 0.03
    return Regions(
        head=_points((spread < 0.04) & (np.abs(u) < 11.5) & (v > -14) & (v < 18)),
        hair=_points(least[..., HAIR_W] > 0.9),
        eyes=_points(least[..., EYES_W] > 0.3),
        left_eye=_points((least[..., EYES_W] > 0.3) & (u < 0)),
        right_eye=_points((least[..., EYES_W] > 0.3) & (u > 0)),
        shirt=_points(least[..., SHIRT_W] > 0.9),
        silhouette=_points(style_zone & ~ribbon_zone & ~ahoge_zone),
        ahoge=_points(ahoge_zone),
        ahoge_beside_ribbon=_points(ahoge_zone & ~ribbon_zone),
        ribbon=_points(ribbon_zone),
        ribbon_beside_scrunchie=_points(ribbon_zone & ~scrunchie_zone),
        scrunchie=_points(scrunchie_zone & (u < 0)),
    )


@cache
def face_filter() -> np.ndarray:
    """A matched filter for skin: positive on the face and negative on eyes and fringe, 23x23 around the head."""
    plain = np.stack([stencil(style, kind) for style in STYLES for kind in KINDS])
    middle = plain[:, ABOVE - 11 : ABOVE + 12, REACH - 11 : REACH + 12]
    bare = (np.abs(middle[..., :5]).max((0, -1)) < 0.05) & (np.abs(middle[0, ..., INK] - SKIN).max(-1) < 25)
    bare[-1:] = False
    other = (middle[..., HAIR_W].min(0) > 0.9) | (middle[..., EYES_W].min(0) > 0.8)
    return bare / bare.sum() - other / other.sum()


def _differ(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.abs(some - others)[..., :5].max((0, -1)) > 0.03


def _points(mask: np.ndarray) -> np.ndarray:
    return np.flatnonzero(mask)
