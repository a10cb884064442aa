"""Predict a picture from what is believed about its figures, and measure how far it is from what is seen.

A `Layer` is one figure with everything decided about her so far; `surroundings` is what her neighbours do to her
stencil; a `Spot` compares answers to one question at the points where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from anima.pocket.world import HEIGHT, RGB, STYLES, WIDTH
from evaluators.judges.faces import Found, between, solve_colour, squared
from evaluators.judges.palette import HAIR_PALETTE
from evaluators.judges.stencil import ACCESSORY_W, BEHIND, COLUMNS, HAIR_W, ROWS, fill, regions, stencil

MISFIT = 70.0
"""RGB distance from which a pixel counts as unexplained, however far it is."""
OFF_COLOUR = 50.0
"""The same where a figure is expected: hair in a wrong colour is likelier than hair in front of nothing."""
LEAST_EVIDENCE = 10 * OFF_COLOUR**2
"""Two answers must differ by this (squared RGB levels, summed) to be told apart: ten pixels."""

Answer = tuple[str, str, bool]
"""A silhouette: style, kind of accessory, ahoge."""


@dataclass(slots=True)
class Layer:
    """One figure while she is being read: her portrait, what was decided, and what she paints over the picture.

    `ink` (points, 3) is what she adds and `through` (points, 1) what she lets through, on her own stencil grid.
    """

    found: Found
    portrait: np.ndarray
    inside: np.ndarray
    colours: np.ndarray
    """Hair, eyes, shirt and scrunchie, float32 (4, 3)."""
    style: str = STYLES[0]
    kind: str = "plain"
    ahoge: bool = False
    ribbon: np.ndarray | None = None
    """The colour of a ribbon, which may be worn together with a scrunchie."""
    ink: np.ndarray = field(init=False)
    through: np.ndarray = field(init=False)

    @classmethod
    def begun(cls, found: Found) -> Layer:
        """A figure of whom only the head is known."""
        layer = cls(found, found.portrait, found.inside, found.colours.copy())
        cap = layer.portrait[regions().hair[layer.inside[regions().hair]]]
        layer.colours[HAIR_W] = HAIR_PALETTE.dominant(cap)
        layer.paint()
        return layer

    def paint(self) -> None:
        """Renew `ink` and `through` after something about her was decided."""
        laid = flat(stencil(self.style, self.kind, self.ahoge))
        self.ink, self.through = fill(laid, self.colours), laid[:, BEHIND].copy()
        if self.ribbon is not None:
            zone = regions().ribbon
            laid = flat(stencil(self.style, "ribbon", self.ahoge))[zone]
            self.ink[zone], self.through[zone] = fill(laid, wearing(self.colours, self.ribbon)), laid[:, BEHIND]

    def at(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`ink` (r * c, 3) and `through` (r * c, 1) at picture coordinates y (r,) and x (c,)."""
        both = np.concatenate([self.ink, self.through], axis=1).reshape(ROWS, COLUMNS, 4)
        sampled = between(both, *self.found.stand.rows_columns(y, x)).reshape(-1, 4)
        return sampled[:, :3], sampled[:, 3:]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What neighbours do to a figure, on her stencil grid: she stands in front of those to her left."""

    back: np.ndarray
    """Everything behind her (points, 3)."""
    ink: np.ndarray
    """What those before her add (points, 3) and let through (points, 1)."""
    through: np.ndarray


def surroundings(layers: Sequence[Layer], index: int, behind: np.ndarray) -> Surroundings:
    """What the others do to the figure `index`, in front of a background of one colour."""
    stand = layers[index].found.stand
    y, x = stand.points()
    points = ROWS * COLUMNS
    back = np.broadcast_to(behind, (points, 3))
    ink, through = np.zeros((points, 3), dtype=np.float32), np.ones((points, 1), dtype=np.float32)
    for other, layer in enumerate(layers):
        if other == index or abs(layer.found.stand.x - stand.x) > COLUMNS - 4:
            continue
        added, passed = layer.at(y, x)
        if other < index:
            back = added + passed * back
        else:
            ink, through = added + passed * ink, passed * through
    return Surroundings(back, ink, through)


def flat(shape: np.ndarray) -> np.ndarray:
    """A stencil as (points, 8)."""
    return shape.reshape(-1, shape.shape[-1])


def wearing(colours: np.ndarray, accessory: np.ndarray | RGB) -> np.ndarray:
    """The colours (4, 3) with another accessory's."""
    changed = colours.copy()
    changed[ACCESSORY_W] = accessory
    return changed


@cache
def _shapes(answers: tuple[Answer, ...], region: str) -> np.ndarray:
    """Stencils of several answers at the points of a region: (answers, n, 8)."""
    where = getattr(regions(), region)
    return np.stack([flat(stencil(*answer))[where] for answer in answers])


@dataclass(frozen=True, slots=True)
class Drawn:
    """Predicted pixels (..., n, 3), and how much each may miss at most (..., n)."""

    rgb: np.ndarray
    most: np.ndarray

    def __getitem__(self, answer: int | list[int]) -> Drawn:
        return Drawn(self.rgb[answer], self.most[answer])


class Spot:
    """A region of one figure, ready to compare answers there."""

    def __init__(self, layer: Layer, around: Surroundings, region: str) -> None:
        where = getattr(regions(), region)
        self._region = region
        self.seen = layer.portrait[where]
        self._inside = layer.inside[where]
        self.back, self._ink, self._through = around.back[where], around.ink[where], around.through[where]
        self.open_to_view = self._inside & (self._through[:, 0] > 0.9)

    def drawn(self, answers: tuple[Answer, ...], colours: np.ndarray) -> Drawn:
        """What would be seen were these silhouettes there, in colours (4, 3) or one set for each (answers, 4, 3)."""
        laid = _shapes(answers, self._region)
        rgb = self._ink + self._through * (fill(laid, colours) + laid[..., BEHIND] * self.back)
        uncovered = self._through[:, 0] * laid[..., BEHIND.start]
        most = OFF_COLOUR**2 + (MISFIT**2 - OFF_COLOUR**2) * uncovered
        return Drawn(rgb, np.broadcast_to(most, rgb.shape[:-1]))

    def solve(self, answer: Answer, colours: np.ndarray, channel: int) -> np.ndarray:
        """The colour (3,) of one part, were this the silhouette, from points no neighbour covers."""
        laid = _shapes((answer,), self._region)[0]
        use = (laid[:, channel] > 0.3) & self.open_to_view
        return solve_colour(self.seen[use], laid[use], colours, self.back[use], channel)

    def missed(self, drawn: Drawn) -> np.ndarray:
        """Squared RGB distance of each answer from what is seen, summed over its pixels: (...)."""
        return self._apart(drawn, self.seen)

    def _apart(self, drawn: Drawn, others: np.ndarray) -> np.ndarray:
        return np.minimum(squared(drawn.rgb - others), drawn.most) @ self._inside

    def surely(self, winner: Drawn, rivals: Drawn) -> float:
        """1 when exactly the winner is seen, 0 halfway to one of the rivals or when one looks alike."""
        apart = self._apart(rivals, winner.rgb)
        share = (self.missed(rivals) - self.missed(winner)) / np.maximum(apart, 1)
        return max(float(np.where(apart > LEAST_EVIDENCE, share, 0).min()), 0.0)

    def explained(self, drawn: Drawn, answer: Answer, channel: int) -> float:
        """Share of one part's inner pixels in view that an answer explains; 0 when none is in view."""
        inner = (_shapes((answer,), self._region)[0, :, channel] > 0.6) & self.open_to_view
        return float((squared(drawn.rgb - self.seen)[inner] < MISFIT**2).mean()) if inner.any() else 0.0


def explained(rgb: np.ndarray, behind: np.ndarray, layers: Sequence[Layer]) -> float:
    """Share of what is not background, in the picture or in the figures, that the figures account for."""
    y, x = np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5
    drawn = np.broadcast_to(behind, (HEIGHT * WIDTH, 3))
    cover = np.zeros(HEIGHT * WIDTH, dtype=bool)
    for layer in layers:
        ink, through = layer.at(y, x)
        drawn = ink + through * drawn
        cover |= through[:, 0] < 0.5
    seen = rgb.reshape(-1, 3)
    cover |= squared(seen - behind) > MISFIT**2
    return float((squared(drawn - seen)[cover] < MISFIT**2).mean()) if cover.any() else 0.0
