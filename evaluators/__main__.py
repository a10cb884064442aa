"""The evaluators' own commands, for work that needs no study."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from evaluators.commands import grid
from evaluators.decide.commands import add_commands
from orchestrator.core.errors import StudyError


def main(arguments: list[str] | None = None) -> int:
    """Parse, import what the command needs, run."""
    # Curves are fitted with matrices so small that threads only get in each other's way; read when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(prog="python -m evaluators", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure-base", help="how well a drawn-world base follows held-out captions")
    measure.add_argument("--base", default="pocket", help="`pocket` or a folder in diffusers layout")
    measure.add_argument("--captions", type=int, default=300)
    measure.add_argument("--steps", type=int, default=12, help="sampler steps (er_sde)")
    measure.add_argument("--cfg", type=float, default=1.0)
    measure.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    measure.add_argument("--keep", type=Path, help="keep the pictures in this folder")
    measure.set_defaults(command=_measure_base)
    add_commands(commands)
    grid.add_parser(commands)
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no KEY=VALUE behind an option: what it leaves is theirs.
    if strange := [text for text in rest if text.startswith("-") or not hasattr(options, "overrides")]:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if rest:
        options.overrides += rest
    try:
        return int(options.command(options))
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


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
