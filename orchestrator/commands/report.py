"""python -m orchestrator report: the page for people, made again from the ledger."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from orchestrator.commands.arguments import add_json, add_run

if TYPE_CHECKING:
    from orchestrator.commands import Commands


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "report",
        help="write the report page again",
        description="Write report.html from the ledger and the pictures. It also works while the study is running.",
    )
    add_run(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    from orchestrator.commands.output import document, tell
    from orchestrator.record.ledger import read_events
    from orchestrator.record.state import replay
    from orchestrator.report import write_report
    from orchestrator.watching.lines import from_here
    from orchestrator.watching.status import find_layout, recorded_config

    layout = find_layout(options.study)
    state = replay(read_events(layout.ledger))
    page = write_report(state, layout, recorded_config(state, layout))
    if options.json:
        document({"study": state.study, "report": str(page)})
    else:
        tell([f"report   {from_here(page)}"])
    return 0
