"""Read a dataset: every picture with its captions, checked before anything is trained on it. Torch-free.

A picture's captions name at least one trigger of the cast; those they name tell whose picture it is (solo, pair, trio).
Pictures of regularisation folders name nobody. What is wrong is said in one line per file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anima.sources.folders import bring, is_remote, local_folder
from orchestrator.core.errors import DatasetError, MissingError
from orchestrator.core.identity import digest
from trainer.caption_files import Caption, FaultyCaption, caption_file, read_captions
from trainer.config import DatasetConfig, FolderConfig
from trainer.pictures import SUFFIXES, FaultyPicture, Picture, inspect

_REPEATS = re.compile(r"(\d+)_.")
"""kohya's folder names: repeats, then anything."""
_PEOPLE = {"solo": 1, "pair": 2, "trio": 3}


@dataclass(frozen=True, slots=True)
class Item:
    """One picture: its file (relative to the root where it is below it), its captions, whose triggers they name."""

    file: str
    picture: Picture
    captions: tuple[Caption, ...]
    triggers: tuple[str, ...]
    """In the order of the first caption."""
    repeats: int = 1
    """On top of the dataset's own."""
    regularisation: bool = False

    @property
    def sha256(self) -> str:
        """Hash of the picture's bytes."""
        return self.picture.sha256

    @property
    def caption(self) -> str:
        """The first caption, whole."""
        return self.captions[0].text

    def identity(self) -> list[object]:
        """What changes its training, as plain data; a plain picture is its hash and caption."""
        said: list[object] = [
            caption.text
            if caption.sections is None
            else [list(caption.sections.fixed), [list(g) for g in caption.sections.groups], caption.sections.sentences]
            for caption in self.captions
        ]
        if self.repeats == 1 and not self.regularisation and len(said) == 1:
            return [self.sha256, said[0]]
        return [self.sha256, said, self.repeats, self.regularisation]


@dataclass(frozen=True, slots=True)
class Dataset:
    """All pictures in name order, folder by folder, each shown `repeats` times per epoch and by its own factor."""

    root: Path
    items: tuple[Item, ...]
    repeats: int
    skipped: tuple[str, ...] = ()
    """One line for each picture that was left out, and why."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Files that are neither pictures nor captions, by suffix."""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def sha256(self) -> str:
        """Identity of the content: pictures, captions and repeats, whatever the files are called."""
        rows = sorted((item.identity() for item in self.items), key=repr)
        return digest({"items": rows, "repeats": self.repeats}, length=64)

    @property
    def counts(self) -> Mapping[tuple[str, ...], int]:
        """Pictures per set of triggers, e.g. {("kanachan",): 16, ("kanachan", "keichan"): 8}."""
        return Counter(tuple(sorted(item.triggers)) for item in self.items)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that was found, not opened yet."""

    file: Path
    folder: FolderConfig
    repeats: int


@dataclass(frozen=True, slots=True)
class Told:
    """What the first caption of a picture says, and whom it names."""

    triggers: tuple[str, ...]
    caption: str
    repeats: int


def steps_per_epoch(images: int, repeats: int, batch: int, grad_accum: int) -> int:
    """Optimizer steps of one epoch; a last, smaller step takes what does not fill a whole one."""
    return -(-images * repeats // (batch * grad_accum))


def named_triggers(caption: str, triggers: Sequence[str]) -> tuple[str, ...]:
    """The triggers a caption names as whole words, in the order they stand there."""
    found = {t: re.search(rf"(?<!\w){re.escape(t)}(?!\w)", caption) for t in triggers}
    return tuple(sorted((t for t, m in found.items() if m), key=lambda t: found[t].start()))  # type: ignore[union-attr]


def list_pictures(root: Path, config: DatasetConfig) -> list[Listed]:
    """Every picture file of the dataset, folder by folder in name order. Raises DatasetError for a missing folder."""
    return list(_list_files(root, config, SUFFIXES))


def read_dataset(root: Path, config: DatasetConfig, triggers: Sequence[str]) -> Dataset:
    """Read and check everything. Raises DatasetError with a line for every fault, unless `config.faulty` skips them."""
    listed = list_pictures(root, config)
    if not listed:
        raise DatasetError("no pictures", where=str(root), fix=f"expected {', '.join(sorted(SUFFIXES))}")
    faults: list[DatasetError] = []
    items: dict[str, Item] = {}
    stems = Counter(entry.file.with_suffix("") for entry in listed)
    for entry in listed:
        try:
            if stems[entry.file.with_suffix("")] > 1:
                raise FaultyPicture("another picture shares its name and caption", "give each its own name")
            item = _read_item(root, entry, config, triggers)
            if item.sha256 in items:
                raise FaultyPicture(f"the same picture as {items[item.sha256].file}", "keep one, and raise its repeats")
            items[item.sha256] = item
        except FaultyPicture as fault:
            faults.append(DatasetError(fault.what, where=str(entry.file), fix=fault.fix))
        except FaultyCaption as fault:
            faults.append(DatasetError(fault.what, where=str(fault.file), fix=fault.fix))
    faults += _captions_alone(root, config, stems)
    skipped = tuple(sorted(str(fault) for fault in faults))
    if faults and (config.faulty == "stop" or not items):
        raise faults[0] if len(faults) == 1 else DatasetError("\n".join(skipped))
    return Dataset(root, tuple(items.values()), config.repeats, skipped, _ignored(root, config))


def bring_dataset(config: DatasetConfig, *, tell: Callable[[str], None] = lambda _: None) -> None:
    """Fetch what of a dataset lies in an S3 store, unless it is here as it is there. Raises StudyError."""
    for address in (config.root, *(folder.path for folder in config.folders)):
        if is_remote(address):
            bring(address, tell=tell)


def read_all_captions(root: Path, config: DatasetConfig, triggers: Sequence[str]) -> list[Told]:
    """What the caption files say, as far as they can be read; pictures are not opened, nor need they be there."""
    told = {}
    for entry in _list_files(root, config, {f".{kind}" for kind in config.captions}):
        file = caption_file(entry.file, config.captions)
        if file is None or file in told:
            continue
        try:
            text = read_captions(file, each_line=config.caption_lines == "each")[0].text
        except FaultyCaption:
            # `run` names it; a plan counts what can be counted.
            continue
        told[file] = Told(named_triggers(text, triggers), text, entry.repeats)
    return list(told.values())


def _list_files(root: Path, config: DatasetConfig, suffixes: Collection[str]) -> Iterator[Listed]:
    for folder in config.folders or (FolderConfig(path="."),):
        place = root / local_folder(folder.path)
        if not place.is_dir():
            fix = "correct dataset.folders" if config.folders else "correct dataset.root"
            raise MissingError("there is no such folder", where=str(place), fix=fix)
        for file in sorted(p for p in place.rglob("*") if p.suffix.lower() in suffixes and _visible(p, place)):
            yield Listed(file, folder, folder.repeats * _named_repeats(file.relative_to(place)))


def _read_item(root: Path, entry: Listed, config: DatasetConfig, triggers: Sequence[str]) -> Item:
    picture = inspect(entry.file)
    file = caption_file(entry.file, config.captions)
    if file is None:
        names = " or ".join(entry.file.with_suffix(f".{kind}").name for kind in config.captions)
        raise FaultyPicture("without a caption", f"write {names}")
    captions = read_captions(file, each_line=config.caption_lines == "each")
    named = [named_triggers(caption.text, triggers) for caption in captions]
    if any(set(names) != set(named[0]) for names in named):
        raise FaultyCaption(file, "its captions name different characters", "name the same in each")
    _hold_to_folder(file, named[0], entry.folder, triggers)
    name = entry.file.relative_to(root) if entry.file.is_relative_to(root) else entry.file
    regularisation = entry.folder.role == "regularisation"
    return Item(name.as_posix(), picture, captions, named[0], entry.repeats, regularisation)


def _hold_to_folder(file: Path, named: tuple[str, ...], folder: FolderConfig, triggers: Sequence[str]) -> None:
    said = " and ".join(named) or "no trigger"
    if folder.role == "regularisation":
        if named:
            raise FaultyCaption(file, f"caption names {said} in a regularisation folder", "take the name out")
        return
    if not named:
        names = ", ".join(folder.cast or triggers)
        raise FaultyCaption(file, "caption names no trigger", f"write one of {names} into it")
    if folder.cast and set(named) != set(folder.cast):
        wanted = " and ".join(folder.cast)
        raise FaultyCaption(file, f"caption names {said}, not {wanted}", "mend it, or move the picture")
    if folder.role is not None and len(named) != _PEOPLE[folder.role]:
        raise FaultyCaption(file, f"caption names {said} in a {folder.role} folder", "mend it, or move the picture")


def _captions_alone(root: Path, config: DatasetConfig, stems: Mapping[Path, int]) -> Iterator[DatasetError]:
    """Caption files without a picture; JSON may be anything."""
    for place in _places(root, config):
        for kind in ("txt", "caption"):
            for file in sorted(place.rglob(f"*.{kind}")):
                if file.with_suffix("") not in stems and _visible(file, place):
                    fix = "put the picture back, or remove the caption"
                    yield DatasetError("caption without its picture", where=str(file), fix=fix)


def _ignored(root: Path, config: DatasetConfig) -> Mapping[str, int]:
    known = SUFFIXES | {".txt", ".caption", ".json"}
    files = (p for place in _places(root, config) for p in place.rglob("*") if p.is_file() and _visible(p, place))
    return Counter(p.suffix.lower() or p.name for p in files if p.suffix.lower() not in known)


def _places(root: Path, config: DatasetConfig) -> list[Path]:
    return [root / local_folder(folder.path) for folder in config.folders] or [root]


def _visible(file: Path, place: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(place).parts)


def _named_repeats(relative: Path) -> int:
    found = _REPEATS.match(relative.parts[0]) if len(relative.parts) > 1 else None
    return max(1, int(found[1])) if found else 1
