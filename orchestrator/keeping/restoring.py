"""Get a study back from its volume: first the ledger, then the files it names, by hash.

The volume's ledger is the truth. A machine that has less of it is brought up to date; one that went on alone after it
was taken over sets its own last facts apart, and the files they named are taken in again by their own markers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from infra.mirror import File, Group, Outcome, checkpoint_group, fetch, sample_group
from infra.segments import Sealed, agreed, sealed_pieces
from infra.volume import LocalVolume, Volume
from orchestrator.core.errors import AbsentError, DamagedError, VolumeError
from orchestrator.core.files import flush_folder, refused
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint
from orchestrator.record.ledger import drop_torn_tail
from orchestrator.record.reconcile import Loss, LostCheckpoint
from orchestrator.record.state import StudyState

STATE_FILE = "state.safetensors"
AT_ONCE = 8
Tell = Callable[[str], None]


def join(layout: Layout, volume: Volume, tell: Tell) -> Sealed:
    """Make this folder's ledger go on from the volume's; returns how much of it is sealed there.

    Raises VolumeError in an outage, or when the volume keeps another study under this name.
    """
    ledger = layout.ledger
    drop_torn_tail(ledger)
    sealed, whole = agreed(volume, ledger)
    if whole:
        return sealed
    aside = ledger.with_name(f".{ledger.name}.joining")
    ledger.parent.mkdir(parents=True, exist_ok=True)
    try:
        joined = _write_joined(ledger, aside, volume, sealed)
        _compare(layout, aside, volume, sealed, tell)
        aside.replace(ledger)
        flush_folder(ledger.parent)
    except OSError as error:
        raise refused(error, ledger) from error
    finally:
        aside.unlink(missing_ok=True)
    tell(f"ledger fetched | {volume.store.place} | {joined.size - sealed.size} bytes in {joined.segments} segments")
    return joined


def fetch_lacking(
    layout: Layout, volume: Volume, state: StudyState, *, untrained: Iterable[str], tell: Tell
) -> Outcome:
    """Fetch what is recorded and not here: adapters, pictures, and for `untrained` trials what training goes on from.

    What the volume lacks too is left to reconciliation. Raises VolumeError in an outage; then what came stays.
    """
    layout = Layout(layout.root.resolve())
    groups = [group for group in _recorded(layout, state) if not _is_here(layout, group)]
    trials = sorted({trial for trial, _ in state.checkpoints})
    groups += [(shown,) for trial in trials if (shown := _exposures(layout, volume, trial)) is not None]
    groups += [group for trial in untrained for group in _training(layout, volume, trial, state)]
    count, total = len(groups), Outcome()
    if count:
        tell(f"fetching {count} {'things' if count > 1 else 'thing'} that are recorded and not here")
    done = 0

    def note(_outcome: Outcome) -> None:
        nonlocal done
        done += 1
        if done % 500 == 0:
            tell(f"fetched {done} of {count}")

    total.add(fetch(layout, volume, groups, note))
    for trial in trials:
        _restore_metrics(layout, volume, trial, state)
    if count:
        lacking = f"; {len(total.lacking)} are not on the volume either" if total.lacking else ""
        tell(f"files fetched | {len(total.sent)} files, {total.size / 1e6:.1f} MB{lacking}")
    return total


def heal(layout: Layout, volume: Volume, loss: Loss) -> bool:
    """Replace what is damaged or gone here by what the volume keeps, if that is what was recorded."""
    try:
        if isinstance(loss, LostCheckpoint):
            group = checkpoint_group(layout, loss.checkpoint)
        else:
            group = sample_group(layout, loss.sample)
        return not fetch(layout, volume, [group]).lacking
    except VolumeError:
        return False


def metrics_key(trial: str, epoch: int) -> str:
    """Where the rows of `metrics.jsonl` up to a saved epoch are kept."""
    return f"trials/{trial}/metrics/epoch-{epoch:04d}.jsonl"


def epochs_of(checkpoints: Iterable[Checkpoint], trial: str) -> list[int]:
    """Recorded epochs of a trial, oldest first."""
    return sorted(checkpoint.epoch for checkpoint in checkpoints if checkpoint.trial == trial)


def _write_joined(ledger: Path, aside: Path, volume: Volume, sealed: Sealed) -> Sealed:
    """The part both have, and then what only the volume has."""
    number, size = sealed.segments, sealed.size
    with aside.open("wb") as joined:
        if size:
            with ledger.open("rb") as own:
                _copy(own, joined, size)
        for piece in sealed_pieces(volume, after=number):
            joined.write(piece)
            number, size = number + 1, size + len(piece)
        joined.flush()
    return Sealed(number, size)


def _compare(layout: Layout, joined: Path, volume: Volume, sealed: Sealed, tell: Tell) -> None:
    """Keep facts of this machine that the volume does not have; refuse those of another study."""
    ledger = layout.ledger
    if not ledger.exists() or ledger.stat().st_size == sealed.size:
        return
    with ledger.open("rb") as own, joined.open("rb") as other:
        if not sealed.size and own.readline() != other.readline():
            raise VolumeError(
                "the volume keeps another study of this name",
                where=volume.store.place,
                fix="give this study another name or the volume another prefix; or move this study's folder away",
            )
        own.seek(sealed.size)
        other.seek(sealed.size)
        while (data := own.read(2**20)) and data == other.read(len(data)):
            pass
    if data:
        kept = layout.quarantine / f"{ledger.name}.{ledger.stat().st_mtime_ns}"
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(ledger, kept)
        tell(f"the ledger goes on as the volume's does | as it was here, it is kept in {layout.relative(kept)}")


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size and (data := source.read(min(2**20, size))):
        target.write(data)
        size -= len(data)


def _recorded(layout: Layout, state: StudyState) -> Iterator[Group]:
    for checkpoint in state.checkpoints.values():
        yield checkpoint_group(layout, checkpoint)
    for sample in state.samples.values():
        yield sample_group(layout, sample)


def _is_here(layout: Layout, group: Group) -> bool:
    """Whether its files are there; what they hold is looked at by reconciliation."""
    return all((layout.root / file.key).is_file() for file in group)


def _training(layout: Layout, volume: Volume, trial: str, state: StudyState) -> Iterator[Group]:
    """What a trial's next epoch is trained from: the newest training state, and the record of the dataset."""
    epochs = epochs_of(state.checkpoints.values(), trial)
    last = max(epochs, default=0)
    record = File(f"trials/{trial}/dataset.json")
    if not _is_here(layout, (record,)) and _has(volume, record.key):
        yield (record,)
    folder = f"trials/{trial}/state"
    listed = {key.split("/")[-2] for key in volume.keys(f"{folder}/")}
    within = sorted(name for name in listed if "-step-" in name and int(name.split("-")[1]) > last)
    whole = (f"epoch-{epoch:04d}" for epoch in reversed(epochs))
    for names in (reversed(within), whole):
        for name in names:
            state_file = File(f"{folder}/{name}/{STATE_FILE}")
            if _is_here(layout, (state_file,)):
                return
            if _has(volume, state_file.key):
                yield (state_file,)
                break


def _exposures(layout: Layout, volume: Volume, trial: str) -> File | None:
    """Who was shown how often, where it is not written down here."""
    file = File(f"trials/{trial}/exposures.json")
    return file if not _is_here(layout, (file,)) and _has(volume, file.key) else None


def _has(volume: Volume, key: str) -> bool:
    try:
        return volume.find(key) is not None
    except DamagedError:
        return False


def _restore_metrics(layout: Layout, volume: Volume, trial: str, state: StudyState) -> None:
    """The loss curve of the epochs that were trained elsewhere."""
    epochs, file = epochs_of(state.checkpoints.values(), trial), layout.metrics(trial)
    if file.exists() or not epochs:
        return

    def rows(epoch: int) -> bytes:
        try:
            return volume.read(metrics_key(trial, epoch))
        except (AbsentError, DamagedError):
            return b""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        data = b"".join(pool.map(rows, epochs))
    if data:
        LocalVolume(layout).put(file, data)
