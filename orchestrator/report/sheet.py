"""Pictures on the page: each with its mark, its words, and a size that fits; the contact sheet puts them in a table.

Small pictures are embedded as they are and drawn with hard pixel edges; large ones become WebP thumbnails, and the
enlarged view links to the file itself.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from orchestrator.core.errors import ConfigError
from orchestrator.core.layout import Layout
from orchestrator.core.study import FINDING_KINDS, Choice
from orchestrator.report.markup import Markup, element
from orchestrator.report.shot import Shot
from orchestrator.report.wording import OUTCOME_WORDS

EMBED_AS_IS = 24_000
"""Bytes up to which a PNG goes into the page unchanged."""
PIXEL_ART = 128
"""Pictures at most this wide are enlarged with hard pixel edges."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An embedded picture: a data URI and the size of the original in pixels."""

    uri: str
    width: int
    height: int


def thumbnail(path: Path, longest: int) -> Thumbnail | None:
    """The picture at `path`, at most `longest` pixels along its longer side; None when it cannot be read."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if len(data) <= EMBED_AS_IS and image.format == "PNG":
                image.verify()
                return Thumbnail(_uri("png", data), width, height)
            small = image.convert("RGB")
    except (OSError, SyntaxError, UnidentifiedImageError):
        return None
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=80, method=4)
    return Thumbnail(_uri("webp", stream.getvalue()), width, height)


def mark(shot: Shot) -> Markup:
    """A filled round check for a pass, a square cross for a fail, a dashed `?` for neither: shape first, never hue."""
    outcome = shot.outcome
    symbol = element("use", href=f"#mark-{outcome or 'none'}")
    title = element("title", OUTCOME_WORDS[outcome])
    return element(
        "svg", title, symbol, viewBox="0 0 24 24", class_="mark", role="img", aria_label=OUTCOME_WORDS[outcome]
    )


def picture(shot: Shot, layout: Layout, *, longest: int, named: str) -> Markup:
    """One picture as a button: the image, its mark, and the outcome in words. `named` says which picture it is."""
    said = element("span", mark(shot), " ", _short_words(shot), class_="said")
    try:
        path = layout.resolve(shot.sample.image)
        small = thumbnail(path, longest)
    except ConfigError:
        path, small = None, None
    if path is None or small is None:
        gone = "its recorded path leaves the study" if path is None else "its file cannot be read"
        return element("div", element("span", gone, class_="gone"), said, class_="shot", title=words(shot, named))
    image = element(
        "img",
        src=small.uri,
        width=small.width,
        height=small.height,
        alt=f"{named}: {OUTCOME_WORDS[shot.outcome]}",
        loading="lazy",
        class_="pixels" if small.width <= PIXEL_ART else None,
    )
    return element(
        "button",
        image,
        said,
        type="button",
        class_="shot",
        title=words(shot, named),
        data_outcome=shot.outcome or "none",
        data_kinds=" ".join(shot.kinds) or None,
        data_file=None if small.width <= PIXEL_ART else shot.sample.image,
    )


def words(shot: Shot, named: str) -> str:
    """Everything that was said of a picture, one statement per line."""
    lines = [f"{named}: {OUTCOME_WORDS[shot.outcome]}"]
    if shot.verdict:
        lines += [f.sentence() for f in shot.verdict.findings]
        if shot.verdict.reason:
            lines.append(shot.verdict.reason)
        lines += [f"seen {place}: {seen}" for place, seen in _places(shot.verdict.seen)]
    return "\n".join(lines)


def contact_sheet(shots: Sequence[Shot], seeds: Sequence[int], choice: Choice | None, layout: Layout) -> Markup:
    """Rows are epochs, columns are seeds; the adopted epoch's row is framed and says so."""
    by_place = {(s.cell.epoch, s.cell.seed): s for s in shots}
    head = [element("th", "epoch", scope="col", class_="corner")]
    head += [element("th", element("span", "seed ", class_="soft"), element("b", s), scope="col") for s in seeds]
    rows = []
    for epoch in sorted({s.cell.epoch for s in shots}):
        adopted = choice is not None and choice.epoch == epoch
        row = [s for s in shots if s.cell.epoch == epoch]
        cells = [element("th", *_row_label(epoch, row, adopted=adopted), scope="row")]
        for seed in seeds:
            shot = by_place.get((epoch, seed))
            named = f"epoch {epoch}, seed {seed}"
            inside = picture(shot, layout, longest=192, named=named) if shot else _not_drawn()
            cells.append(element("td", inside))
        rows.append(element("tr", *cells, class_="adopted" if adopted else None))
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows), class_="sheet")
    return element("div", table, class_="scroll", tabindex=0)


def gallery(shots: Sequence[Shot], layout: Layout) -> Markup:
    """Pictures side by side, larger than in the sheet."""
    several = len({s.cell.prompt.name for s in shots}) > 1
    shown = []
    for shot in shots:
        seed = f"{'fresh seed' if shot.cell.purpose == 'confirm' else 'seed'} {shot.cell.seed}"
        named = f"{seed}, prompt {shot.cell.prompt.name}" if several else seed
        shown.append(picture(shot, layout, longest=480, named=named))
    return element("div", *shown, class_="gallery")


def seed_strip(seed: int, shots: Sequence[Shot], layout: Layout) -> Markup:
    """One seed through training: its pictures side by side, epochs rising."""
    cells = []
    for shot in shots:
        named = f"epoch {shot.cell.epoch}, seed {seed}"
        inside = picture(shot, layout, longest=192, named=named)
        cells.append(element("td", element("span", f"epoch {shot.cell.epoch}", class_="soft caption"), inside))
    row = element("tr", element("th", "seed ", element("b", seed), scope="row"), *cells)
    table = element("table", element("tbody", row), class_="sheet strip")
    return element("div", table, class_="scroll", tabindex=0)


def mark_legend(shots: Iterable[Shot]) -> Markup:
    """The marks that occur among these pictures, with how often they do."""
    counts = Counter(s.outcome for s in shots)
    items = []
    for outcome, said in OUTCOME_WORDS.items():
        if counts[outcome]:
            symbol = element("use", href=f"#mark-{outcome or 'none'}")
            shape = element("svg", symbol, viewBox="0 0 24 24", class_="mark", aria_hidden="true")
            items.append(element("li", shape, f"{counts[outcome]} {said}"))
    return element("ul", *items, class_="marks")


def picture_filter(shots: Sequence[Shot]) -> Markup:
    """Choices that fade all pictures but the failed ones, or those with one kind of finding."""
    present = [k for k in FINDING_KINDS if any(k in s.kinds for s in shots)]
    choices = {"only-all": "all", "only-fail": "failed", **{f"only-{k}": k for k in present}}
    labels = []
    for name, label in choices.items():
        button = element("input", type="radio", name="only", id=name, checked=name == "only-all")
        labels.append(element("label", button, label))
    return element("fieldset", element("span", "show ", class_="soft"), *labels, class_="filter")


def symbols() -> list[Markup]:
    """The marks, to stand once in the page."""
    ring = '<circle cx="12" cy="12" r="11.5" class="halo"/>'
    square = '<rect x="0.5" y="0.5" width="23" height="23" class="halo"/>'
    dashed = '<circle cx="12" cy="12" r="9" class="dashed"/>'
    drawn = {
        "pass": f'{ring}<circle cx="12" cy="12" r="9.5" class="ink"/><path d="M7 12.5l3.5 3.5L17 8.5" class="check"/>',
        "fail": f'{square}<rect x="3" y="3" width="18" height="18" class="box"/>'
        '<path d="M7 7L17 17M17 7L7 17" class="cross"/>',
        "unscored": f'{ring}{dashed}<path d="M9 9.5a3 3 0 1 1 4 2.8q-1 .5 -1 2M12 17v.2" class="query"/>',
        "none": f"{ring}{dashed}",
    }
    return [element("symbol", Markup(svg), id=f"mark-{name}", viewBox="0 0 24 24") for name, svg in drawn.items()]


def _short_words(shot: Shot) -> str:
    if shot.outcome == "pass":
        return "pass"
    if shot.outcome == "fail":
        return ", ".join(shot.kinds) or "fail"
    return "unscored" if shot.outcome == "unscored" else "not judged"


def _row_label(epoch: int, row: Sequence[Shot], *, adopted: bool) -> list[Markup]:
    outcomes = [s.outcome for s in row]
    scored = outcomes.count("pass") + outcomes.count("fail")
    said = f"{outcomes.count('pass')} of {scored}" if scored else "–"
    if scored and row[0].cell.prompt.calls_nobody:
        said = f"leak in {outcomes.count('fail')} of {scored}"
    label = [element("b", epoch), element("span", said, class_="count")]
    return [*label, element("span", "adopted", class_="flag")] if adopted else label


def _not_drawn() -> Markup:
    return element("div", "not drawn", class_="empty")


def _places(seen: Sequence[str]) -> list[tuple[str, str]]:
    """Who was seen where, from left to right."""
    names = {1: ("",), 2: ("left", "right"), 3: ("left", "centre", "right")}
    places = names.get(len(seen)) or tuple(f"at place {i}" for i in range(1, len(seen) + 1))
    return list(zip(places, seen, strict=True))


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
