"""Training states on disk: everything needed to go on as if nothing had happened, or nothing at all.

A state is written into a folder aside, read back, and renamed into place: `state/epoch-0007` after an epoch,
`state/epoch-0008-step-00000123` within one. What does not bear out its checksum, or belongs to other settings or
another dataset, is passed over.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from orchestrator.core.errors import VolumeError
from orchestrator.core.files import flush_folder, write_whole
from orchestrator.core.layout import Layout

log = logging.getLogger(__name__)

FILE = "state.safetensors"
_ABOUT = "about"
_FORMAT = 2
"""Raised when states are written with other names; older ones are passed over."""
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a trial: `steps` optimizer steps of `epoch` are done, of all of them if `whole`."""

    epoch: int
    steps: int
    whole: bool
    step: int
    """Optimizer steps of the trial."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a state is of: it is of use only to a trial with the same."""

    trial: str
    settings: str
    dataset: str
    base: str
    vae: str
    text: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A state on disk, not read yet."""

    folder: Path
    epoch: int
    step: int | None
    """None after a whole epoch."""

    @property
    def order(self) -> tuple[int, float]:
        """Later states are larger."""
        return self.epoch, float("inf") if self.step is None else self.step


def save_state(layout: Layout, place: Place, origin: Origin, tensors: Mapping[str, Tensor]) -> None:
    """Write, read back, publish. Raises VolumeError when what was read is not what was written."""
    folder = _folder(layout, origin.trial, place)
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    sound = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    # Some optimizers share a table between parameters; the file format refuses tensors in one place.
    places = Counter(tensor.untyped_storage().data_ptr() for tensor in sound.values())
    sound = {n: t.clone() if places[t.untyped_storage().data_ptr()] > 1 else t for n, t in sound.items()}
    about = {"format": _FORMAT, "place": asdict(place), "origin": asdict(origin), "sha256": _sha256(sound)}
    write_whole(aside / FILE, save(sound, {_ABOUT: json.dumps(about, sort_keys=True)}))
    if _read(aside / FILE) is None:
        raise VolumeError("training state was not read back as written", where=str(folder), fix="check the disk")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    flush_folder(folder.parent)


def newest_state(layout: Layout, origin: Origin, *, before: int) -> tuple[Place, dict[str, Tensor]] | None:
    """The latest sound state from which epoch `before` can still be trained."""
    for stored in sorted(stored_states(layout, origin.trial), key=lambda s: s.order, reverse=True):
        if stored.epoch > before or (stored.epoch == before and stored.step is None):
            continue
        found = _read(stored.folder / FILE)
        if found is None:
            continue
        place, own, tensors = found
        if own != origin:
            log.warning("training state of other settings or data passed over | %s", stored.folder)
            continue
        return place, tensors
    return None


def stored_states(layout: Layout, trial: str) -> Iterator[Stored]:
    """Every state that is published, sound or not."""
    for folder in layout.state(trial, 0).parent.glob("epoch-*"):
        name = _NAME.fullmatch(folder.name)
        if name and (folder / FILE).is_file():
            yield Stored(folder, int(name[1]), int(name[2]) if name[2] else None)


def drop_old_states(layout: Layout, trial: str, keep: int) -> None:
    """Keep the newest `keep` states of whole epochs, and of the others only one that is newer than all of them."""
    stored = sorted(stored_states(layout, trial), key=lambda s: s.order)
    whole = [s for s in stored if s.step is None]
    newest_whole = whole[-1].order if whole else (0, 0.0)
    within = [s for s in stored if s.step is not None]
    useless = [s for s in within if s.order < newest_whole] + [s for s in within if s.order > newest_whole][:-1]
    for old in (*whole[:-keep], *useless):
        shutil.rmtree(old.folder)


def _folder(layout: Layout, trial: str, place: Place) -> Path:
    folder = layout.state(trial, place.epoch)
    return folder if place.whole else folder.with_name(f"{folder.name}-step-{place.step:08d}")


def _read(file: Path) -> tuple[Place, Origin, dict[str, Tensor]] | None:
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads((opened.metadata() or {}).get(_ABOUT, "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        place, origin = Place(**about["place"]), Origin(**about["origin"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        log.warning("training state unusable | %s | %s", file, error)
        return None
    if about.get("format") != _FORMAT:
        log.warning("training state of an older version passed over | %s", file)
        return None
    if about["sha256"] != _sha256(tensors):
        log.warning("training state damaged | %s", file)
        return None
    return place, origin, tensors


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
