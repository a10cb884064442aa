"""What goes to a volume: of training states only those that whoever goes on from there can use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.core.layout import Layout
from orchestrator.keeping.outgoing import files_after, states_to_keep
from orchestrator.keeping.restoring import STATE_FILE
from orchestrator.record.ledger import Event
from tests.orchestrator.scripted import checkpoint

TRIAL = "main-00000001"


def write_states(layout: Layout, *names: str) -> None:
    for name in names:
        file = layout.states(TRIAL) / name / STATE_FILE
        file.parent.mkdir(parents=True)
        file.write_bytes(b"state")


@pytest.mark.parametrize(
    ("there", "recorded", "marked", "kept"),
    [
        (("epoch-0001", "epoch-0002"), {1, 2}, (1, 2), ["epoch-0002"]),
        (("epoch-0001", "epoch-0002"), {1}, (1, 2), ["epoch-0001"]),
        (("epoch-0002", "epoch-0003-step-00000025"), {1, 2}, (1, 2), ["epoch-0002", "epoch-0003-step-00000025"]),
        (("epoch-0002", "epoch-0004-step-00000035"), {1, 2}, (1, 2, 3), ["epoch-0002"]),
        (("epoch-0002", "epoch-0002-step-00000015"), {1, 2}, (1, 2), ["epoch-0002"]),
        (("epoch-0001-step-00000005",), set(), (), ["epoch-0001-step-00000005"]),
        ((".epoch-0002.writing",), {1, 2}, (1, 2), []),
    ],
)
def test_only_states_that_are_of_use_are_kept(
    tmp_path: Path, there: tuple[str, ...], recorded: set[int], marked: tuple[int, ...], kept: list[str]
) -> None:
    """Not one of an epoch that is not recorded yet: it would be passed over, and the one before it be gone."""
    layout = Layout(tmp_path)
    write_states(layout, *there)
    for epoch in marked:
        marker = layout.checkpoint(TRIAL, epoch) / "adapter.json"
        marker.parent.mkdir(parents=True)
        marker.write_text("{}")
    wanted = [f"trials/{TRIAL}/state/{name}/{STATE_FILE}" for name in kept]
    assert states_to_keep(layout, {TRIAL: recorded}) == {TRIAL: wanted}


def test_an_epoch_brings_its_rows_and_what_was_set_apart_is_left_out(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    rows = [json.dumps({"epoch": epoch, "step": step}) for step, epoch in enumerate((1, 1, 2, 2, 3, 4), 1)]
    layout.metrics(TRIAL).parent.mkdir(parents=True)
    layout.metrics(TRIAL).write_text("\n".join(rows) + '\n{"epoch": 4, "st')
    saved = [Event("checkpoint_saved", 0.0, {"checkpoint": checkpoint(TRIAL, epoch).to_json()}) for epoch in (1, 3, 4)]
    path = checkpoint(TRIAL, 4).adapter
    apart = Event("file_quarantined", 0.0, {"path": path, "trial": TRIAL, "epoch": 4, "reason": "corrupt"})
    epochs: dict[str, set[int]] = {}
    groups = list(files_after(layout, [*saved, apart], epochs))
    assert epochs == {TRIAL: {1, 3}}
    keys = [file.key for group in groups for file in group]
    assert path not in keys
    assert checkpoint(TRIAL, 3).adapter in keys
    contents = {file.key[-10:]: file.content for group in groups for file in group if file.content is not None}
    assert contents["0001.jsonl"] == "".join(row + "\n" for row in rows[:2]).encode()
    assert contents["0003.jsonl"] == "".join(row + "\n" for row in rows[2:5]).encode(), "also of epochs not saved"
