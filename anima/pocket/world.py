"""The drawn world: flat-coloured chibi figures, one to three in a picture, with attributes a program can read back.

A `Figure` is what someone looks like, a `Scene` is who stands where in front of what, `render` paints it.
Everything that varies is in the Scene, so a picture is a pure function of its Scene.
Coordinates are in picture pixels (96 wide, 64 high), x to the right, y down; painting is `SUPERSAMPLE` times larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 96, 64
SUPERSAMPLE = 4

RGB = tuple[int, int, int]

HAIR: dict[str, RGB] = {
    "black": (38, 34, 44),
    "brown": (126, 74, 34),
    "blonde": (246, 212, 84),
    "orange": (240, 132, 28),
    "red": (196, 32, 44),
    "pink": (248, 140, 190),
    "silver": (176, 182, 196),
    "blue": (44, 92, 214),
    "green": (44, 150, 84),
    "purple": (134, 66, 186),
}
EYES: dict[str, RGB] = {
    "brown": (110, 60, 20),
    "blue": (24, 84, 226),
    "red": (206, 20, 40),
    "green": (16, 150, 70),
    "purple": (140, 44, 200),
}
ACCESSORY: dict[str, RGB] = {
    "blue": (16, 84, 240),
    "red": (226, 16, 36),
    "yellow": (255, 226, 0),
    "green": (0, 168, 72),
    "white": (255, 255, 255),
}
SHIRT: dict[str, RGB] = {
    "white": (250, 250, 250),
    "navy": (44, 54, 110),
    "red": (206, 60, 66),
    "green": (92, 160, 92),
    "yellow": (240, 214, 110),
    "purple": (150, 110, 190),
    "grey": (132, 136, 144),
}
BACKGROUND: dict[str, RGB] = {
    "white": (244, 244, 246),
    "blue": (186, 216, 244),
    "green": (190, 230, 200),
    "purple": (218, 204, 242),
    "grey": (206, 208, 212),
}
# An accessory the colour of the hair it sits in cannot be told from the hair; the world does not draw it by chance.
LOST_IN_HAIR = frozenset(
    {("blue", "blue"), ("red", "red"), ("green", "green"), ("blonde", "yellow"), ("silver", "white")}
)
STYLES = ("short hair", "long hair", "side ponytail", "twintails")
ACCESSORY_KINDS = ("ribbon", "scrunchie")
SKIN: RGB = (255, 222, 196)
LINE: RGB = (62, 40, 44)
MOUTH: RGB = (196, 84, 84)


@dataclass(frozen=True, slots=True)
class Figure:
    """One person. `accessory` is None or (kind, colour); a scrunchie needs hair that is tied."""

    hair: str
    style: str
    eyes: str
    accessory: tuple[str, str] | None = None
    ahoge: bool = False
    shirt: str = "white"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a figure stands: the centre of its head and its size (1 = normal)."""

    x: float
    y: float = 25.0
    size: float = 1.0


@dataclass(frozen=True, slots=True)
class Scene:
    figures: tuple[Figure, ...]
    places: tuple[Place, ...]
    background: str = "white"
    touching: bool = False

    def __post_init__(self) -> None:
        if len(self.figures) != len(self.places):
            raise ValueError(f"{len(self.figures)} figures but {len(self.places)} places")


@dataclass(frozen=True, slots=True)
class Rendering:
    """`image`: RGB picture; `detail`: float32 (H, W) in [0, 1], how much of a pixel is a small coloured mark."""

    image: Image.Image
    detail: np.ndarray = field(repr=False)


def place(count: int, rng: Random, *, touching: bool = False) -> tuple[Place, ...]:
    """Places for `count` figures from left to right, jittered by a pixel or two."""
    gap = 26.5 if touching else 31.0
    middle = (WIDTH - 1) / 2 + rng.uniform(-1.5, 1.5) * (4 - count)
    return tuple(
        Place(
            x=middle + (i - (count - 1) / 2) * gap + rng.uniform(-0.8, 0.8),
            y=25.0 + rng.uniform(-1.2, 1.2),
            size=rng.uniform(0.97, 1.03),
        )
        for i in range(count)
    )


def scene(
    figures: Sequence[Figure], rng: Random, *, background: str | None = None, touching: bool | None = None
) -> Scene:
    """Stand these figures side by side (or touching) in front of a background; what is None is drawn by `rng`."""
    if touching is None:
        touching = len(figures) > 1 and rng.random() < 0.3
    if background is None:
        background = rng.choice(list(BACKGROUND))
    return Scene(tuple(figures), place(len(figures), rng, touching=touching), background, touching)


def random_figure(rng: Random) -> Figure:
    """A passer-by: every attribute drawn evenly from what the world has."""
    hair = rng.choice(list(HAIR))
    style = rng.choice(STYLES)
    accessory = None
    if rng.random() < 0.6:
        tied = style in ("side ponytail", "twintails")
        kind = rng.choice(ACCESSORY_KINDS) if tied else "ribbon"
        accessory = (kind, rng.choice([c for c in ACCESSORY if (hair, c) not in LOST_IN_HAIR]))
    return Figure(
        hair=hair,
        style=style,
        eyes=rng.choice(list(EYES)),
        accessory=accessory,
        ahoge=rng.random() < 0.3,
        shirt=rng.choice(list(SHIRT)),
    )


def render(scene: Scene) -> Rendering:
    """Paint a scene. Figures are painted from left to right, so the right one is in front where they overlap."""
    size = (WIDTH * SUPERSAMPLE, HEIGHT * SUPERSAMPLE)
    canvas = Image.new("RGB", size, BACKGROUND[scene.background])
    marks = Image.new("L", size, 0)
    for figure, where in zip(scene.figures, scene.places, strict=True):
        _Painter(canvas, marks, where).figure(figure)
    image = canvas.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    detail = np.asarray(marks.resize((WIDTH, HEIGHT), Image.Resampling.BOX), dtype=np.float32) / 255
    return Rendering(image, detail)


@cache
def _darker(colour: RGB, by: float = 0.55) -> RGB:
    return tuple(int(c * by + line * (1 - by) * 0.6) for c, line in zip(colour, LINE, strict=True))  # type: ignore[return-value]


class _Painter:
    """Paints one figure; its own coordinates have the head centre at (0, 0) and the head's radius near 9."""

    def __init__(self, canvas: Image.Image, marks: Image.Image, where: Place) -> None:
        self._draw = ImageDraw.Draw(canvas)
        self._marks = ImageDraw.Draw(marks)
        self._where = where

    def figure(self, figure: Figure) -> None:
        hair = HAIR[figure.hair]
        self._back_hair(figure.style, hair)
        self._body(SHIRT[figure.shirt])
        self._tails(figure.style, hair)
        self._head(figure, hair)
        if figure.ahoge:
            self._ahoge(hair)
        if figure.accessory is not None:
            kind, colour = figure.accessory
            if kind == "ribbon":
                self._ribbon(ACCESSORY[colour])
            else:
                self._scrunchies(figure.style, ACCESSORY[colour])

    def _xy(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        w = self._where
        return [((w.x + x * w.size) * SUPERSAMPLE, (w.y + y * w.size) * SUPERSAMPLE) for x, y in points]

    def _polygon(self, points: Sequence[tuple[float, float]], fill: RGB, *, mark: bool = False) -> None:
        outline = self._xy(points)
        self._draw.polygon(outline, fill=fill, outline=_darker(fill), width=2)
        if mark:
            self._marks.polygon(outline, fill=255)

    def _ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: RGB, *, mark: bool = False, line: bool = True
    ) -> None:
        (left, top), (right, bottom) = self._xy([(x - rx, y - ry), (x + rx, y + ry)])
        box = (left, top, right, bottom)
        self._draw.ellipse(box, fill=fill, outline=_darker(fill) if line else None, width=2)
        if mark:
            self._marks.ellipse(box, fill=255)

    def _back_hair(self, style: str, hair: RGB) -> None:
        if style == "long hair":
            self._polygon(
                [(-10.6, -2), (-11.6, 12), (-12.6, 31), (-7, 33), (7, 33), (12.6, 31), (11.6, 12), (10.6, -2)], hair
            )
        elif style == "short hair":
            self._polygon([(-10.6, -2), (-11.2, 6), (-8.5, 11), (8.5, 11), (11.2, 6), (10.6, -2)], hair)

    def _tails(self, style: str, hair: RGB) -> None:
        tail = [(-8, -6), (-12.5, -7), (-15.4, -2), (-15.8, 9), (-13.2, 19), (-10.8, 11), (-9.8, 2)]
        if style in ("side ponytail", "twintails"):
            self._polygon(tail, hair)
        if style == "twintails":
            self._polygon([(-x, y) for x, y in tail], hair)

    def _body(self, shirt: RGB) -> None:
        self._polygon([(-2.4, 8), (2.4, 8), (2.4, 13), (-2.4, 13)], SKIN)
        self._polygon([(-5, 12), (5, 12), (9.4, 17), (10.2, 42), (-10.2, 42), (-9.4, 17)], shirt)

    def _head(self, figure: Figure, hair: RGB) -> None:
        self._ellipse(0, -1.6, 10.4, 10.6, hair)
        self._ellipse(0, 2, 8.4, 8, SKIN, line=False)
        fringe = [(-9.6, 2.4), (-9.4, -5), (0, -10.4), (9.4, -5), (9.6, 2.4), (7.4, -2.2), (3.6, -0.8), (0, -2.2)]
        self._polygon([*fringe, (-3.6, -0.8), (-7.4, -2.2)], hair)
        for side in (-1, 1):
            self._ellipse(side * 4.1, 3.6, 2.2, 3.0, EYES[figure.eyes], mark=True)
            self._ellipse(side * 4.1 + 0.7, 2.2, 0.7, 0.7, (255, 255, 255), line=False)
        self._ellipse(0, 8, 1.5, 0.7, MOUTH, line=False)

    def _ahoge(self, hair: RGB) -> None:
        self._polygon([(-2.2, -11), (-1.6, -16), (2.4, -20), (7, -18.6), (2.6, -16.4), (2, -11)], hair, mark=True)

    def _ribbon(self, colour: RGB) -> None:
        self._polygon([(7, -9), (2.2, -13), (2.2, -5.4)], colour, mark=True)
        self._polygon([(7, -9), (11.8, -13), (11.8, -5.4)], colour, mark=True)
        self._ellipse(7, -9.1, 1.5, 1.7, colour, mark=True)

    def _scrunchies(self, style: str, colour: RGB) -> None:
        for side in (-1, 1) if style == "twintails" else (-1,):
            self._ellipse(side * 10.6, -5.4, 2.7, 3.3, colour, mark=True)
