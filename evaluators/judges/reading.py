"""Read a picture of the drawn world: who stands there, from left to right, in words with a confidence each.

Analysis by synthesis: find the figures, then ask of each which silhouette, filled with the colours measured on her and
put between her neighbours, leaves least of the picture unexplained. Where two answers would look alike (covered by a
neighbour, beyond the edge) or neither fits, the reading says so instead of guessing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from anima.pocket.world import ACCESSORY, HEIGHT, LOST_IN_HAIR, STYLES, WIDTH
from evaluators.judges.faces import find_figures, median_colour, squared
from evaluators.judges.palette import ACCESSORY_PALETTE, BARE, EYES_PALETTE, HAIR_PALETTE, Palette, oklab
from evaluators.judges.stencil import ACCESSORY_W, EYES_W, HAIR_W, regions, stencil
from evaluators.judges.synthesis import (
    MISFIT,
    Answer,
    Layer,
    Spot,
    Surroundings,
    explained,
    flat,
    surroundings,
    wearing,
)

NONE, YES = "none", "yes"
LEAST_CONFIDENCE = 0.2
"""Below this an attribute is a guess."""
SURE_OF_TWO = 0.3
"""How sure both of two colours must be to say that a part has two."""
MIXED = 0.35
"""Share of a part that is in another colour from which on the part has two colours."""
SMEAR = 0.09
"""OKLab distance below which an accessory's colour cannot be told from its surroundings'."""
EMPTY = 0.02
"""Share of a picture that may differ from its background when nothing is there."""
LEAST_SHOWN = 0.2
"""Share of hair or of an eye that must be open to view to name its colour."""


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
    layers = [Layer.begun(found) for found in find_figures(rgb, behind)]
    styles = [Trait()] * len(layers)
    for _ in range(2 if len(layers) > 1 else 1):
        for index, layer in enumerate(layers):
            styles[index] = _decide_silhouette(layer, surroundings(layers, index, behind))
    figures = tuple(
        _read_figure(layer, surroundings(layers, index, behind), styles[index]) for index, layer in enumerate(layers)
    )
    is_empty = not layers and bool((squared(rgb - behind) > MISFIT**2).mean() < EMPTY)
    return PictureReading(figures, explained(rgb, behind, layers), is_empty)


def _background(rgb: np.ndarray) -> np.ndarray:
    """The colour of the frame: the upper edge and the upper part of both sides."""
    frame = [rgb[:3].reshape(-1, 3), rgb[3:24, :2].reshape(-1, 3), rgb[3:24, -2:].reshape(-1, 3)]
    return median_colour(np.concatenate(frame)).astype(np.float32)


_SILHOUETTES: tuple[Answer, ...] = tuple((style, kind, False) for kind in ("plain", "scrunchie") for style in STYLES)


def _decide_silhouette(layer: Layer, around: Surroundings) -> Trait:
    """Hair style, decided together with whether a scrunchie sits there (each hides parts of the other)."""
    knot = Spot(layer, around, "scrunchie")
    layer.colours[ACCESSORY_W] = knot.solve(("side ponytail", "scrunchie", False), layer.colours, ACCESSORY_W)
    spot = Spot(layer, around, "silhouette")
    drawn = spot.drawn(_SILHOUETTES, layer.colours)
    winner = int(np.argmin(spot.missed(drawn)))
    layer.style, layer.kind, _ = _SILHOUETTES[winner]
    layer.paint()
    rivals = [i for i, (style, *_) in enumerate(_SILHOUETTES) if style != layer.style]
    return Trait(layer.style, spot.surely(drawn[winner], drawn[rivals]))


def _read_figure(layer: Layer, around: Surroundings, style: Trait) -> FigureReading:
    """Everything else about a figure, once all silhouettes are known; leaves the layer painted."""
    scrunchie = _decide_accessory(layer, around, "scrunchie")
    ribbon = _decide_accessory(layer, around, "ribbon")
    ahoge = _decide_ahoge(layer, around)
    layer.paint()
    hair, eyes = _name_hair(layer, around, whole=style.sure), _name_eyes(layer, around)
    stand = layer.found.stand
    return FigureReading(stand.x, stand.y, stand.size, hair, style, eyes, ribbon, scrunchie, ahoge)


def _decide_accessory(layer: Layer, around: Surroundings, kind: str) -> Trait:
    """Whether a ribbon or a scrunchie is there and in which colour; the layer remembers it."""
    tied_right = layer.kind == "scrunchie" and layer.style == "twintails"
    spot = Spot(layer, around, "ribbon_beside_scrunchie" if kind == "ribbon" and tied_right else kind)
    with_it: Answer = (layer.style, kind, False)
    bare = spot.drawn(((layer.style, "plain", False),), layer.colours)[0]
    colour = spot.solve(with_it, layer.colours, ACCESSORY_W)
    worn = spot.drawn((with_it,), wearing(layer.colours, colour))[0]
    is_worn = bool(spot.missed(worn) < spot.missed(bare)) and not _is_smear(colour, layer.colours[HAIR_W], spot.back)
    if kind == "ribbon":
        layer.ribbon = colour if is_worn else None
    else:
        layer.kind = "scrunchie" if is_worn else "plain"
        layer.colours[ACCESSORY_W] = colour
    if is_worn:
        one_colour = 2 * spot.explained(worn, with_it, ACCESSORY_W) - 1
        return _named(colour, ACCESSORY_PALETTE, min(spot.surely(worn, bare), one_colour))
    hair = HAIR_PALETTE.name(layer.colours[HAIR_W]).name
    possible = [wearing(layer.colours, rgb) for name, rgb in ACCESSORY.items() if (hair, name) not in LOST_IN_HAIR]
    return Trait(NONE, spot.surely(bare, spot.drawn((with_it,), np.stack(possible))))


def _is_smear(colour: np.ndarray, hair: np.ndarray, back: np.ndarray) -> bool:
    """Whether a colour is only the hair's, or one no accessory has on the way from the hair's to what is behind."""
    lab, hair_lab, back_lab = oklab(np.stack([colour, hair, back.mean(0)]))
    way, away = back_lab - hair_lab, lab - hair_lab
    if ACCESSORY_PALETTE.name(colour).name not in ACCESSORY:
        away = away - way * np.clip(away @ way / max(float(way @ way), 1e-6), 0, 1)
    return bool(away @ away < SMEAR**2)


def _decide_ahoge(layer: Layer, around: Surroundings) -> Trait:
    """Whether something stands up where an ahoge would, in whatever colour."""
    spot = Spot(layer, around, "ahoge" if layer.ribbon is None else "ahoge_beside_ribbon")
    bare, tuft = (layer.style, "plain", False), (layer.style, "plain", True)
    colours = layer.colours.copy()
    colours[HAIR_W] = spot.solve(tuft, layer.colours, HAIR_W)
    answers = spot.drawn((bare, tuft, tuft), np.stack([layer.colours, layer.colours, colours]))
    without, own = answers[0], answers[1]
    with_it = min(own, answers[2], key=lambda drawn: float(spot.missed(drawn)))
    layer.ahoge = bool(spot.missed(with_it) < spot.missed(without))
    if layer.ahoge:
        return Trait(YES, spot.surely(with_it, without))
    return Trait(NONE, spot.surely(without, own))


def _name_hair(layer: Layer, around: Surroundings, *, whole: bool) -> Trait:
    """The colour of the hair: of all of it when the silhouette is sure (`whole`), else of the cap."""
    open_to_view = layer.inside & (around.through[:, 0] > 0.9)
    cap = regions().hair
    if open_to_view[cap].mean() < LEAST_SHOWN:
        return Trait()
    hair = np.zeros(len(open_to_view), dtype=bool)
    hair[cap] = True
    if whole:
        hair |= flat(stencil(layer.style, layer.kind))[:, HAIR_W] > 0.9
    if layer.ribbon is not None:
        hair[regions().ribbon] = False
    return _name_part(layer.portrait[hair & open_to_view], HAIR_PALETTE)


def _name_part(pixels: np.ndarray, palette: Palette) -> Trait:
    """The name of a part's pixels (n, 3), or both names where a good share of them has another."""
    main = palette.dominant(pixels)
    other = squared(pixels - main) > MISFIT**2
    named = _named(main, palette, 1.0)
    if other.mean() < MIXED:
        return _named(main, palette, 1 - 2 * float(other.mean()))
    second = _named(palette.dominant(pixels[other]), palette, 1.0)
    return _both(named, second, main_confidence=1 - 2 * float(other.mean()))


def _both(first: Trait, second: Trait, *, main_confidence: float) -> Trait:
    """Two readings of one part: one name if they agree, else both if both are sure, else an unsure first."""
    if first.value == second.value:
        return Trait(first.value, max(min(first.confidence, main_confidence), 0.0), first.hex, first.runner_up)
    if min(first.confidence, second.confidence) >= SURE_OF_TWO:
        return Trait(f"{first.value} and {second.value}", min(first.confidence, second.confidence), first.hex)
    return Trait(first.value, min(first.confidence, second.confidence), first.hex, second.value)


def _name_eyes(layer: Layer, around: Surroundings) -> Trait:
    """The colour of both eyes together when they agree, else of each; less sure the less of them it explains."""
    bare: Answer = (layer.style, "plain", False)
    eyes = [spot for side in ("left_eye", "right_eye") if _is_shown(spot := Spot(layer, around, side))]
    read = [_read_eye(spot, spot.solve(bare, layer.colours, EYES_W), bare, layer) for spot in eyes]
    read = [eye for eye in read if eye.value != BARE]
    if len(read) < 2:
        return read[0] if read else Trait()
    if read[0].value != read[1].value:
        return _both(read[0], read[1], main_confidence=0.0)
    return _read_eye(Spot(layer, around, "eyes"), layer.colours[EYES_W], bare, layer)


def _is_shown(spot: Spot) -> bool:
    return bool(spot.open_to_view.mean() >= LEAST_SHOWN)


def _read_eye(spot: Spot, colour: np.ndarray, bare: Answer, layer: Layer) -> Trait:
    colours = layer.colours.copy()
    colours[EYES_W] = colour
    drawn = spot.drawn((bare,), colours)[0]
    return _named(colour, EYES_PALETTE, 2 * spot.explained(drawn, bare, EYES_W) - 1)


def _named(colour: np.ndarray, palette: Palette, confidence: float) -> Trait:
    """A colour's name, as sure as both its certainty and `confidence` allow."""
    named = palette.name(colour)
    red, green, blue = (round(float(level)) for level in colour)
    hexadecimal = f"#{red:02x}{green:02x}{blue:02x}"
    return Trait(named.name, max(min(named.certainty, confidence), 0.0), hexadecimal, named.runner_up)
