"""Keep a study on a volume, and get it back on an empty machine.

The folder a study works in stays its working copy. `mirror` publishes what its ledger names, and then the ledger itself
in sealed segments, so that no segment on the volume names a file which was not there before it. `restore` fetches what
the ledger names, and writes the ledger last: until then the folder is no study. Both may be stopped anywhere and called
again.

What is made from the ledger (`choice.json`, `report.html`), from the YAML (`study.yaml`) or from the dataset (`cache/`)
is made again, not kept.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from infra.marker import Published
from infra.volume import Volume
from orchestrator.core.errors import AbsentError, DamagedError, VolumeError
from orchestrator.core.files import write_whole
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint, Sample

STATE_FILE = "state.safetensors"
SEGMENT_BYTES = 8 * 2**20
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Recorded:
    """A ledger, and what exists according to it once it is replayed."""

    ledger: bytes
    checkpoints: tuple[Checkpoint, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a volume holds of a study after a mirroring."""

    present: Mapping[str, str] = field(default_factory=dict)
    """Key -> sha256 of everything that was published by then."""
    segments: tuple[Published, ...] = ()
    """The ledger's."""
    uploaded: tuple[str, ...] = ()
    """Keys that this call published."""
    lacking: Mapping[str, str] = field(default_factory=dict)
    """Recorded files that could not be published -> why. The study's next run makes them again."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a folder holds of a study after a restore."""

    present: Mapping[str, str] = field(default_factory=dict)
    """Key -> sha256."""
    lacking: Mapping[str, str] = field(default_factory=dict)
    """Recorded files that the volume does not hold as recorded -> why. The study's next run makes them again."""


@dataclass(frozen=True, slots=True)
class _File:
    """`sha256` is empty where the ledger records none: for commit markers, sidecars and training states."""

    key: str
    sha256: str = ""


_Group = tuple[_File, ...]
"""Files in the order in which they come to exist. Where one is lacking, those after it would be a lie."""


def mirror(layout: Layout, volume: Volume, recorded: Recorded, *, known: Mirrored | None = None) -> Mirrored:
    """Publish everything recorded that the volume does not hold yet.

    `known` is what the mirroring before this one returned: its files are not asked for again. A file that was made anew
    replaces the one on the volume, which goes to quarantine there. Raises VolumeError in an outage, or when the volume
    holds another history of this study.
    """
    layout, known = Layout(layout.root.resolve()), known or Mirrored()
    segments = sealed_segments(volume, recorded.ledger, known.segments)
    states = _newest_states(layout, recorded, lambda key: layout.resolve(key).is_file())
    groups = [*((state,) for state in states), *_groups(layout, recorded)]
    present, lacking, uploaded = dict(known.present), dict[str, str](), list[str]()
    for outcome in _spread(lambda group: _publish(layout, volume, group, known.present), groups):
        present.update(outcome.present)
        uploaded += outcome.uploaded
        lacking.update(outcome.lacking)
    segments = seal(volume, recorded.ledger, segments)
    for state in states:
        for older in _older_states(volume, state.key) if state.key in uploaded else ():
            volume.delete(older)
            present.pop(older, None)
    return Mirrored(present, segments, tuple(uploaded), lacking)


def restored_ledger(volume: Volume) -> bytes:
    """The ledger as far as it was sealed, checked. Raises AbsentError when the volume holds no study."""
    pieces: list[bytes] = []
    for number in itertools.count(1):
        try:
            pieces.append(volume.read(segment_key(number)))
        except AbsentError:
            break
    if not pieces:
        raise AbsentError("no study is kept here", where=volume.store.place, fix="end the address with its name")
    return b"".join(pieces)


def restore(volume: Volume, layout: Layout, recorded: Recorded) -> Restored:
    """Fetch everything recorded into a folder that holds no other study; the ledger comes last.

    Raises VolumeError in an outage, or when the folder has another ledger.
    """
    layout = Layout(layout.root.resolve())
    if layout.ledger.exists() and layout.ledger.read_bytes() != recorded.ledger:
        raise VolumeError("this folder holds a study already", where=str(layout.root), fix="restore into an empty one")
    states = _newest_states(layout, recorded, lambda key: _found(volume, key))
    groups = [*((state,) for state in states), *_groups(layout, recorded)]
    present, lacking = dict[str, str](), dict[str, str]()
    for outcome in _spread(lambda group: _fetch(volume, layout, group), groups):
        present.update(outcome.present)
        lacking.update(outcome.lacking)
    try:
        write_whole(layout.ledger, recorded.ledger)
    except OSError as error:
        raise VolumeError(f"cannot write: {error.strerror or error}", where=str(layout.ledger)) from error
    return Restored(present, lacking)


def segment_key(number: int) -> str:
    """The key of a ledger's segment, counted from 1: segments are found one after the other, without a listing."""
    return f"ledger/{number:06d}.jsonl"


def sealed_segments(volume: Volume, ledger: bytes, known: Sequence[Published] = ()) -> tuple[Published, ...]:
    """The segments on the volume, which must be how this ledger begins. Raises VolumeError otherwise."""
    segments, start = list(known), sum(segment.size for segment in known)
    while (segment := volume.find(segment_key(len(segments) + 1))) is not None:
        if hashlib.sha256(ledger[start : start + segment.size]).hexdigest() != segment.sha256:
            raise VolumeError(
                "the volume holds another history of this study",
                where=f"{segment.key} in {volume.store.place}",
                fix="restore it into an empty folder and go on there, or mirror this one to another place",
            )
        segments.append(segment)
        start += segment.size
    return tuple(segments)


def seal(volume: Volume, ledger: bytes, segments: Sequence[Published] = ()) -> tuple[Published, ...]:
    """Publish the whole lines that follow the sealed segments as further ones; returns all."""
    sealed, start, end = list(segments), sum(segment.size for segment in segments), ledger.rfind(b"\n") + 1
    while start < end:
        # Cut after the last line that fits; a longer line is a segment of its own.
        cut = ledger.rfind(b"\n", start, start + SEGMENT_BYTES) + 1 or ledger.index(b"\n", start) + 1
        sealed.append(volume.put(segment_key(len(sealed) + 1), ledger[start:cut]))
        start = cut
    return tuple(sealed)


@dataclass(slots=True)
class _Outcome:
    present: dict[str, str] = field(default_factory=dict)
    uploaded: list[str] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)


def _publish(layout: Layout, volume: Volume, group: _Group, known: Mapping[str, str]) -> _Outcome:
    """Publish a group's files in order, as far as they are here as recorded."""
    outcome, first = _Outcome(), group[0]
    if first.key in known and first.sha256 in ("", known[first.key]):
        return outcome
    for file in group:
        path = layout.resolve(file.key)
        try:
            sha256 = file.sha256 or file_sha256(path)
            try:
                there = volume.find(file.key)
            except DamagedError as error:
                volume.quarantine(file.key, error.what)
                there = None
            if there is None or there.sha256 != sha256:
                aside = volume.put_aside(file.key, path, expect=sha256)
                if there is not None:
                    volume.quarantine(file.key, "made anew")
                volume.publish(aside)
                outcome.uploaded.append(file.key)
            outcome.present[file.key] = sha256
        except (FileNotFoundError, AbsentError):
            outcome.lacking[file.key] = "it is not in the study's folder"
            break
        except DamagedError as error:
            outcome.lacking[file.key] = error.what
            break
        except OSError as error:
            raise VolumeError(f"cannot read: {error.strerror or error}", where=str(path)) from error
    return outcome


def _fetch(volume: Volume, layout: Layout, group: _Group) -> _Outcome:
    """Fetch a group's files in order, as far as the volume has them as recorded."""
    outcome = _Outcome()
    for file in group:
        try:
            outcome.present[file.key] = volume.get(file.key, layout.resolve(file.key), expect=file.sha256).sha256
        except (AbsentError, DamagedError) as error:
            outcome.lacking[file.key] = error.what
            break
    return outcome


def _groups(layout: Layout, recorded: Recorded) -> Iterator[_Group]:
    """Each adapter and its commit marker, each picture and its sidecar."""
    named = [(c.adapter, c.sha256) for c in recorded.checkpoints] + [(s.image, s.sha256) for s in recorded.samples]
    for relative, sha256 in named:
        key = layout.relative(layout.resolve(relative))
        yield (_File(key, sha256), _File(str(PurePosixPath(key).with_suffix(".json"))))


def _newest_states(layout: Layout, recorded: Recorded, is_there: Callable[[str], bool]) -> list[_File]:
    """Of each trial the training state that belongs to its last possible epoch; older ones are of no use."""
    newest: dict[str, _File] = {}
    for checkpoint in sorted(recorded.checkpoints, key=lambda c: c.epoch, reverse=True):
        key = layout.relative(layout.state(checkpoint.trial, checkpoint.epoch) / STATE_FILE)
        if checkpoint.trial not in newest and is_there(key):
            newest[checkpoint.trial] = _File(key)
    return list(newest.values())


def _found(volume: Volume, key: str) -> bool:
    try:
        return volume.find(key) is not None
    except DamagedError:
        return False


def _older_states(volume: Volume, newest: str) -> list[str]:
    """Training states of the same trial that the volume lists and that belong to earlier epochs."""
    trial, epoch = newest.rsplit("/", 2)[0], newest.rsplit("/", 2)[1]
    return [key for key in volume.keys(f"{trial}/") if key.rsplit("/", 2)[1] < epoch]


def _spread(work: Callable[[_Group], _Outcome], groups: Iterable[_Group]) -> Iterator[_Outcome]:
    """Work on some groups at a time; after a failure no further one is begun."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(work, group) for group in groups]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
