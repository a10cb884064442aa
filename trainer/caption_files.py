"""Caption files beside pictures: text, or JSON whose fields say which tags belong together.

`a.png` has its caption in `a.txt`, `a.caption` or `a.json`. JSON captions are those of AnimaLoraToolkit: quality,
count, character, series and artist come first and stay in place; appearance, tags and environment are groups that are
shuffled within themselves; `nl`, sentences, comes last. `caption` or `captions` (a list) hold plain text instead.
Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import CaptionKind

FIXED = ("quality", "count", "character", "series", "artist")
GROUPS = ("appearance", "tags", "environment")
SENTENCES = "nl"


class FaultyCaption(Exception):
    """A caption that cannot be trained on; `fix` says what to do about it."""

    def __init__(self, file: Path, what: str, fix: str) -> None:
        super().__init__(what)
        self.file, self.what, self.fix = file, what, fix


@dataclass(frozen=True, slots=True)
class Sections:
    """A caption whose file says what belongs together: tags in place, groups of tags, and sentences after them."""

    fixed: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    sentences: str


@dataclass(frozen=True, slots=True)
class Caption:
    """What a file says of a picture. `text` is all of it, in order; `sections` only where the file has them."""

    text: str
    sections: Sections | None = None


def caption_file(picture: Path, kinds: Sequence[CaptionKind]) -> Path | None:
    """The preferred caption file of a picture that exists."""
    files = (picture.with_suffix(f".{kind}") for kind in kinds)
    return next((file for file in files if file.is_file()), None)


def read_captions(file: Path, *, each_line: bool) -> tuple[Caption, ...]:
    """The captions of one file, at least one, none empty. Raises FaultyCaption naming the file."""
    try:
        # With a byte order mark or without.
        text = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise FaultyCaption(file, "caption is not UTF-8 text", "save it as UTF-8") from error
    captions = _from_json(file, text) if file.suffix == ".json" else [Caption(text)]
    if each_line:
        captions = [part for caption in captions for part in _lines(caption)]
    captions = [caption for caption in captions if caption.text]
    if not captions:
        raise FaultyCaption(file, "empty caption", "describe the picture")
    return tuple(captions)


def tags_of(text: str) -> tuple[str, ...]:
    """The parts between commas, without space around them, none empty."""
    return tuple(tag for part in text.split(",") if (tag := part.strip()))


def _lines(caption: Caption) -> list[Caption]:
    if caption.sections is not None:
        return [caption]
    return [Caption(line.strip()) for line in caption.text.splitlines()]


def _from_json(file: Path, text: str) -> list[Caption]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FaultyCaption(file, f"caption is not JSON ({error})", "mend it, or write a .txt") from error
    if isinstance(data, Mapping) and ("captions" in data or "caption" in data):
        texts = data.get("captions", data.get("caption"))
        return [Caption(said.strip()) for said in _strings(file, "captions", texts)]
    known = (*FIXED, *GROUPS, SENTENCES)
    if not isinstance(data, Mapping) or not any(key in data for key in known):
        raise FaultyCaption(file, "JSON without a caption", f"give `caption`, or some of {', '.join(known)}")
    return [_composed(file, data)]


def _composed(file: Path, data: Mapping[str, Any]) -> Caption:
    def tags(key: str) -> tuple[str, ...]:
        return tuple(tag for said in _strings(file, key, data.get(key)) for tag in tags_of(said))

    fixed = tuple(tag for key in FIXED for tag in tags(key))
    groups = tuple(group for key in GROUPS if (group := tags(key)))
    sentences = " ".join(said.strip() for said in _strings(file, SENTENCES, data.get(SENTENCES))).strip()
    listed = [*fixed, *(tag for group in groups for tag in group), *([sentences] if sentences else [])]
    return Caption(", ".join(listed), Sections(fixed, groups, sentences))


def _strings(file: Path, key: str, value: Any) -> list[str]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(said, str) for said in values):
        raise FaultyCaption(file, f"JSON caption whose `{key}` is neither text nor a list of texts", "mend it")
    return list(values)
