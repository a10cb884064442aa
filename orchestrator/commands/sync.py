"""python -m orchestrator sync: send the W&B records that were kept locally."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from orchestrator.commands.arguments import add_json, add_run

if TYPE_CHECKING:
    from orchestrator.commands import Commands


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "sync",
        help="send W&B records that were kept locally",
        description="Send what was recorded while W&B was offline or out of reach, under the same runs. What W&B has"
        " already is not sent again, and the same command goes on after a failure. Needs WANDB_API_KEY or ~/.netrc.",
    )
    add_run(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Send, and say what was sent."""
    import sys

    from orchestrator.commands.output import document, tell
    from orchestrator.core.errors import BusyError
    from orchestrator.core.lock import holder_of
    from orchestrator.record.ledger import read_events
    from orchestrator.record.state import replay
    from orchestrator.tracking.sync import sync, unsent
    from orchestrator.watching.status import find_layout, recorded_config

    layout = find_layout(options.study)
    config = recorded_config(replay(read_events(layout.ledger)), layout)
    if (holder := holder_of(layout.lock)) is not None:
        raise BusyError(
            str(holder), where=str(layout.root), fix="send when it has ended: its records are still growing"
        )
    if not unsent(layout):
        told = {"study": config.study, "segments": 0, "rows": 0}
        document(told) if options.json else tell(["Nothing to send: W&B has all of it, or nothing was recorded."])
        return 0
    sent = sync(config, layout, lambda line: print(line, file=sys.stderr if options.json else sys.stdout, flush=True))
    if options.json:
        document({"study": config.study, "segments": sent.segments, "rows": sent.rows, "dashboard": sent.dashboard})
    else:
        tell([f"sent     {sent.segments} segments, {sent.rows} rows", f"see      {sent.dashboard}"])
    return 0
