"""python -m orchestrator: parse, import what the command needs, run it; bad input ends in one clear line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from orchestrator.commands import completion, logs, plan, pull, report, run, status, stop, sync, verify
from orchestrator.core.command_line import Parser, run_command, top_parser

COMMANDS = (run, plan, status, logs, stop, report, pull, verify, sync, completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    # The driver's matrices are small: threads would only fight with training and drawing for the cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return run_command(parser, arguments)


def parser() -> Parser:
    """The command line."""
    top = top_parser(
        "python -m orchestrator",
        "Train character LoRAs, draw and judge every saved epoch, adopt the best one with its evidence.",
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    top.set_defaults(parser=top)
    return top


if __name__ == "__main__":
    sys.exit(main())
