"""Sending what was kept locally: each segment by W&B's own command, under the ids the runs have.

A segment that was sent in part (its driver or the line died midway) is sent from where the service's record ends: the
command itself would send all of its rows again. That makes sending safe to repeat, and it is repeated a few times:
W&B's command gives its own background process 5 s to take the work in, and fails where a busy machine needs longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.core.layout import Layout
from orchestrator.planning.config import StudyConfig
from orchestrator.tracking import service
from orchestrator.tracking.segments import Segment, read_segment, segments
from orchestrator.tracking.workspace import save_workspace
from orchestrator.tracking.writer import keep_to_ourselves

SEND_S = 900.0
"""How long one segment may take; what was sent by then is not sent again."""
PAUSES_S = (2.0, 8.0)
"""Before a segment that W&B's command failed at is sent again."""
ANSWER_S = 20.0
"""How long the service may take to answer: nobody's study waits for it here."""


class NotTakenError(service.Unreachable):
    """W&B's command ended without having sent everything."""


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
    own = service.entity(within_s=ANSWER_S)
    owner = config.wandb.entity or own
    dashboard = _dashboard(config, owner, tell)
    waiting = unsent(layout)
    rows = 0
    for number, segment in enumerate(waiting, 1):
        rows += _deliver(segment, f"{number} of {len(waiting)}", config, owner, tell)
    return Sent(len(waiting), rows, dashboard)


def _deliver(segment: Segment, which: str, config: StudyConfig, owner: str, tell: Callable[[str], None]) -> int:
    """Send a segment, again if need be; how many rows the service lacked."""
    lacking = None
    for pause in (*PAUSES_S, None):
        missing = _prepare(segment, config, owner)
        lacking = missing if lacking is None else lacking
        tell(f"sending  {which}: run {segment.run_id}, {missing} rows, {segment.size_bytes / 1e6:.1f} MB")
        try:
            _send(segment)
            break
        except NotTakenError as error:
            if pause is None:
                raise
            tell(f"again    in {pause:g} s: {error.what}")
        time.sleep(pause)
        segment = read_segment(segment.path)
    return lacking or 0


def _dashboard(config: StudyConfig, owner: str, tell: Callable[[str], None]) -> str:
    try:
        return save_workspace(config, owner)
    except service.Unreachable as error:
        tell(f"warning: the dashboard was not saved: {error}")
        return ""


def _prepare(segment: Segment, config: StudyConfig, owner: str) -> int:
    """Leave out the rows that the service has; how many are left to send."""
    there = service.progress(segment.run_id, project=config.wandb.project, owner=owner, within_s=ANSWER_S)
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
        told = (line.removeprefix("wandb: ").strip() for line in (done.stderr + done.stdout).splitlines())
        said = [line for line in told if line and not line.endswith("<no message>")]
        raise NotTakenError(
            f"W&B did not take it: {said[-1][:200] if said else 'no reason given'}",
            where=segment.path.parent.name,
            fix="the same command goes on where it ended",
        )
