"""python -m orchestrator status: how far a study is, from its ledger."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from orchestrator.commands.arguments import add_run

if TYPE_CHECKING:
    from orchestrator.commands import Commands


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "status",
        help="how far a study is",
        description="How far a study is, from its ledger. Needs neither Ray nor the process that runs the study.",
    )
    add_run(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show progress."""
    from rich.console import Console

    from orchestrator.status import show_status

    return show_status(options.study, Console())
