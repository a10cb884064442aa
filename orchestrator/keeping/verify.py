"""Is everything that is recorded there, as it was recorded? Looks at each line of the ledger and each file it names.

Nothing here acts: `orchestrator/keeping/repair.py` does, on what is found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anima.headers import read_header
from infra.mirror import Group, checkpoint_group, sample_group
from infra.segments import agreed
from infra.volume import LocalVolume, Volume
from orchestrator.core.errors import DamagedError, StudyError
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint, Choice
from orchestrator.keeping.restoring import STATE_FILE
from orchestrator.record.ledger import Event, read_lines
from orchestrator.record.reconcile import Loss, LostCheckpoint, LostSample, losses
from orchestrator.record.state import StudyState

Kind = Literal["ledger", "adapter", "picture", "marker", "sidecar", "state", "choice", "volume", "leftover"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was recorded."""

    kind: Kind
    where: str
    """A path in the study's folder, a line of its ledger, or a key on its volume."""
    what: str
    line: int = 0
    """Of the ledger, for a line that is to be taken out."""
    loss: Loss | None = None
    """What is to be fetched or made again."""
    checkpoint: Checkpoint | None = None
    """Whose commit marker is to be written again."""

    def __str__(self) -> str:
        return f"{self.kind:<8} {self.where}: {self.what}"


@dataclass(slots=True)
class Checked:
    """What was looked at, and what was found."""

    counts: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number


Note = Callable[[str, int], None]


def check(layout: Layout, *, volume: Volume | None = None, deep: bool = False) -> tuple[Checked, StudyState]:
    """Look at a study's folder and, if it has one, at its volume; `deep` reads the volume's files too.

    Raises VolumeError when disk or volume cannot be read.
    """
    layout, checked = Layout(layout.root.resolve()), Checked()
    state = StudyState()
    checked.faults += _ledger(layout, state, checked)
    checked.faults += _files(layout, state, checked)
    checked.faults += _states(layout, checked)
    checked.faults += _choice(layout, state)
    checked.faults += _leftovers(layout)
    if volume is not None:
        checked.faults += _volume(layout, volume, state, checked, deep)
    return checked, state


def _ledger(layout: Layout, state: StudyState, checked: Checked) -> Iterator[Fault]:
    """Lines that cannot be read or make no sense after those before them; `state` takes in the others."""
    made: dict[str, str] = {}
    for line in read_lines(layout.ledger):
        checked.count("facts")
        where = f"{layout.ledger.name}:{line.number}"
        if line.event is None:
            yield Fault("ledger", where, line.fault, line=line.number)
            continue
        try:
            state.apply(line.event)
        except (KeyError, TypeError, ValueError, StudyError) as error:
            yield Fault("ledger", where, f"a {line.event.kind} that does not fit ({error})", line=line.number)
            continue
        if twice := _made_twice(line.event, made):
            yield Fault("ledger", where, twice)


def _made_twice(event: Event, made: dict[str, str]) -> str:
    """Says so when something was made again, and came out differently, though it had not been set apart."""
    data: Any = event.data
    if event.kind == "checkpoint_saved":
        name, sha256 = (
            f"{data['checkpoint']['trial']} epoch {data['checkpoint']['epoch']}",
            data["checkpoint"]["sha256"],
        )
    elif event.kind == "sample_drawn":
        name, sha256 = f"cell {data['sample']['cell_key']}", data["sample"]["sha256"]
    elif event.kind == "file_quarantined":
        made.pop(f"{data.get('trial')} epoch {data.get('epoch')}", None)
        made.pop(f"cell {data.get('cell_key')}", None)
        return ""
    else:
        return ""
    before = made.setdefault(name, sha256)
    made[name] = sha256
    return "" if before == sha256 else f"{name} was made twice, and came out differently"


def _files(layout: Layout, state: StudyState, checked: Checked) -> Iterator[Fault]:
    """Recorded adapters and pictures by their hash, and the small files beside them."""
    lost = set[str]()
    for loss in losses(state, LocalVolume(layout)):
        adapter = isinstance(loss, LostCheckpoint)
        where = loss.checkpoint.adapter if isinstance(loss, LostCheckpoint) else loss.sample.image
        lost.add(where)
        yield Fault("adapter" if adapter else "picture", where, loss.reason, loss=loss)
    checked.count("adapters", len(state.checkpoints))
    checked.count("pictures", len(state.samples))
    for checkpoint in state.checkpoints.values():
        marker = layout.resolve(checkpoint.adapter).with_suffix(".json")
        if checkpoint.adapter not in lost and _json(marker) != json.loads(json.dumps(checkpoint.to_json())):
            what = "the commit marker is not what the ledger says"
            yield Fault("marker", layout.relative(marker), what, checkpoint=checkpoint)
    for sample in state.samples.values():
        sidecar = layout.resolve(sample.image).with_suffix(".json")
        about = _json(sidecar)
        told = about.get("image_sha256") if isinstance(about, dict) else None
        if sample.image not in lost and told != sample.sha256:
            what = "sidecar is absent" if about is None else "the sidecar is another picture's"
            yield Fault("sidecar", layout.relative(sidecar), what, loss=LostSample(sample, what))


def _states(layout: Layout, checked: Checked) -> Iterator[Fault]:
    """Training states: whole safetensors files. Their content carries a hash of its own, which training checks."""
    for file in sorted(layout.root.glob(f"trials/*/state/*/{STATE_FILE}")):
        checked.count("training states")
        try:
            read_header(file)
        except StudyError as error:
            yield Fault("state", layout.relative(file), error.what)


def _choice(layout: Layout, state: StudyState) -> Iterator[Fault]:
    if state.choice is None:
        return
    chosen = state.checkpoints.get((state.choice.trial, state.choice.epoch))
    if chosen is None or chosen.sha256 != state.choice.adapter_sha256:
        yield Fault("choice", layout.choice.name, "the adopted epoch's adapter was made anew since; choose again")
    elif layout.choice.exists() and not _says(layout.choice, state.choice):
        yield Fault("choice", layout.choice.name, "is not what the ledger says")


def _leftovers(layout: Layout) -> Iterator[Fault]:
    """What a killed process left aside."""
    for folder in (layout.root / "trials", layout.root / "grid", layout.root):
        paths = folder.glob(".*.part") if folder == layout.root else folder.rglob(".*.part")
        yield from (Fault("leftover", layout.relative(path), "left by a process that was killed") for path in paths)


def _volume(layout: Layout, volume: Volume, state: StudyState, checked: Checked, deep: bool) -> Iterator[Fault]:
    """What the volume keeps of what the sealed ledger names."""
    sealed, whole = agreed(volume, layout.ledger)
    if not whole:
        yield Fault("volume", "ledger", f"it goes on differently after byte {sealed.size}; the next run joins it")
    unsealed = _named_after(layout, sealed.size)
    for group in _recorded(layout, state):
        for file in group:
            if file.key in unsealed:
                continue
            checked.count("files on the volume")
            if what := _kept(layout, volume, file.key, file.sha256, deep):
                yield Fault("volume", file.key, what)


def _kept(layout: Layout, volume: Volume, key: str, sha256: str, deep: bool) -> str:
    """What is wrong with a file's copy; empty when it is sound."""
    try:
        there = volume.find(key)
    except DamagedError as error:
        return error.what
    if there is None:
        return "is not there"
    local = layout.resolve(key)
    wanted = sha256 or (file_sha256(local) if local.is_file() else there.sha256)
    if there.sha256 != wanted:
        return "another file is kept than is recorded"
    return "its content is damaged" if deep and volume.verify(key) != "whole" else ""


def _recorded(layout: Layout, state: StudyState) -> Iterator[Group]:
    yield from (checkpoint_group(layout, checkpoint) for checkpoint in state.checkpoints.values())
    yield from (sample_group(layout, sample) for sample in state.samples.values())


def _named_after(layout: Layout, size: int) -> set[str]:
    """Files named by facts that are not sealed yet: the volume need not have them."""
    keys, place = set[str](), 0
    for line in read_lines(layout.ledger):
        if place >= size and line.event is not None:
            named = [
                line.event.data.get("checkpoint", {}).get("adapter"),
                line.event.data.get("sample", {}).get("image"),
            ]
            for path in (Path(name) for name in named if name):
                keys |= {path.as_posix(), path.with_suffix(".json").as_posix()}
        place += line.size
    return keys


def _says(path: Path, choice: Choice) -> bool:
    return bool(_json(path) == json.loads(json.dumps(choice.to_json())))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def sentences(checked: Checked) -> Iterable[str]:
    """For people: what was looked at, and each fault on a line."""
    yield "looked at " + ", ".join(f"{number} {what}" for what, number in checked.counts.items() if number)
    yield from (str(fault) for fault in checked.faults)
