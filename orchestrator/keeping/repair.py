"""Mend what `verify` found: fetch it from the volume, or set it apart so that the study's next run makes it again.

Nothing is thrown away: a ledger that is rewritten, and every file that is moved, stays in `quarantine/`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from infra.mirror import File, publish
from infra.volume import LocalVolume, Volume
from orchestrator.core.errors import DamagedError
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.keeping.restoring import heal, join
from orchestrator.keeping.verify import Fault
from orchestrator.record.ledger import Ledger
from orchestrator.record.reconcile import Loss, LostCheckpoint, files_of
from orchestrator.record.state import StudyState
from trainer.checkpoints import publish as publish_checkpoint

FRESH_S = 3600.0
"""What is left aside and younger may be a process's that still writes."""


def repair(
    layout: Layout, faults: Sequence[Fault], state: StudyState, *, volume: Volume | None, tell: Callable[[str], None]
) -> list[Fault]:
    """Mend what can be mended; returns the faults that stay. To be called by whoever holds the study's lock."""
    layout = Layout(layout.root.resolve())
    damaged = [fault for fault in faults if fault.kind == "ledger" and fault.line]
    if damaged:
        _take_out(layout, {fault.line for fault in damaged}, tell)
    other = [fault for fault in faults if (fault.kind, fault.where) == ("volume", "ledger")]
    if volume is not None and (damaged or other):
        join(layout, volume, tell)
    if volume is not None:
        swept = volume.sweep()
        if swept.uploads or swept.files:
            tell(f"removed from the volume | {swept.uploads} unfinished uploads, {swept.files} files nobody names")
    with closing(Ledger(layout.ledger)) as ledger:
        return [f for f in faults if f not in damaged + other and not _mend(layout, ledger, f, state, volume, tell)]


def _mend(
    layout: Layout,
    ledger: Ledger,
    fault: Fault,
    state: StudyState,
    volume: Volume | None,
    tell: Callable[[str], None],
) -> bool:
    """One fault; False when it cannot be mended here."""
    if fault.loss is not None:
        if volume is not None and heal(layout, volume, fault.loss):
            tell(f"fetched again | {fault.where}")
        else:
            _set_apart(layout, ledger, fault.loss)
            tell(f"set apart, the next run makes it again | {fault.where}")
        return True
    match fault.kind:
        case "marker":
            assert fault.checkpoint is not None
            publish_checkpoint(layout, fault.checkpoint)
            tell(f"written again | {fault.where}")
        case "state":
            LocalVolume(layout).quarantine(layout.resolve(fault.where).parent)
            tell(f"set apart, training goes on from an earlier one | {fault.where}")
        case "choice" if state.choice is not None and "ledger" in fault.what:
            layout.choice.unlink(missing_ok=True)
            tell(f"removed, the next run writes it again | {fault.where}")
        case "leftover":
            path = layout.resolve(fault.where)
            if path.exists() and path.stat().st_mtime > time.time() - FRESH_S:
                return False
            path.unlink(missing_ok=True)
            tell(f"removed | {fault.where}")
        case "volume" if volume is not None:
            return _send_again(layout, volume, fault.where, tell)
        case _:
            return False
    return True


def _take_out(layout: Layout, numbers: set[int], tell: Callable[[str], None]) -> None:
    """Write the ledger without some of its lines, and keep it as it was."""
    kept = layout.quarantine / f"{layout.ledger.name}.{time.time_ns()}"
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(layout.ledger, kept)
    lines = layout.ledger.read_bytes().splitlines(keepends=True)
    write_whole(layout.ledger, b"".join(raw for number, raw in enumerate(lines, 1) if number not in numbers))
    tell(f"{len(numbers)} lines taken out of the ledger, which is kept as it was | {layout.relative(kept)}")


def _set_apart(layout: Layout, ledger: Ledger, loss: Loss) -> None:
    """What the controller does with a damaged file in the middle of a run."""
    moved = [LocalVolume(layout).quarantine(path) for path in files_of(loss, layout)]
    if isinstance(loss, LostCheckpoint):
        about: dict[str, Any] = {"trial": loss.checkpoint.trial, "epoch": loss.checkpoint.epoch}
        path = loss.checkpoint.adapter
    else:
        about, path = {"cell_key": loss.sample.cell_key}, loss.sample.image
    ledger.record("file_quarantined", path=path, moved_to=moved[0], reason=loss.reason, **about)


def _send_again(layout: Layout, volume: Volume, key: str, tell: Callable[[str], None]) -> bool:
    """Replace a file's copy on the volume by the sound one here."""
    try:
        found = volume.find(key)
        if found is not None and volume.verify(key) != "whole":
            volume.quarantine(key, "damaged")
    except DamagedError as error:
        volume.quarantine(key, error.what)
    lacking = publish(layout, volume, [(File(key),)]).lacking
    if not lacking:
        tell(f"sent again | {key}")
    return not lacking
