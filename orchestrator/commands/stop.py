"""python -m orchestrator stop: end a running study from another terminal."""

from __future__ import annotations

import argparse
import signal
import time
from typing import TYPE_CHECKING

from orchestrator.commands.arguments import add_json, add_run

if TYPE_CHECKING:
    from orchestrator.commands import Commands

LOOK_S = 0.2


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "stop",
        help="end a running study after the work in hand",
        description="Ask the process that runs a study to start nothing new, to finish and record the pictures under"
        " way and the epoch that is being trained, and to end. `run` goes on later.",
    )
    add_run(parser)
    parser.add_argument("--now", action="store_true", help="do not finish the work in hand, as Ctrl-C does")
    parser.add_argument(
        "--within", metavar="S", type=float, default=900.0, help="how long to wait for the end (900); 0: only ask"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask, and wait for the end."""
    from orchestrator.commands.output import document, tell
    from orchestrator.core.errors import BusyError
    from orchestrator.core.lock import holder_of
    from orchestrator.watching.status import duration, find_layout

    layout = find_layout(options.study)
    holder = holder_of(layout.lock)
    if holder is None:
        document({"stopped": False, "running": False}) if options.json else tell(["Nobody runs this study."])
        return 0
    if not holder.is_here:
        raise BusyError(str(holder), where=str(layout.root), fix=f"stop it on {holder.host}")
    holder.send(signal.SIGTERM if options.now else signal.SIGUSR1)
    if not options.json:
        doing = "at once" if options.now else "after the pictures under way and the epoch being trained"
        tell([f"Asked process {holder.pid} to stop {doing}."])
    began = time.monotonic()
    while options.within and holder_of(layout.lock) == holder:
        if time.monotonic() - began > options.within:
            raise BusyError(
                f"process {holder.pid} was asked to stop, but still runs after {duration(options.within)}",
                where=str(layout.root),
                fix="wait longer with --within, or do not finish the work in hand: --now",
            )
        time.sleep(LOOK_S)
    ended = holder_of(layout.lock) != holder
    if options.json:
        document({"stopped": ended, "running": not ended, "pid": holder.pid})
    elif ended:
        tell(["Stopped. `run` goes on where it ended."])
    return 0
