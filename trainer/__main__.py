"""python -m trainer: parse, import what the command needs, run it; bad input ends in one clear line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.command_line import Parser, run_command, top_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    return run_command(parser, arguments)


def parser() -> Parser:
    """The command line."""
    top = top_parser(
        "python -m trainer",
        "Train LoRAs alone: no Ray, no grid, no judge. Studies find what it trained.",
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run",
        help="train, or go on training, the trials of a YAML",
        description="Train the trials of a YAML. Several GPUs: torchrun --nproc_per_node 2 -m trainer run CONF",
    )
    _add_study(run)
    run.add_argument("--trial", metavar="NAME", help="only this one")
    run.set_defaults(run=_run)

    check = commands.add_parser(
        "check",
        help="what becomes of every picture: sizes, crops, what is left out",
        description="Read the dataset of a YAML and report on it. Nothing is trained and no model is loaded.",
    )
    _add_study(check)
    check.set_defaults(run=_check)

    imported = commands.add_parser(
        "import",
        help="read the settings of another trainer",
        description="Write the YAML that trains what another trainer's file trains, and list every key it cannot carry."
        " Reads AnimaLoraToolkit's YAML, and kohya's dataset and argument files (TOML).",
    )
    imported.add_argument("file", metavar="FILE", type=Path, help="the other trainer's file")
    imported.add_argument("--to", metavar="CONF", type=Path, help="write there instead of to the terminal")
    imported.set_defaults(run=_import)
    return top


def _add_study(command: argparse.ArgumentParser) -> None:
    command.add_argument("conf", metavar="CONF", type=Path, help="the study's YAML, like conf/quickstart.yaml")
    command.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", help="set a key of the YAML, like train.learning_rate=1e-3"
    )


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from trainer.commands.run import run

    return run(options.conf, options.overrides, options.trial, Console())


def _check(options: argparse.Namespace) -> int:
    from rich.console import Console

    from trainer.commands.check import check

    return check(options.conf, options.overrides, Console())


def _import(options: argparse.Namespace) -> int:
    from trainer.commands.importing import import_settings

    return import_settings(options.file, options.to)


if __name__ == "__main__":
    sys.exit(main())
