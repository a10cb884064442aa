"""Read a dataset folder: every picture with its caption, checked before anything is trained on it. Torch-free.

A picture `a.png` has its caption in `a.txt` beside it. Every caption names at least one trigger of the cast; those
it names tell whose picture it is (solo, pair, trio).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from orchestrator.core.errors import DatasetError
from orchestrator.core.identity import digest, file_sha256
from trainer.config import DatasetConfig

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True, slots=True)
class Item:
    """One picture: its file relative to the root, its caption, and whose triggers the caption names, in order."""

    file: str
    sha256: str
    caption: str
    triggers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """All pictures of a folder in name order, each shown `repeats` times per epoch."""

    root: Path
    items: tuple[Item, ...]
    repeats: int

    def __len__(self) -> int:
        return len(self.items)

    @property
    def sha256(self) -> str:
        """Identity of the content: pictures and captions, whatever their files are called, and the repeats."""
        rows = sorted((item.sha256, item.caption) for item in self.items)
        return digest({"items": rows, "repeats": self.repeats}, length=64)

    @property
    def counts(self) -> Mapping[tuple[str, ...], int]:
        """Pictures per set of triggers, e.g. {("kanachan",): 16, ("kanachan", "keichan"): 8}."""
        return Counter(tuple(sorted(item.triggers)) for item in self.items)


def steps_per_epoch(images: int, repeats: int, batch: int, grad_accum: int) -> int:
    """Optimizer steps of one epoch; a last, smaller step takes what does not fill a whole one."""
    return -(-images * repeats // (batch * grad_accum))


def named_triggers(caption: str, triggers: Sequence[str]) -> tuple[str, ...]:
    """The triggers a caption names as whole words, in the order they stand there."""
    found = {t: re.search(rf"(?<!\w){re.escape(t)}(?!\w)", caption) for t in triggers}
    return tuple(sorted((t for t, m in found.items() if m), key=lambda t: found[t].start()))  # type: ignore[union-attr]


def read_dataset(root: Path, config: DatasetConfig, triggers: Sequence[str]) -> Dataset:
    """Read and check a whole folder. Raises DatasetError with every fault's file; one line, the first few named."""
    if not root.is_dir():
        raise DatasetError("there is no such folder", where=str(root), fix="set dataset.root to the pictures' folder")
    pictures = sorted(p for p in root.rglob("*") if p.suffix.lower() in PICTURES and not p.name.startswith("."))
    captions = {p.with_suffix("") for p in root.rglob("*.txt") if not p.name.startswith(".")}
    if not pictures:
        raise DatasetError("no pictures", where=str(root), fix=f"expected {', '.join(sorted(PICTURES))}")
    stems = [p.with_suffix("") for p in pictures]
    _complain(
        root,
        [p for p in pictures if p.with_suffix("") not in captions],
        "without a caption",
        "write a .txt of the same name",
    )
    _complain(
        root,
        [s.with_suffix(".txt") for s in sorted(captions - set(stems))],
        "without its picture",
        "put the picture back, or remove the caption",
    )
    twice = [p for p, stem in zip(pictures, stems, strict=True) if stems.count(stem) > 1]
    _complain(root, twice, "sharing one caption", "give each picture its own name")
    items = tuple(_read_item(root, picture, triggers) for picture in pictures)
    _complain(
        root,
        [root / i.file for i in items if not i.triggers],
        "whose caption names no trigger",
        f"write one of {', '.join(triggers)} into the caption",
    )
    return Dataset(root, items, config.repeats)


def _read_item(root: Path, picture: Path, triggers: Sequence[str]) -> Item:
    try:
        with Image.open(picture) as image:
            image.verify()
        # `verify` reads the structure only; a truncated picture shows when its pixels are decoded.
        with Image.open(picture) as image:
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DatasetError(
            f"unreadable picture ({error})", where=str(picture), fix="replace the file, or remove it with its caption"
        ) from error
    try:
        caption = picture.with_suffix(".txt").read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise DatasetError(
            "caption is not UTF-8 text", where=str(picture.with_suffix(".txt")), fix="save it as UTF-8"
        ) from error
    if not caption:
        raise DatasetError("empty caption", where=str(picture.with_suffix(".txt")), fix="describe the picture")
    return Item(picture.relative_to(root).as_posix(), file_sha256(picture), caption, named_triggers(caption, triggers))


def _complain(root: Path, files: Sequence[Path], what: str, fix: str) -> None:
    if files:
        named = ", ".join(str(f.relative_to(root)) for f in files[:3])
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        pictures = "file" if len(files) == 1 else "files"
        raise DatasetError(f"{len(files)} {pictures} {what}: {named}{more}", where=str(root), fix=fix)
