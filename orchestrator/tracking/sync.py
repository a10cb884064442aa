"""Sending what was kept locally: each segment by W&B's own command, under the ids the runs have.

A segment that was sent in part (its driver or the line died midway) is sent from where the service's record ends: the
command itself would send all of its rows again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.core.layout import Layout
from orchestrator.planning.config import StudyConfig
from orchestrator.tracking import service
from orchestrator.tracking.segments import Segment, segments
from orchestrator.tracking.workspace import save_workspace
from orchestrator.tracking.writer import keep_to_ourselves

SEND_S = 900.0
"""How long one segment may take; what was sent by then is not sent again."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of it."""

    segments: int
    rows: int
    dashboard: str


def unsent(layout: Layout) -> list[Segment]:
    """Segments that the service does not have in full, oldest first."""
    return [segment for segment in segments(layout) if not segment.is_done]


def sync(config: StudyConfig, layout: Layout, tell: Callable[[str], None]) -> Sent:
    """Send all that is not there yet. Raises Unreachable; what was sent stays sent, and the next call goes on."""
    keep_to_ourselves(layout)
    own = service.entity()
    owner = config.wandb.entity or own
    dashboard = _dashboard(config, owner, tell)
    waiting = unsent(layout)
    rows = 0
    for number, segment in enumerate(waiting, 1):
        missing = _prepare(segment, config, owner)
        size = segment.size_bytes / 1e6
        tell(f"sending  {number} of {len(waiting)}: run {segment.run_id}, {missing} rows, {size:.1f} MB")
        _send(segment)
        rows += missing
    return Sent(len(waiting), rows, dashboard)


def _dashboard(config: StudyConfig, owner: str, tell: Callable[[str], None]) -> str:
    try:
        return save_workspace(config, owner)
    except service.Unreachable as error:
        tell(f"warning: the dashboard was not saved: {error}")
        return ""


def _prepare(segment: Segment, config: StudyConfig, owner: str) -> int:
    """Leave out the rows that the service has; how many are left to send."""
    there = service.progress(segment.run_id, project=config.wandb.project, owner=owner)
    begun = segment.begun_at
    if begun is None:
        return len(segment.steps)
    sent = sum(step <= there.last_step for step in segment.numbered(begun))
    if sent:
        segment.leave_out(sent)
    return len(segment.steps) - sent


def _send(segment: Segment) -> None:
    """Have W&B's command send it. The key is in the environment, never among the arguments."""
    command = [sys.executable, "-m", "wandb", "sync", "--yes", "--include-online", str(segment.path.parent)]
    environment = os.environ | {"WANDB_SILENT": "false", "WANDB_DIR": str(segment.path.parents[2])}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=SEND_S, cwd=segment.path.parents[2]
        )
    except subprocess.TimeoutExpired:
        raise service.Unreachable(
            f"W&B took longer than {SEND_S:g} s for one segment", fix="the same command goes on where it ended"
        ) from None
    if done.returncode or not segment.is_done:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise service.Unreachable(
            f"W&B did not take it: {said[-1].removeprefix('wandb: ')[:200] if said else 'no reason given'}",
            where=segment.path.parent.name,
            fix="the same command goes on where it ended",
        )
