"""Find the figures: every face in a picture, then each one's exact place, size and colours.

A face is where skin fills the stencil's face and is absent from its eyes and fringe (a matched filter). Registration
then moves and scales the head's stencil, filled with the colours measured there, until it fits (robust Gauss-Newton
with the template's gradient). What looked like a face counts when a head can be fitted to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.signal import fftconvolve

from anima.pocket.world import SKIN
from evaluators.judges.stencil import (
    ABOVE,
    BEHIND,
    COLUMNS,
    EYES_W,
    HAIR_W,
    INK,
    REACH,
    ROWS,
    SHIRT_W,
    face_filter,
    fill,
    regions,
    stencil,
)

FACE_SCORE = 0.3
"""Share of a face's skin that must be there, less the share of eyes and fringe that is skin, to look closer."""
FACE_EVIDENCE = 1.05
"""That share and the fit of the head, added up, that make it a face."""
FACE_GAP = 13.0
"""Two faces nearer than this (pixels) are one."""
LEAST_HAIR = 0.4
"""Share of hair and of eyes that must be within the picture for a head to be recognised."""
MOST_CANDIDATES = 8
SKIN_WIDTH = 45.0
"""How far, in RGB levels, a colour may be from skin to still count 60 %."""
MOST_SHIFT, MOST_SCALING = 3.0, 0.16
"""How far registration may go from where the filter found the face."""
ROUNDS = 3
OUTLIER = 40.0
"""RGB distance at which a pixel has lost half its say."""

_ONES = np.ones(3, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a figure stands: the centre of its head in picture pixels, and its size (1 = normal)."""

    x: float
    y: float
    size: float = 1.0

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Picture coordinates of the stencil grid: y (ROWS,) and x (COLUMNS,)."""
        v, u = np.arange(ROWS) - ABOVE, np.arange(COLUMNS) - REACH
        return self.y + v * self.size, self.x + u * self.size

    def rows_columns(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stencil coordinates, for `between`, of picture coordinates."""
        return (y - self.y) / self.size + ABOVE, (x - self.x) / self.size + REACH

    def portrait(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The picture as her stencil sees it, (ROWS * COLUMNS, 3), and which of these points are within the picture."""
        y, x = self.points()
        height, width = rgb.shape[:2]
        inside = ((y > 0) & (y < height))[:, None] & ((x > 0) & (x < width))
        # Pixel i covers [i, i + 1): its centre is at i + 0.5.
        return between(rgb, y - 0.5, x - 0.5).reshape(-1, rgb.shape[2]), inside.ravel()


def between(array: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values of (R, C, n) at fractional rows and columns, bilinear, held constant beyond the edges: (r, c, n)."""
    return _along(_along(array, rows, 0), columns, 1)


def _along(array: np.ndarray, points: np.ndarray, axis: int) -> np.ndarray:
    points = np.minimum(np.maximum(points, 0), array.shape[axis] - 1.001)
    low = points.astype(np.intp)
    share = (points - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
    below = array.take(low, axis)
    return below + (array.take(low + 1, axis) - below) * share


@dataclass(frozen=True, slots=True)
class Found:
    """A figure as first met: where she stands and her colours, float32 (4, 3); the accessory's is left 0."""

    stand: Stand
    colours: np.ndarray
    portrait: np.ndarray
    """The picture as her stencil sees it, (points, 3), and which points are within the picture."""
    inside: np.ndarray
    fit: float
    """Share of the head's variance that is explained, at most 1; below 0 a flat colour would explain more."""


def find_figures(rgb: np.ndarray, behind: np.ndarray) -> list[Found]:
    """Everyone in a picture, float32 (H, W, 3) in [0, 255] in front of the colour `behind`, from left to right."""
    kernel = face_filter()
    reach = len(kernel) // 2
    score = fftconvolve(_skin_likeness(rgb), kernel[::-1, ::-1], mode="full")
    rows, columns = np.ogrid[: score.shape[0], : score.shape[1]]
    found: list[Found] = []
    for _ in range(MOST_CANDIDATES):
        row, column = np.unravel_index(int(np.argmax(score)), score.shape)
        best = float(score[row, column])
        if best < FACE_SCORE:
            break
        figure = register(rgb, behind, Stand(float(column) - reach + 0.5, float(row) - reach + 0.5))
        is_face = figure is not None and best + figure.fit > FACE_EVIDENCE
        if figure is not None and is_face:
            found.append(figure)
        gap = FACE_GAP if is_face else FACE_GAP / 2
        score[(rows - row) ** 2 + (columns - column) ** 2 < gap**2] = -1
    return sorted(found, key=lambda figure: figure.stand.x)


def _skin_likeness(rgb: np.ndarray) -> np.ndarray:
    """From 1 (skin) to 0, float32 (H, W); lightness counts half, because shade and blur change it first."""
    away = rgb - np.array(SKIN, dtype=np.float32)
    light = away @ np.full(3, 1 / 3, dtype=np.float32)
    tint = squared(away - light[..., None])
    return np.exp(-(1.5 * light**2 + 2 * tint) / (2 * SKIN_WIDTH**2))


def register(rgb: np.ndarray, behind: np.ndarray, stand: Stand) -> Found | None:
    """Fit the head's place, size and colours, starting at `stand`; None where most of a head is outside the picture."""
    first = stand
    for step in range(ROUNDS + 1):
        portrait, inside = stand.portrait(rgb)
        if min(inside[regions().hair].mean(), inside[regions().eyes].mean()) < LEAST_HAIR:
            return None
        if step in (0, 1, ROUNDS):
            colours = measure_colours(portrait, inside, behind)
        if step == ROUNDS:
            return Found(stand, colours, portrait, inside, _fit(portrait, inside, behind, colours))
        shift = _newton_step(portrait, inside, behind, colours) * (stand.size, stand.size, 1)
        stand = replace(
            stand,
            x=float(np.clip(stand.x + shift[0], first.x - MOST_SHIFT, first.x + MOST_SHIFT)),
            y=float(np.clip(stand.y + shift[1], first.y - MOST_SHIFT, first.y + MOST_SHIFT)),
            size=float(np.clip(stand.size * (1 + shift[2]), 1 - MOST_SCALING, 1 + MOST_SCALING)),
        )
    raise AssertionError("unreachable")


def measure_colours(portrait: np.ndarray, inside: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Colours of hair, eyes, shirt and (0) accessory, float32 (4, 3)."""
    colours = np.zeros((4, 3), dtype=np.float32)
    for channel, region in ((HAIR_W, regions().hair), (SHIRT_W, regions().shirt)):
        colours[channel] = median_colour(portrait[region[inside[region]]])
    eyes = regions().eyes
    eyes = eyes[inside[eyes]]
    colours[EYES_W] = solve_colour(portrait[eyes], _head()[0][eyes], colours, behind, EYES_W)
    return colours


def median_colour(pixels: np.ndarray) -> np.ndarray:
    """Per-channel (upper) median of pixels (n, 3); black when there are none."""
    middle = len(pixels) // 2
    return np.partition(pixels, middle, axis=0)[middle] if len(pixels) else np.zeros(3, dtype=np.float32)


def squared(difference: np.ndarray) -> np.ndarray:
    """Squared length of colour differences (..., 3): (...)."""
    return (difference * difference) @ _ONES


def solve_colour(
    seen: np.ndarray, laid: np.ndarray, colours: np.ndarray, behind: np.ndarray, channel: int
) -> np.ndarray:
    """The colour (3,) of one channel that best explains pixels (n, 3) under a stencil (n, 8); the others are given.

    Least squares, reweighted so that pixels no single colour explains lose their say.
    """
    known = colours.copy()
    known[channel] = 0
    weight = laid[:, channel : channel + 1]
    rest = seen - fill(laid, known) - laid[:, BEHIND] * behind
    trust = np.ones_like(weight)
    colour = np.zeros(3, dtype=np.float32)
    for _ in range(3):
        trusted = (trust * weight)[:, 0]
        colour = trusted @ rest / max(float(trusted @ weight[:, 0]), 1e-6)
        trust = 1 / (1 + squared(rest - weight * colour)[:, None] / OUTLIER**2)
    return np.clip(colour, 0, 255)


@cache
def _head() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The head's stencil (points, 8) and its derivatives along u, v and scale, all on the flat grid."""
    plain = stencil("short hair")
    down, right = np.gradient(plain, axis=(0, 1))
    u, v = (np.arange(COLUMNS) - REACH)[None, :, None], (np.arange(ROWS) - ABOVE)[:, None, None]
    parts = (plain, right, down, u * right + v * down)
    return tuple(part.reshape(-1, 8).astype(np.float32) for part in parts)  # type: ignore[return-value]


def _newton_step(portrait: np.ndarray, inside: np.ndarray, behind: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The change of (u, v, log size) of the stencil, in its own units, that best explains what it misses."""
    region = regions().head
    region = region[inside[region]]
    laid = np.stack([part[region] for part in _head()])
    slopes = laid[..., :4] @ colours + laid[..., BEHIND] * behind + laid[..., INK]
    missed = portrait[region] - slopes[0]
    slopes = -slopes[1:]
    trust = 1 / (1 + squared(missed) / OUTLIER**2)
    flat, weighted = slopes.reshape(3, -1), (slopes * trust[:, None]).reshape(3, -1)
    normal = weighted @ flat.T + np.diag([50.0, 50.0, 5e4])
    return np.linalg.solve(normal, weighted @ missed.ravel())


def _fit(portrait: np.ndarray, inside: np.ndarray, behind: np.ndarray, colours: np.ndarray) -> float:
    region = regions().head
    laid = _head()[0]
    region = region[inside[region] & (laid[region, BEHIND][:, 0] < 0.5)]
    seen, laid = portrait[region], laid[region]
    missed = squared(fill(laid, colours) + laid[:, BEHIND] * behind - seen).sum()
    return float(1 - missed / max(float(squared(seen - median_colour(seen)).sum()), 1.0))
