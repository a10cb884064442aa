"""python -m orchestrator run: do whatever of a study is not done yet."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING

from orchestrator.commands.arguments import add_conf, add_json

if TYPE_CHECKING:
    from orchestrator.commands import Commands


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "run",
        help="run or resume a study",
        description="Train, draw, judge and choose, as far as that is not done yet. The same command resumes.",
        epilog="Ctrl-C stops at once, `stop` from another terminal after the work in hand; nothing that was saved or"
        " drawn is made twice.",
    )
    add_conf(parser)
    parser.add_argument(
        "--takeover", action="store_true", help="stop whoever runs this study, also on another machine, and go on here"
    )
    parser.add_argument(
        "--inline",
        action="store_true",
        help="do everything in this process, one thing after another, without Ray: slower, and easy to debug",
    )
    add_json(parser, "a JSON document on each line: facts, steps, notes; what people read goes to stderr")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run or resume."""
    # Until there is work in hand, a request to end it is a request to stop.
    signal.signal(signal.SIGUSR1, signal.default_int_handler)

    from rich.console import Console

    from orchestrator.run import run_study
    from orchestrator.watching.watch import JsonLines

    overrides = [*options.overrides, *(["cluster.provider=inline"] if options.inline else [])]
    console = Console(stderr=options.json)
    show = JsonLines if options.json else None
    return run_study(options.conf, overrides, console, takeover=options.takeover, show=show)
