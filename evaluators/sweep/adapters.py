"""Adapters by epoch: what a study trained, or a folder of files that other trainers named. Torch-free.

    kanachan-000010.safetensors, kanachan.safetensors          sd-scripts and its relatives; the last has no number
    kanachan_epoch10.safetensors, kanachan_step500.safetensors AnimaLoraToolkit and many others
    epoch10/adapter_model.safetensors                          diffusion-pipe
    kanachan_000000500.safetensors                             ai-toolkit, by step
    epoch-0010/adapter.safetensors                             this project

Files that are numbered by step stand in a grid by their step. A last file without a number is known by its metadata; if
that is silent too, it is taken as the one after the last.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan
from pathlib import Path

from safetensors import SafetensorError, safe_open

from anima.commands.terminal import size
from evaluators.config import GridConfig
from orchestrator.core.errors import ConfigError, DamagedError, MissingError
from orchestrator.core.files import write_whole
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint

_NAMED = (
    re.compile(r"(?P<name>.*?)[-_. ]?(?P<unit>epoch|step)[-_. ]?(?P<number>\d+)", re.IGNORECASE),
    re.compile(r"(?P<name>.+)-(?P<number>\d{6})"),
    re.compile(r"(?P<name>.+)_(?P<step>\d{9})"),
)
WORTH_A_WORD = 2 << 30
"""Bytes that take seconds to read."""
_WHOLE_FOLDER = ("adapter", "adapter_model", "pytorch_lora_weights")


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """A file and what its name says. `number` is its epoch, or its step; None when it has none."""

    path: Path
    name: str
    number: int | None
    by_step: bool = False


def found_adapter(path: Path) -> FoundAdapter:
    """What the name of a file says, or that of its folder where every file is called the same."""
    in_folder = path.stem in _WHOLE_FOLDER
    stem = path.parent.name if in_folder else path.stem
    for pattern in _NAMED:
        if match := pattern.fullmatch(stem):
            parts = match.groupdict()
            by_step = bool(parts.get("step")) or (parts.get("unit") or "").lower() == "step"
            name = parts["name"] or (path.parent.parent if in_folder else path.parent).name
            return FoundAdapter(path, name, int(parts.get("number") or parts["step"]), by_step)
    return FoundAdapter(path, stem, None)


def folder_adapters(folder: Path, *, tell: Callable[[str], None] = lambda _: None) -> list[FoundAdapter]:
    """The adapters of a folder, each with its number, by name and number. `tell` hears what was guessed or left out.

    Raises MissingError where there are none, ConfigError where two have the same number.
    """
    if folder.is_file():
        raise MissingError("is a file", where=str(folder), fix="give the folder it is in")
    files = [*folder.glob("*.safetensors"), *(p for s in _WHOLE_FOLDER for p in folder.glob(f"*/{s}.safetensors"))]
    if not files:
        what = "holds no .safetensors" if folder.is_dir() else "there is no such folder"
        raise MissingError(what, where=str(folder), fix="give a folder of adapters, one per epoch")
    named: dict[str, list[FoundAdapter]] = defaultdict(list)
    for found in sorted((found_adapter(path) for path in files), key=lambda f: f.path):
        named[found.name].append(found)
    return [adapter for name in sorted(named) for adapter in _numbered(named[name], tell)]


def _numbered(found: list[FoundAdapter], tell: Callable[[str], None]) -> list[FoundAdapter]:
    """Those of one name, by number: by epoch where some are, and the last one with a number too."""
    epochs = [f for f in found if f.number is not None and not f.by_step]
    steps = [f for f in found if f.number is not None and f.by_step]
    if epochs and steps:
        tell(f"{len(steps)} files of {found[0].name} are numbered by step and left out; the others are by epoch")
    kept = sorted(epochs or steps, key=lambda f: f.number or 0)
    for last in (f for f in found if f.number is None):
        number = _epoch_within(last.path)
        if number is None or any(f.number == number for f in kept):
            why = "has no epoch in its name or metadata" if number is None else f"is a second one of epoch {number}"
            number = (kept[-1].number or 0) + 1 if kept else 1
            tell(f"{last.path.name} {why}: taken as epoch {number}")
        kept.append(FoundAdapter(last.path, last.name, number))
    for one, other in pairwise(kept):
        if one.number == other.number:
            raise ConfigError(
                f"{one.path.name} and {other.path.name} are both epoch {one.number}",
                where=str(one.path.parent),
                fix="move one of them away",
            )
    return sorted(kept, key=lambda f: f.number or 0)


def _epoch_within(path: Path) -> int | None:
    """The epoch that sd-scripts or this project wrote into a file."""
    try:
        with safe_open(path, framework="np") as file:
            said = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    number = said.get("ss_epoch") or said.get("epoch") or ""
    return int(number) if number.isdecimal() else None


def trained_checkpoints(layout: Layout) -> list[Checkpoint]:
    """What a study trained, by trial and epoch; their adapters are not read."""
    markers = sorted((layout.root / "trials").glob("*/epoch-*/adapter.json"))
    return [Checkpoint.from_json(json.loads(marker.read_text(encoding="utf-8"))) for marker in markers]


def selected(adapters: Sequence[FoundAdapter], grid: GridConfig) -> list[FoundAdapter]:
    """Those whose epochs a grid draws; the others need not be read."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for found in adapters:
        numbers[found.name].append(found.number or 0)
    drawn = {name: set(grid.select_epochs(tuple(sorted(own)))) for name, own in numbers.items()}
    return [found for found in adapters if found.number in drawn[found.name]]


def as_checkpoints(
    adapters: Sequence[FoundAdapter], remembered: Path, *, tell: Callable[[str], None] = lambda _: None
) -> dict[str, tuple[Checkpoint, Path]]:
    """Files of others as checkpoints, by the sha256 of their content, and where they are.

    Hashes of files that did not change since are kept in `remembered`; whoever reads a file checks its hash again.
    """
    known = _read_hashes(remembered)
    checkpoints: dict[str, tuple[Checkpoint, Path]] = {}
    stamped = [(found, _stamp(found.path)) for found in adapters]
    unread = [found.path.stat().st_size for found, stamp in stamped if stamp not in known]
    if sum(unread) > WORTH_A_WORD:
        tell(f"reading {len(unread)} adapters once, to know them by content ({size(sum(unread))})")
    for found, stamp in stamped:
        path = found.path.resolve()
        if stamp not in known:
            known[stamp] = file_sha256(path)
        sha256 = known[stamp]
        if sha256 in checkpoints:
            tell(f"{path.name} is the same file as {checkpoints[sha256][1].name}, and is drawn once")
            continue
        trial = re.sub(r"[^A-Za-z0-9._-]+", "-", found.name).strip("-._")[:60] or "adapter"
        figures = {"step": 0, "loss": nan, "exposures_per_image": nan, "seconds": nan}
        record = Checkpoint(trial, found.number or 0, path.name, sha256, path.stat().st_size, **figures)  # type: ignore[arg-type]
        checkpoints[sha256] = (record, path)
    write_whole(remembered, json.dumps(known, indent=2) + "\n")
    return checkpoints


def _stamp(path: Path) -> str:
    """Another one when a file was written since."""
    status = path.stat()
    return f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"


def _read_hashes(path: Path) -> dict[str, str]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DamagedError("not readable as JSON", where=str(path), fix="delete it") from error
    return {str(stamp): str(sha256) for stamp, sha256 in said.items()} if isinstance(said, dict) else {}
