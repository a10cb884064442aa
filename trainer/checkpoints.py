"""Saved epochs on disk: what is published, and in which order files come to exist.

An epoch exists when its commit marker `adapter.json` does; the marker is written last and holds the adapter's hash.
The training state of an epoch (`trainer.states`) is written before its adapter, so that whoever sees the adapter can go
on from it. Torch-free.
"""

from __future__ import annotations

import json

from orchestrator.core.files import write_whole
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint

MARKER = "adapter.json"


def publish(layout: Layout, checkpoint: Checkpoint) -> None:
    """Write the commit marker of an epoch whose adapter is on disk."""
    marker = layout.checkpoint(checkpoint.trial, checkpoint.epoch) / MARKER
    write_whole(marker, json.dumps(checkpoint.to_json(), indent=2) + "\n")


def published_checkpoints(layout: Layout, trial: str) -> list[Checkpoint]:
    """Epochs with a commit marker, oldest first. Their adapters are not read: whoever uses one checks its hash."""
    markers = sorted(layout.trial(trial).glob(f"epoch-*/{MARKER}"))
    return [Checkpoint.from_json(json.loads(marker.read_text())) for marker in markers]


def intact_checkpoints(layout: Layout, trial: str) -> dict[int, Checkpoint]:
    """Published epochs whose adapter file still has the published hash, by epoch."""
    found = {}
    for checkpoint in published_checkpoints(layout, trial):
        adapter = layout.resolve(checkpoint.adapter)
        if adapter.is_file() and file_sha256(adapter) == checkpoint.sha256:
            found[checkpoint.epoch] = checkpoint
    return found


def saved_epochs(epochs: int, save_every: int) -> tuple[int, ...]:
    """Epochs that are saved: every `save_every`-th and always the last, whatever divides what."""
    return tuple(e for e in range(1, epochs + 1) if e % save_every == 0 or e == epochs)
