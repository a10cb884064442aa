"""Copies of a study's files on a volume: publish them in the order in which they came to exist, and fetch them back.

A group is files of which each means something only where those before it are there: an adapter and its commit marker,
a picture and its sidecar. What a study's own machine lacks, or has damaged, never reaches the volume, and the other way
round; it is reported as lacking. Both directions may be stopped anywhere and called again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from infra.progress import Progress
from infra.volume import Volume
from orchestrator.core.errors import AbsentError, DamagedError, VolumeError
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint, Sample

AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class File:
    """A file of a study by its key, which is its path in the study's folder.

    `sha256` is empty where none is recorded: for commit markers, sidecars and training states. `content` is set for
    what is not a file of its own.
    """

    key: str
    sha256: str = ""
    content: bytes | None = None


Group = tuple[File, ...]


@dataclass(slots=True)
class Outcome:
    """What came of groups."""

    sent: list[str] = field(default_factory=list)
    """Keys whose content was moved, and did not have to be found in place."""
    size: int = 0
    """Bytes of them."""
    lacking: dict[str, str] = field(default_factory=dict)
    """Recorded files that are not there as they are recorded -> why. The study's next run makes them again."""

    def add(self, other: Outcome) -> None:
        self.sent += other.sent
        self.size += other.size
        self.lacking.update(other.lacking)


Done = Callable[[Outcome], None]


def checkpoint_group(layout: Layout, checkpoint: Checkpoint) -> Group:
    """An adapter and its commit marker."""
    return _with_json(layout, checkpoint.adapter, checkpoint.sha256)


def sample_group(layout: Layout, sample: Sample) -> Group:
    """A picture and its sidecar."""
    return _with_json(layout, sample.image, sample.sha256)


def publish(
    layout: Layout,
    volume: Volume,
    groups: Iterable[Group],
    done: Done = lambda _: None,
    progress: Progress | None = None,
) -> Outcome:
    """Publish what the volume does not hold yet; `done` hears of each group. Raises VolumeError in an outage.

    `progress` counts what goes of larger files. A file that was made anew replaces the one on the volume, which goes to
    quarantine there.
    """
    counted = progress or Progress()
    return _spread(lambda group: _publish(layout, volume, group, counted), groups, done)


def fetch(layout: Layout, volume: Volume, groups: Iterable[Group], done: Done = lambda _: None) -> Outcome:
    """Fetch what the study's folder does not hold as it is recorded; `done` hears of each group. Raises VolumeError."""
    return _spread(lambda group: _fetch(layout, volume, group), groups, done)


def replace(volume: Volume, key: str, source: Path | bytes, progress: Progress | None = None) -> bool:
    """Publish a file that is made from others and may be made again, like the report; False when it is there already.

    For a moment in between there is none, which a reader must take for not made yet.
    """
    progress = progress or Progress()
    aside = volume.put_aside(key, source, moved=progress.begin(key))
    progress.end(key)
    there = volume.find(key)
    if there is not None and there.sha256 == aside.file.sha256:
        if aside.file.token:
            volume.store.remove(aside.file.content_name)
        return False
    volume.delete(key)
    volume.publish(aside)
    return True


def _publish(layout: Layout, volume: Volume, group: Group, progress: Progress) -> Outcome:
    outcome = Outcome()
    for file in group:
        path = layout.resolve(file.key)
        source = path if file.content is None else file.content
        try:
            sha256 = file.sha256 or _sha256(source)
            try:
                there = volume.find(file.key)
            except DamagedError as error:
                volume.quarantine(file.key, error.what)
                there = None
            if there is not None and there.sha256 == sha256:
                continue
            aside = volume.put_aside(file.key, source, expect=sha256, moved=progress.begin(file.key))
            if there is not None:
                volume.quarantine(file.key, "made anew")
            volume.publish(aside)
            progress.end(file.key)
            outcome.sent.append(file.key)
            outcome.size += aside.file.size
        except (FileNotFoundError, AbsentError):
            outcome.lacking[file.key] = "it is not in the study's folder"
            break
        except DamagedError as error:
            outcome.lacking[file.key] = error.what
            break
        except OSError as error:
            raise VolumeError(f"cannot read: {error.strerror or error}", where=str(path)) from error
    return outcome


def _fetch(layout: Layout, volume: Volume, group: Group) -> Outcome:
    outcome = Outcome()
    for file in group:
        try:
            outcome.size += volume.get(file.key, layout.resolve(file.key), expect=file.sha256).size
            outcome.sent.append(file.key)
        except (AbsentError, DamagedError) as error:
            outcome.lacking[file.key] = error.what
            break
    return outcome


def _with_json(layout: Layout, relative: str, sha256: str) -> Group:
    """Raises ConfigError for a recorded path that leaves the study's folder."""
    key = Path(layout.resolve(relative)).relative_to(layout.root.resolve()).as_posix()
    return (File(key, sha256), File(str(PurePosixPath(key).with_suffix(".json"))))


def _sha256(source: Path | bytes) -> str:
    return hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else file_sha256(source)


def _spread(work: Callable[[Group], Outcome], groups: Iterable[Group], done: Done) -> Outcome:
    """Work on some groups at a time; after a failure no further one is begun."""
    total = Outcome()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for some in _some(groups):
            futures = [pool.submit(work, group) for group in some]
            try:
                for future in as_completed(futures):
                    outcome = future.result()
                    total.add(outcome)
                    done(outcome)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return total


def _some(groups: Iterable[Group], count: int = 64 * AT_ONCE) -> Iterator[list[Group]]:
    """So many at a time, so that memory does not grow with a study."""
    held: list[Group] = []
    for group in groups:
        held.append(group)
        if len(held) == count:
            yield held
            held = []
    yield held
