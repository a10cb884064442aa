"""python -m orchestrator verify: is everything that is recorded there, as it was recorded?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from orchestrator.commands.arguments import add_json, add_run

if TYPE_CHECKING:
    from orchestrator.commands import Commands
    from orchestrator.keeping.verify import Checked, Fault


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "verify",
        help="check a study's ledger, files and hashes; mend them",
        description="Compare every line of the ledger and every recorded file with what is there, in the study's"
        " folder and on its volume.",
        epilog="Ends with exit code 4 when something is not as recorded. --repair fetches it from the volume, or sets"
        " it apart so that the next run makes it again; nothing is thrown away.",
    )
    add_run(parser)
    parser.add_argument("--repair", action="store_true", help="mend what is found; refused while the study runs")
    parser.add_argument("--local", action="store_true", help="look at the study's folder only, not at its volume")
    parser.add_argument(
        "--deep", action="store_true", help="read every file of the volume, not only what it says of it"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check, tell, and mend if asked."""
    from contextlib import ExitStack

    from orchestrator.commands.output import document, tell
    from orchestrator.core.lock import sole_driver
    from orchestrator.keeping.keeping import volume_of
    from orchestrator.keeping.repair import repair
    from orchestrator.keeping.verify import check, sentences
    from orchestrator.watching.status import find_layout

    def say(line: str) -> None:
        if not options.json:
            tell([line])

    layout = find_layout(options.study)
    with ExitStack() as stack:
        if options.repair:
            stack.enter_context(sole_driver(layout.lock))
        volume = None if options.local else volume_of(layout)
        if volume is not None and options.repair:
            from infra.lease import Beating, acquire

            stack.callback(Beating(acquire(volume.store, tell=say)).close)
        checked, state = check(layout, volume=volume, deep=options.deep)
        for line in sentences(checked):
            say(line)
        left = checked.faults
        if options.repair and left:
            left = repair(layout, left, state, volume=volume, tell=say)
    if options.json:
        document(_document(str(layout.root), checked, left))
    elif not checked.faults:
        tell(["sound"])
    elif not left:
        tell(["mended; the study's next run makes what was set apart"])
    else:
        how = "these could not be mended here" if options.repair else "--repair mends them"
        tell([f"{len(left)} of {len(checked.faults)} faults stay: {how}"])
    return 4 if left else 0


def _document(folder: str, checked: Checked, left: list[Fault]) -> dict[str, Any]:
    faults = [{"kind": f.kind, "where": f.where, "what": f.what, "mended": f not in left} for f in checked.faults]
    return {"folder": folder, "looked_at": checked.counts, "faults": faults, "sound": not left}
