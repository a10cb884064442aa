"""python -m orchestrator completion: the commands under one short name, with completion of their arguments."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.commands import Commands

NAME = "epochsweep"
SHELLS = ("bash", "zsh", "fish")


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "completion",
        help="completion for your shell",
        description=f"Print shell code that defines `{NAME}`, short for this very `python -m orchestrator`, and"
        " completes its commands, options, YAML files and studies.",
        epilog=f'bash, zsh: eval "$(python -m orchestrator completion bash)" · fish: python -m orchestrator completion'
        f" fish | source · then: {NAME} <Tab>",
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the code."""
    import shtab

    top: argparse.ArgumentParser = options.parser
    top.prog = NAME
    print(_short_name(options.shell))
    _say_what_completes(top)
    print(shtab.complete(top, options.shell, root_prefix=NAME))
    return 0


def _short_name(shell: str) -> str:
    """The function that calls this checkout with this interpreter, from any folder."""
    python, project = shlex.quote(sys.executable), shlex.quote(str(Path(__file__).resolve().parents[2]))
    if shell == "fish":
        return f"function {NAME}; env PYTHONPATH={project} {python} -m orchestrator $argv; end"
    return f'{NAME}() {{ PYTHONPATH={project} {python} -m orchestrator "$@"; }}'


def _say_what_completes(parser: argparse.ArgumentParser) -> None:
    """Files for files, studies for studies; the parsers themselves know nothing of completion."""
    import shtab

    studies = shtab.cmd("ls runs 2>/dev/null")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _say_what_completes(command)
        elif action.metavar == "CONF":
            action.complete = shtab.glob("*.yaml", "*.yml")  # type: ignore[attr-defined]
        elif action.metavar == "RUN":
            action.complete = studies  # type: ignore[attr-defined]
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
