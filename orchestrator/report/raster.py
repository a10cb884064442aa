"""The page's charts as PNG: the shapes that `element` writes, painted with Pillow on white paper.

Only what the charts use is known: line, rect, circle, polyline, polygon, paths of M, L, H, V, l, h, z, text, fills of
patterns. A picture is painted at several times its size and reduced, which makes its edges smooth.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import hypot
from typing import Any
from xml.etree import ElementTree

from PIL import Image, ImageDraw, ImageFont

from orchestrator.core.study import COUNTED_KINDS
from orchestrator.report.frame import text
from orchestrator.report.markup import Markup, element

OVER = 3
"""Times the final size that is painted."""
PAPER, INK, SOFT, LINE, MID, STRONG = "#ffffff", "#1d1c1a", "#5c5953", "#d8d4cc", "#8f8a82", "#17457c"
SPELT = str.maketrans({"\u00a0": " ", "–": "-", "−": "-", "…": "..."})
"""Signs that Pillow's own font lacks."""
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Style:
    """How a shape is painted; None leaves fill or stroke out."""

    fill: str | None = None
    stroke: str | None = None
    width: float = 1.0
    dash: tuple[float, ...] = ()
    opacity: float = 1.0
    bold: bool = False
    halo: bool = False


STYLES: Mapping[str, Style] = {
    "axis": Style(stroke=INK, width=1.2),
    "grid": Style(stroke=LINE),
    "whisker": Style(stroke=INK, width=1.4),
    "dot": Style(fill=INK),
    "curve": Style(stroke=INK, width=1.6),
    "smooth": Style(stroke=INK, width=2.2),
    "ribbon": Style(fill=MID, opacity=0.22),
    "other": Style(stroke=SOFT, width=1.2),
    "other-0": Style(dash=(2, 3)),
    "other-1": Style(dash=(9, 3)),
    "other-2": Style(dash=(9, 3, 2, 3)),
    "other-3": Style(dash=(1, 5)),
    "adopted": Style(fill=STRONG, stroke=PAPER, width=2),
    "fresh": Style(fill=PAPER, stroke=INK, width=2),
    "leader": Style(stroke=STRONG, width=1.4, dash=(1, 3)),
    "band": Style(stroke=MID),
    "bar": Style(stroke=INK),
    "onset": Style(stroke=INK, width=1.2, dash=(2, 2)),
    "flag-shape": Style(fill=INK),
    "reach": Style(stroke=INK, width=3),
    "bracket": Style(stroke=INK, width=1.6),
    "shade": Style(fill=INK),
    "outline": Style(stroke=MID),
    "framed": Style(stroke=STRONG, width=2.5),
    "who": Style(stroke=INK, width=1.7),
    "who-1": Style(dash=(7, 3)),
    "who-2": Style(dash=(2, 3)),
    "who-3": Style(dash=(9, 3, 2, 3)),
    "who-4": Style(dash=(1, 5)),
    "tie": Style(stroke=MID),
    "point": Style(fill=INK, stroke=PAPER),
    "hollow": Style(fill=PAPER, stroke=INK, width=1.6),
    "soft": Style(fill=SOFT),
    "strong": Style(bold=True),
    "halo": Style(bold=True, halo=True),
    "on-dark": Style(fill=PAPER),
}
"""By class, as the page's style sheet has them in its light theme."""


HEAD, LEGEND = 30, 28
"""Room above a chart for its title, and below it for the patterns it uses."""


def png(chart: Markup) -> bytes:
    """A chart as PNG bytes with its title and the patterns it uses: as many pixels as its units, twice over."""
    root = ElementTree.fromstring(chart)
    _, _, width, height = (float(v) for v in root.attrib["viewBox"].split())
    kinds = [kind for kind in COUNTED_KINDS if f"url(#{kind})" in chart]
    painter = Painter(round(width), round(height) + HEAD + (LEGEND if kinds else 0))
    title = root.attrib["aria-label"].partition(":")[0]
    painter.paint(_made(text(14, 20, title, "start", "strong")), quiet=False)
    painter.move_down(HEAD)
    for node in root:
        painter.paint(node, quiet=False)
    x = 46.0
    for kind in kinds:
        box = element("rect", x=x, y=height + 4, width=19, height=13, class_="bar", fill=f"url(#{kind})")
        painter.paint(_made(box), quiet=False)
        painter.paint(_made(text(x + 25, height + 15, kind, "start")), quiet=False)
        x += 44 + 7.5 * len(kind)
    stream = io.BytesIO()
    painter.finished().save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _made(shape: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(shape)


class Painter:
    """Paints one node after another. Units are those of the chart; `_scale` pixels each."""

    def __init__(self, width: int, height: int) -> None:
        self._scale, self._size = 2 * OVER, (2 * width, 2 * height)
        self._image = Image.new("RGB", (width * self._scale, height * self._scale), PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._down = 0.0

    def move_down(self, units: float) -> None:
        """Paint what follows so much lower."""
        self._down = units

    def finished(self) -> Image.Image:
        """The picture at its final size."""
        return self._image.resize(self._size, Image.Resampling.BOX)

    def paint(self, node: ElementTree.Element, *, quiet: bool) -> None:
        """A shape, or a group of them."""
        style = _style(node, quiet=quiet)
        match node.tag:
            case "g":
                for child in node:
                    self.paint(child, quiet=quiet or "quiet" in node.get("class", ""))
            case "line":
                x1, y1, x2, y2 = (float(node.attrib[k]) for k in ("x1", "y1", "x2", "y2"))
                self._stroke([(x1, y1), (x2, y2)], style)
            case "rect":
                self._rect(node, style)
            case "circle":
                self._circle(node, style)
            case "polyline" | "polygon":
                points = [_point(pair) for pair in node.attrib["points"].split()]
                self._outline(points, style, closed=node.tag == "polygon")
            case "path":
                points, closed = _path(node.attrib["d"])
                self._outline(points, style, closed=closed)
            case "text":
                self._text(node, style)
            case "title":
                pass
            case _:
                raise ValueError(f"no chart holds a {node.tag}")

    def _rect(self, node: ElementTree.Element, style: Style) -> None:
        x, y, width, height = (float(node.attrib[k]) for k in ("x", "y", "width", "height"))
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        if (fill := node.get("fill", "")).startswith("url(#"):
            self._pattern(fill[5:-1], (x, y, x + width, y + height))
        self._outline(corners, style, closed=True)

    def _circle(self, node: ElementTree.Element, style: Style) -> None:
        x, y, r = (float(node.attrib[k]) for k in ("cx", "cy", "r"))
        box = self._pixels([(x - r, y - r), (x + r, y + r)])
        self._draw.ellipse(box, style.fill, style.stroke, round(style.width * self._scale) if style.stroke else 0)

    def _outline(self, points: Sequence[Point], style: Style, *, closed: bool) -> None:
        if style.fill is not None:
            self._fill(points, style)
        if style.stroke is not None:
            self._stroke([*points, points[0]] if closed else points, style)

    def _fill(self, points: Sequence[Point], style: Style) -> None:
        scaled = self._pixels(points)
        if style.opacity >= 1:
            self._draw.polygon(scaled, style.fill)
            return
        left, top = (int(min(p[axis] for p in scaled)) for axis in (0, 1))
        right, bottom = (int(max(p[axis] for p in scaled)) + 1 for axis in (0, 1))
        mask = Image.new("L", (right - left, bottom - top), 0)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in scaled], round(255 * style.opacity))
        self._image.paste(Image.new("RGB", mask.size, style.fill), (left, top), mask)

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._scale, (y + self._down) * self._scale) for x, y in points]

    def _stroke(self, points: Sequence[Point], style: Style) -> None:
        width = max(1, round(style.width * self._scale))
        for dash in _dashes(points, style.dash):
            self._draw.line(self._pixels(dash), style.stroke, width, joint="curve")

    def _pattern(self, name: str, box: tuple[float, float, float, float]) -> None:
        """The patterns of `frame.patterns`, 8 units wide, in this box."""
        size = (round((box[2] - box[0]) * self._scale), round((box[3] - box[1]) * self._scale))
        if min(size) < 1:
            return
        tile = _tile(name, 8 * self._scale)
        corner = (round(box[0] * self._scale), round((box[1] + self._down) * self._scale))
        piece = Image.new("RGBA", size)
        for left in range(-(corner[0] % tile.width), size[0], tile.width):
            for top in range(-(corner[1] % tile.height), size[1], tile.height):
                piece.paste(tile, (left, top))
        self._image.paste(piece, corner, piece)

    def _text(self, node: ElementTree.Element, style: Style) -> None:
        words = (node.text or "").translate(SPELT)
        font = _font(13 * self._scale)
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[node.get("text-anchor", "start")]
        (at,) = self._pixels([(float(node.attrib["x"]), float(node.attrib["y"]))])
        fill = style.fill or INK
        # The font comes in one weight: bold is a stroke of the same colour.
        bold = round(0.35 * self._scale) if style.bold else 0
        if style.halo:
            self._draw.text(at, words, PAPER, font, anchor, stroke_width=round(2.4 * self._scale))
        self._draw.text(at, words, fill, font, anchor, stroke_width=bold, stroke_fill=fill)


def _style(node: ElementTree.Element, *, quiet: bool) -> Style:
    found: dict[str, Any] = {}
    for name in node.get("class", "").split():
        known = STYLES.get(name, Style())
        default = Style()
        found |= {k: getattr(known, k) for k in Style.__slots__ if getattr(known, k) != getattr(default, k)}
    style = Style(**found)
    if "fill-opacity" in node.attrib:
        style = replace(style, opacity=float(node.attrib["fill-opacity"]))
    if quiet and "whisker" in node.get("class", ""):
        style = replace(style, stroke=MID, width=1.0)
    return style


def _point(pair: str) -> Point:
    x, y = pair.split(",")
    return float(x), float(y)


def _path(d: str) -> tuple[list[Point], bool]:
    """The points of a path of one piece, and whether it is closed."""
    points: list[Point] = []
    for command, numbers in re.findall(r"([MLHVlhz])([^MLHVlhz]*)", d):
        values = [float(v) for v in re.findall(r"-?\d+\.?\d*", numbers)]
        x, y = points[-1] if points else (0.0, 0.0)
        match command:
            case "M" | "L":
                points.append((values[0], values[1]))
            case "H":
                points.append((values[0], y))
            case "V":
                points.append((x, values[0]))
            case "l":
                points.append((x + values[0], y + values[1]))
            case "h":
                points.append((x + values[0], y))
    return points, d.endswith("z")


def _dashes(points: Sequence[Point], dash: Sequence[float]) -> Iterator[list[Point]]:
    """The line in pieces as long as `dash` says, drawn and left out in turn."""
    if not dash:
        yield list(points)
        return
    left, number, piece = dash[0], 0, [points[0]]
    for (x, y), (to_x, to_y) in pairwise(points):
        length, gone = hypot(to_x - x, to_y - y), 0.0
        while length - gone > left:
            gone += left
            at = (x + (to_x - x) * gone / length, y + (to_y - y) * gone / length)
            if number % 2 == 0:
                yield [*piece, at]
            number += 1
            piece, left = [at], dash[number % len(dash)]
        left -= length - gone
        piece.append((to_x, to_y))
    if number % 2 == 0 and len(piece) > 1:
        yield piece


@lru_cache(maxsize=16)
def _tile(name: str, side: int) -> Image.Image:
    """One tile of a pattern, with nothing where the paper shows through."""
    ground = {"absorbed": INK, "drift": MID, "band": None}.get(name, PAPER)
    tile = Image.new("RGBA", (side, side), ground or (0, 0, 0, 0))
    draw, unit = ImageDraw.Draw(tile), side / 8
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]] = {
        "migrated": ((-2, 2, 2, -2), (0, 8, 8, 0), (6, 10, 10, 6)),
        "duplicated": ((0, 0, 8, 8), (0, 8, 8, 0)),
        "count": ((0, 2, 8, 2), (0, 6, 8, 6)),
        "band": ((-2, 2, 2, -2), (0, 8, 8, 0), (6, 10, 10, 6)),
    }
    for line in lines.get(name, ()):
        draw.line([v * unit for v in line], LINE if name == "band" else INK, round(1.4 * unit))
    if name == "drift":
        for x, y in ((2, 2), (6, 6)):
            draw.ellipse([v * unit for v in (x - 1.6, y - 1.6, x + 1.6, y + 1.6)], PAPER)
    return tile


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that figures look the same everywhere."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
