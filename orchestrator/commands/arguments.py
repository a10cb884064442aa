"""Arguments that several commands have, so that they are called and explained the same everywhere."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_conf(parser: argparse.ArgumentParser) -> None:
    """A study by its YAML, with overrides."""
    parser.add_argument("conf", metavar="CONF", type=Path, help="the study's YAML, like conf/quickstart.yaml")
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", help="set a key of the YAML, like train.learning_rate=1e-3"
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """A study that was run, by name."""
    parser.add_argument(
        "study", metavar="RUN", help="a study: its folder, its name under runs/, or the YAML it is run from"
    )


def add_json(parser: argparse.ArgumentParser, what: str = "one JSON document instead of text") -> None:
    """Output for machines."""
    parser.add_argument("--json", action="store_true", help=what)
