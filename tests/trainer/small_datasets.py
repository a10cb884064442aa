"""Datasets of plain pictures, on disk and in memory, for tests."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from trainer.caption_files import Caption
from trainer.config import DatasetConfig
from trainer.dataset import Dataset, Item, named_triggers, read_dataset
from trainer.pictures import Picture

TRIGGERS = ("kanachan", "keichan", "koharu")


def read(root: Path, **settings: object) -> Dataset:
    """The dataset of a folder, shown twice an epoch."""
    return read_dataset(root, DatasetConfig.model_validate({"repeats": 2, **settings}), TRIGGERS)


def put(folder: Path, name: str, caption: str | None, *, colour: str = "white", size: tuple[int, int] = (8, 8)) -> Path:
    """A plain picture with its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(folder / f"{name}.png")
    if caption is not None:
        (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    return folder / f"{name}.png"


def item(name: str, caption: str, *, repeats: int = 1, regularisation: bool = False) -> Item:
    """A picture that is nowhere on disk."""
    named = named_triggers(caption, TRIGGERS)
    return Item(name, Picture(name, 8, 8), (Caption(caption),), named, repeats, regularisation)


def dataset(*items: Item, repeats: int = 1) -> Dataset:
    """Items without files."""
    return Dataset(Path(), items, repeats)
