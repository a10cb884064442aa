"""python -m anima: parse, import what the command needs, run it; bad input ends in one clear line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from anima.commands import convert, draw, inspect
from anima.commands.terminal import printable
from orchestrator.core.errors import ConfigError, StudyError

COMMANDS = (draw, inspect, convert)


class _Parser(argparse.ArgumentParser):
    """Speaks of mistakes as the rest of the project does: in one line, as an error that is raised."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, fix=f"see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        options = parser().parse_args(arguments)
        return int(options.run(options))
    except StudyError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(prog="python -m anima", description="Use the Anima model and its LoRA adapters without a study.")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
