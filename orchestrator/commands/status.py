"""python -m orchestrator status: how far a study is, from its ledger."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from orchestrator.commands.arguments import add_json, add_run

if TYPE_CHECKING:
    from orchestrator.commands import Commands
    from orchestrator.core.layout import Layout

WATCH_S, LINES_S = 2.0, 30.0
"""How often a terminal is drawn anew, and how often a log gets a line."""


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "status",
        help="how far a study is",
        description="How far a study is: epochs, pictures, pace, time and dollars left, trouble. Read from its ledger;"
        " needs neither Ray nor the process that runs the study.",
    )
    add_run(parser)
    parser.add_argument(
        "--watch", action="store_true", help="stay until the run ends; without a terminal, a line every 30 s"
    )
    add_json(parser, "one JSON document instead of text; with --watch, one on each line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show it once, or until the run ends."""
    from orchestrator.commands.output import document, tell
    from orchestrator.watching.status import find_layout, status_lines, study_status

    layout = find_layout(options.study)
    if options.watch:
        return _watch(layout, as_json=options.json)
    status = study_status(layout)
    if options.json:
        document(status.to_json())
    else:
        tell(status_lines(status))
    return 0


def _watch(layout: Layout, *, as_json: bool) -> int:
    from orchestrator.commands.output import json_line, tell, terminal
    from orchestrator.watching.status import Status, status_lines, study_status

    def whole(status: Status) -> None:
        json_line(status.to_json()) if as_json else tell(status_lines(status))

    console = terminal()
    if as_json or not console.is_terminal or console.is_dumb_terminal:
        while (status := study_status(layout)).holder is not None:
            json_line(status.to_json()) if as_json else tell([status.line()])
            time.sleep(LINES_S)
        whole(status)
        return 0
    from rich.live import Live
    from rich.text import Text

    from orchestrator.watching.lines import folded

    with Live(console=console, auto_refresh=False, transient=True) as live:
        while (status := study_status(layout)).holder is not None:
            shown = (folded(line, console.width) for line in status_lines(status))
            live.update(Text("\n".join(shown)), refresh=True)
            time.sleep(WATCH_S)
    whole(status)
    return 0
