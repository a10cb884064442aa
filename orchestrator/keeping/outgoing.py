"""What of a study goes to its volume, and when: files by the facts that name them, training states by retention."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from infra.mirror import File, Group, checkpoint_group, sample_group
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint, Sample
from orchestrator.keeping.restoring import STATE_FILE, metrics_key
from orchestrator.record.ledger import Event

_STATE = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")


def files_after(layout: Layout, events: list[Event], epochs: dict[str, set[int]]) -> Iterator[Group]:
    """Files that exist after these facts, and did not before; `epochs` takes in the epochs that were saved."""
    groups: dict[str, Group] = {}
    for event in events:
        data = event.data
        if event.kind == "checkpoint_saved":
            checkpoint = Checkpoint.from_json(data["checkpoint"])
            group = checkpoint_group(layout, checkpoint)
            groups[checkpoint.adapter] = group
            groups.update(_of_training(layout, checkpoint, epochs.setdefault(checkpoint.trial, set())))
        elif event.kind == "trial_started":
            epochs.setdefault(data["trial"], set())
        elif event.kind == "sample_drawn":
            sample = Sample.from_json(data["sample"])
            groups[sample.image] = sample_group(layout, sample)
        elif event.kind == "file_quarantined":
            groups.pop(data["path"], None)
            if "epoch" in data:
                epochs.get(data["trial"], set()).discard(data["epoch"])
    yield from groups.values()


def _of_training(layout: Layout, checkpoint: Checkpoint, epochs: set[int]) -> Iterator[tuple[str, Group]]:
    """What was written down while an epoch was trained: its rows of the metrics, the record of the dataset."""
    before = max((epoch for epoch in epochs if epoch < checkpoint.epoch), default=0)
    epochs.add(checkpoint.epoch)
    rows = _rows(layout.metrics(checkpoint.trial), before, checkpoint.epoch)
    if rows:
        key = metrics_key(checkpoint.trial, checkpoint.epoch)
        yield key, (File(key, content=rows),)
    record = f"trials/{checkpoint.trial}/dataset.json"
    if (layout.root / record).is_file():
        yield record, (File(record),)


def states_to_keep(layout: Layout, epochs: dict[str, set[int]]) -> dict[str, list[str]]:
    """Of each trial the newest training state of a recorded epoch, and one within the next if that is newer.

    A state of an epoch that is not recorded yet would be of no use to whoever goes on from the volume.
    """
    wanted: dict[str, list[str]] = {}
    for trial, known in epochs.items():
        folder = layout.states(trial)
        found = sorted(
            (int(match[1]), int(match[2]) if match[2] else 0, path.name)
            for path in folder.glob("epoch-*")
            if (match := _STATE.fullmatch(path.name)) and (path / STATE_FILE).is_file()
        )
        last = max(known, default=0)
        whole = [name for epoch, step, name in found if not step and epoch in known][-1:]
        within = [name for epoch, step, name in found if step and epoch > last][-1:]
        unrecorded = any(epoch > last for epoch in _marked(layout, trial))
        names = whole + ([] if unrecorded else within)
        wanted[trial] = [f"trials/{trial}/state/{name}/{STATE_FILE}" for name in names]
    return wanted


def sealed_epochs(ledger: Path, size: int) -> dict[str, set[int]]:
    """Epochs that are recorded in the first `size` bytes of a ledger, by trial."""
    epochs: defaultdict[str, set[int]] = defaultdict(set)
    if not size:
        return {}
    with ledger.open("rb") as stream:
        for line in stream:
            if (size := size - len(line)) < 0:
                break
            if any(kind in line for kind in (b'"trial_started"', b'"checkpoint_saved"', b'"file_quarantined"')):
                data = Event.from_line(line.decode()).data
                if "checkpoint" in data:
                    epochs[data["checkpoint"]["trial"]].add(data["checkpoint"]["epoch"])
                elif "moved_to" not in data and "trial" in data:
                    epochs.setdefault(data["trial"], set())
                elif "epoch" in data:
                    epochs[data["trial"]].discard(data["epoch"])
    return dict(epochs)


def _rows(metrics: Path, before: int, upto: int) -> bytes:
    """Rows of `metrics.jsonl` after one epoch and up to another; a row that is being written is not one yet."""
    if not metrics.exists():
        return b""
    kept = []
    with metrics.open("rb") as stream:
        for line in stream:
            with suppress(ValueError, KeyError, TypeError):
                if line.endswith(b"\n") and before < json.loads(line)["epoch"] <= upto:
                    kept.append(line)
    return b"".join(kept)


def _marked(layout: Layout, trial: str) -> Iterator[int]:
    """Epochs with a commit marker in the study's folder, recorded or not."""
    for marker in layout.trial(trial).glob("epoch-*/adapter.json"):
        with suppress(ValueError):
            yield int(marker.parent.name.removeprefix("epoch-"))
