"""python -m evaluators: parse, import what the command needs, run it; bad input ends in one clear line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluators.commands import grid
from evaluators.decide.commands import add_commands
from orchestrator.core.command_line import Parser, run_command, top_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    # Curves are fitted with matrices so small that threads only get in each other's way; read when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return run_command(parser, arguments)


def parser() -> Parser:
    """The command line."""
    top = top_parser("python -m evaluators", "Draw and judge grids, and choose epochs, also without a study.")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    add_commands(commands)
    grid.add_parser(commands)
    what = "how well a drawn-world base follows held-out captions"
    measure = commands.add_parser("measure-base", help=what, description=f"Draw and read: {what}. Prints JSON.")
    measure.add_argument("--base", metavar="BASE", default="pocket", help="a folder in diffusers layout (pocket)")
    measure.add_argument("--captions", metavar="N", type=int, default=300, help="how many are drawn (300)")
    measure.add_argument("--steps", metavar="N", type=int, default=12, help="of the sampler, er_sde (12)")
    measure.add_argument("--cfg", metavar="SCALE", type=float, default=1.0, help="guidance (1)")
    measure.add_argument("--threads", metavar="N", type=int, default=0, help="CPU threads; 0 leaves torch's choice (0)")
    measure.add_argument("--keep", metavar="FOLDER", type=Path, help="keep the pictures there")
    measure.set_defaults(run=_measure_base)
    return top


def _measure_base(options: argparse.Namespace) -> int:
    from anima.base import base_folder
    from evaluators.base_quality import measure_base

    quality = measure_base(
        base_folder(options.base),
        options.captions,
        steps=options.steps,
        cfg=options.cfg,
        threads=options.threads,
        keep=options.keep,
    )
    print(quality.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
