"""python -m anima: parse, import what the command needs, run it; bad input ends in one clear line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from anima.commands import convert, draw, inspect
from orchestrator.core.command_line import Parser, run_command, top_parser

COMMANDS = (draw, inspect, convert)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    return run_command(parser, arguments, stopped="Stopped.")


def parser() -> Parser:
    """The command line."""
    top = top_parser("python -m anima", "Use the Anima model and its LoRA adapters without a study.")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
