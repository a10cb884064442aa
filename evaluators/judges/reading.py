"""Read a picture of the drawn world: who stands there, from left to right, in words with a confidence each.

Analysis by synthesis: find the figures, then ask of each which silhouette, filled with the colours measured on her and
put between her neighbours, leaves least of the picture unexplained. Where two answers would look alike (covered by a
neighbour, beyond the edge) or neither fits, the reading says so instead of guessing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from PIL import Image

from anima.pocket.world import ACCESSORY, HEIGHT, LOST_IN_HAIR, RGB, STYLES, WIDTH
from evaluators.judges.faces import Found, between, find_figures, median_colour, solve_colour, squared
from evaluators.judges.palette import ACCESSORY_PALETTE, BARE, EYES_PALETTE, HAIR_PALETTE, Palette, oklab
from evaluators.judges.stencil import (
    ACCESSORY_W,
    BEHIND,
    COLUMNS,
    EYES_W,
    HAIR_W,
    ROWS,
    fill,
    regions,
    stencil,
)

NONE, YES = "none", "yes"
MISFIT = 70.0
"""RGB distance from which a pixel counts as unexplained, however far it is."""
LEAST_EVIDENCE = 10 * 50.0**2
"""Two answers must differ by this (squared RGB levels, summed) to be told apart: ten pixels by fifty levels."""
LEAST_CONFIDENCE = 0.2
"""Below this an attribute is a guess."""
SMEAR = 0.09
"""OKLab distance below which an accessory's colour cannot be told from its surroundings'."""
EMPTY = 0.02
"""Share of a picture that may differ from its background when nothing is there."""
LEAST_SHOWN = 0.2
"""Share of hair or eyes that must be open to view to name their colour."""

Answer = tuple[str, str, bool]
"""A silhouette: style, kind of accessory, ahoge."""


@dataclass(frozen=True, slots=True)
class Trait:
    """One attribute as read. `value` is the best guess, empty when nothing of it can be seen."""

    value: str = ""
    confidence: float = 0.0
    """From 0 (as well something else) to 1 (exactly this)."""
    hex: str = ""
    """The colour measured, like `#7e4a22`, where the attribute is a colour."""
    runner_up: str = ""
    """The next nearest name of a colour."""

    @property
    def sure(self) -> bool:
        """Whether the value may be relied on; anything else counts as not visible."""
        return bool(self.value) and self.confidence >= LEAST_CONFIDENCE


@dataclass(frozen=True, slots=True)
class FigureReading:
    """One figure as read. `ribbon` and `scrunchie` hold a colour or `none`; `ahoge` holds `yes` or `none`."""

    x: float
    """Centre of the head in picture pixels."""
    y: float
    size: float
    """1 is the world's normal size."""
    hair: Trait
    style: Trait
    eyes: Trait
    ribbon: Trait
    scrunchie: Trait
    ahoge: Trait

    def words(self) -> str:
        """`brown hair (#7a4a22), side ponytail, brown eyes, blue scrunchie, ahoge`; guesses are marked `perhaps`."""
        said = [
            (self.hair, f"{self.hair.value} hair ({self.hair.hex})", "hair colour not visible"),
            (self.style, self.style.value, "style not visible"),
            (self.eyes, f"{self.eyes.value} eyes", "eyes not visible"),
            (self.ribbon, f"{self.ribbon.value} ribbon", "ribbon not visible"),
            (self.scrunchie, f"{self.scrunchie.value} scrunchie", "scrunchie not visible"),
            (self.ahoge, "ahoge", "ahoge not visible"),
        ]
        return ", ".join(
            phrase if trait.sure else f"perhaps {phrase}" if trait.value else hidden
            for trait, phrase, hidden in said
            if trait.value != NONE
        )


@dataclass(frozen=True, slots=True)
class PictureReading:
    """A whole picture as read."""

    figures: tuple[FigureReading, ...]
    """From left to right."""
    explained: float
    """Share of what is not background, in the picture or in its explanation, that the reading accounts for."""
    is_empty: bool
    """Whether the picture is background alone."""


def read(image: Image.Image) -> tuple[FigureReading, ...]:
    """The figures of a picture from left to right; `image` is WIDTH x HEIGHT."""
    return read_picture(image).figures


def read_picture(image: Image.Image) -> PictureReading:
    """The figures of a picture and how much of it they explain. Raises ValueError for another size."""
    if image.size != (WIDTH, HEIGHT):
        raise ValueError(f"the drawn world is {WIDTH}x{HEIGHT}, this picture is {image.size[0]}x{image.size[1]}")
    rgb = np.asarray(image.convert("RGB"), dtype=np.float32)
    behind = _background(rgb)
    layers = [_Layer.begun(rgb, found) for found in find_figures(rgb, behind)]
    styles = [Trait()] * len(layers)
    for _ in range(2 if len(layers) > 1 else 1):
        for index, layer in enumerate(layers):
            styles[index] = _decide_silhouette(layer, _surroundings(layers, index, behind))
    figures = []
    for index, layer in enumerate(layers):
        around = _surroundings(layers, index, behind)
        scrunchie = _decide_accessory(layer, around, "scrunchie")
        ribbon = _decide_accessory(layer, around, "ribbon")
        ahoge = _decide_ahoge(layer, around)
        layer.paint()
        stand = layer.found.stand
        hair = _name_hair(layer, around)
        eyes = _name_eyes(layer, around)
        figures.append(FigureReading(stand.x, stand.y, stand.size, hair, styles[index], eyes, ribbon, scrunchie, ahoge))
    is_empty = not layers and bool((squared(rgb - behind) > MISFIT**2).mean() < EMPTY)
    return PictureReading(tuple(figures), _explained(rgb, behind, layers), is_empty)


def _background(rgb: np.ndarray) -> np.ndarray:
    """The colour of the frame: the upper edge and the upper part of both sides."""
    frame = [rgb[:3].reshape(-1, 3), rgb[3:24, :2].reshape(-1, 3), rgb[3:24, -2:].reshape(-1, 3)]
    return median_colour(np.concatenate(frame)).astype(np.float32)


@dataclass(slots=True)
class _Layer:
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
    def begun(cls, rgb: np.ndarray, found: Found) -> _Layer:
        """A figure of whom only the head is known."""
        layer = cls(found, *found.stand.portrait(rgb), found.colours.copy())
        layer.paint()
        return layer

    def paint(self) -> None:
        """Renew `ink` and `through` after something about her was decided."""
        laid = _flat(stencil(self.style, self.kind, self.ahoge))
        self.ink, self.through = fill(laid, self.colours), laid[:, BEHIND].copy()
        if self.ribbon is not None:
            zone = regions().ribbon
            laid = _flat(stencil(self.style, "ribbon", self.ahoge))[zone]
            self.ink[zone], self.through[zone] = fill(laid, _wearing(self.colours, self.ribbon)), laid[:, BEHIND]

    def at(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`ink` (r * c, 3) and `through` (r * c, 1) at picture coordinates y (r,) and x (c,)."""
        both = np.concatenate([self.ink, self.through], axis=1).reshape(ROWS, COLUMNS, 4)
        sampled = between(both, *self.found.stand.rows_columns(y, x)).reshape(-1, 4)
        return sampled[:, :3], sampled[:, 3:]


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What neighbours do to a figure, on her stencil grid: she stands in front of those to her left."""

    back: np.ndarray
    """Everything behind her (points, 3)."""
    ink: np.ndarray
    """What those before her add (points, 3) and let through (points, 1)."""
    through: np.ndarray


def _surroundings(layers: Sequence[_Layer], index: int, behind: np.ndarray) -> _Surroundings:
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
    return _Surroundings(back, ink, through)


def _flat(shape: np.ndarray) -> np.ndarray:
    return shape.reshape(-1, shape.shape[-1])


def _wearing(colours: np.ndarray, accessory: np.ndarray | RGB) -> np.ndarray:
    changed = colours.copy()
    changed[ACCESSORY_W] = accessory
    return changed


@cache
def _shapes(answers: tuple[Answer, ...], region: str) -> np.ndarray:
    """Stencils of several answers at the points of a region: (answers, n, 8)."""
    where = getattr(regions(), region)
    return np.stack([_flat(stencil(*answer))[where] for answer in answers])


class _Spot:
    """A region of one figure, ready to compare answers there."""

    def __init__(self, layer: _Layer, around: _Surroundings, region: str) -> None:
        where = getattr(regions(), region)
        self._region = region
        self.seen = layer.portrait[where]
        self._inside = layer.inside[where]
        self.back, self._ink, self._through = around.back[where], around.ink[where], around.through[where]
        self.open_to_view = self._inside & (self._through[:, 0] > 0.9)

    def drawn(self, answers: tuple[Answer, ...], colours: np.ndarray) -> np.ndarray:
        """What would be seen (answers, n, 3) were these silhouettes there, in colours (4, 3) or (answers, 4, 3)."""
        laid = _shapes(answers, self._region)
        return self._ink + self._through * (fill(laid, colours) + laid[..., BEHIND] * self.back)

    def accessory(self, answer: Answer, colours: np.ndarray) -> np.ndarray:
        """The colour (3,) of an accessory, were one worn here, from points no neighbour covers."""
        laid = _shapes((answer,), self._region)[0]
        use = (laid[:, ACCESSORY_W] > 0.3) & self.open_to_view
        return solve_colour(self.seen[use], laid[use], colours, self.back[use], ACCESSORY_W)

    def missed(self, drawn: np.ndarray) -> np.ndarray:
        """How much of what is seen answers (..., n, 3) leave unexplained: (...)."""
        return self.apart(drawn, self.seen)

    def apart(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Squared RGB distance of pixels (..., n, 3) summed up, each counting at most MISFIT."""
        return np.minimum(squared(some - others), MISFIT**2) @ self._inside

    def surely(self, winner: np.ndarray, rivals: np.ndarray) -> float:
        """1 when exactly the winner (n, 3) is seen, 0 halfway to a rival (..., n, 3) or when one looks alike."""
        apart = self.apart(winner, rivals)
        share = (self.missed(rivals) - self.missed(winner)) / np.maximum(apart, 1)
        return max(float(np.where(apart > LEAST_EVIDENCE, share, 0).min()), 0.0)


_SILHOUETTES: tuple[Answer, ...] = tuple((style, kind, False) for kind in ("plain", "scrunchie") for style in STYLES)


def _decide_silhouette(layer: _Layer, around: _Surroundings) -> Trait:
    """Hair style, decided together with whether a scrunchie sits there (each hides parts of the other)."""
    knot = _Spot(layer, around, "scrunchie")
    layer.colours[ACCESSORY_W] = knot.accessory(("side ponytail", "scrunchie", False), layer.colours)
    spot = _Spot(layer, around, "silhouette")
    drawn = spot.drawn(_SILHOUETTES, layer.colours)
    winner = int(np.argmin(spot.missed(drawn)))
    layer.style, layer.kind, _ = _SILHOUETTES[winner]
    layer.paint()
    rivals = [i for i, (style, *_) in enumerate(_SILHOUETTES) if style != layer.style]
    return Trait(layer.style, spot.surely(drawn[winner], drawn[rivals]))


def _decide_accessory(layer: _Layer, around: _Surroundings, kind: str) -> Trait:
    """Whether a ribbon or a scrunchie is there and in which colour; the layer remembers it."""
    tied_right = layer.kind == "scrunchie" and layer.style == "twintails"
    spot = _Spot(layer, around, "ribbon_beside_scrunchie" if kind == "ribbon" and tied_right else kind)
    with_it: Answer = (layer.style, kind, False)
    bare = spot.drawn(((layer.style, "plain", False),), layer.colours)[0]
    colour = spot.accessory(with_it, layer.colours)
    worn = spot.drawn((with_it,), _wearing(layer.colours, colour))[0]
    named = _named(colour, ACCESSORY_PALETTE, spot.surely(worn, bare))
    smeared = _is_smear(colour, layer.colours[HAIR_W], spot.back.mean(0), is_named=named.value in ACCESSORY)
    is_worn = bool(spot.missed(worn) < spot.missed(bare)) and not smeared
    if kind == "ribbon":
        layer.ribbon = colour if is_worn else None
    else:
        layer.kind = "scrunchie" if is_worn else "plain"
        layer.colours[ACCESSORY_W] = colour
    if is_worn:
        return named
    hair = HAIR_PALETTE.name(layer.colours[HAIR_W]).name
    possible = [_wearing(layer.colours, rgb) for name, rgb in ACCESSORY.items() if (hair, name) not in LOST_IN_HAIR]
    return Trait(NONE, spot.surely(bare, spot.drawn((with_it,), np.stack(possible))))


def _is_smear(colour: np.ndarray, hair: np.ndarray, back: np.ndarray, *, is_named: bool) -> bool:
    """Whether a colour is only the hair's, or one no accessory has on the way from the hair's to what is behind."""
    lab, hair_lab, back_lab = oklab(np.stack([colour, hair, back]))
    way = back_lab - hair_lab
    along = 0.0 if is_named else float(np.clip((lab - hair_lab) @ way / max(float(way @ way), 1e-6), 0, 1))
    return float(np.linalg.norm(lab - hair_lab - along * way)) < SMEAR


def _decide_ahoge(layer: _Layer, around: _Surroundings) -> Trait:
    spot = _Spot(layer, around, "ahoge" if layer.ribbon is None else "ahoge_beside_ribbon")
    without, with_it = spot.drawn(((layer.style, "plain", False), (layer.style, "plain", True)), layer.colours)
    layer.ahoge = bool(spot.missed(with_it) < spot.missed(without))
    if layer.ahoge:
        return Trait(YES, spot.surely(with_it, without))
    return Trait(NONE, spot.surely(without, with_it))


def _name_hair(layer: _Layer, around: _Surroundings) -> Trait:
    """Less sure the fewer of the hair's inner points have its median colour."""
    spot = _Spot(layer, around, "hair")
    return _name_part(spot, spot.seen - layer.colours[HAIR_W], layer.colours[HAIR_W], HAIR_PALETTE)


def _name_eyes(layer: _Layer, around: _Surroundings) -> Trait:
    """Less sure the fewer of the eyes' points the two eyes' one colour explains."""
    spot = _Spot(layer, around, "eyes")
    missed = spot.drawn(((layer.style, "plain", False),), layer.colours)[0] - spot.seen
    read = _name_part(spot, missed, layer.colours[EYES_W], EYES_PALETTE)
    return Trait() if read.value == BARE else read


def _name_part(spot: _Spot, missed: np.ndarray, colour: np.ndarray, palette: Palette) -> Trait:
    if spot.open_to_view.mean() < LEAST_SHOWN:
        return Trait()
    share = float((squared(missed[spot.open_to_view]) < MISFIT**2).mean())
    return _named(colour, palette, max(2 * share - 1, 0.0))


def _named(colour: np.ndarray, palette: Palette, confidence: float) -> Trait:
    """A colour's name, as sure as both its certainty and `confidence` allow."""
    named = palette.name(colour)
    hexadecimal = "#" + "".join(f"{int(np.clip(np.rint(level), 0, 255)):02x}" for level in colour)
    return Trait(named.name, min(named.certainty, confidence), hexadecimal, named.runner_up)


def _explained(rgb: np.ndarray, behind: np.ndarray, layers: Sequence[_Layer]) -> float:
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
