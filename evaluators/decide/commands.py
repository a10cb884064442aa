"""`analyse` and `compare`: what a table of verdicts says, for people who have one from anywhere."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evaluators.decide.intervals import Calibration
    from evaluators.decide.table import Context, Row


def add_commands(commands: Any) -> None:
    """Add `analyse` and `compare` to the subcommands of a parser."""
    table = (
        "a CSV with columns epoch and pass (seed, weight, prompt, layout, trial, signs if known); or a study: "
        "its folder, its name under runs/, or its YAML"
    )
    analyse = commands.add_parser("analyse", help="which epoch to adopt, from a table of verdicts or a study")
    analyse.add_argument("table", metavar="RUN|CSV", type=Path, help=table)
    analyse.add_argument(
        "--margin", metavar="SHARE", type=float, default=0.1, help="how close to the best is as good (0.1)"
    )
    analyse.add_argument(
        "--prompt-weight", metavar="NAME=W", action="append", default=[], help="prompts count W, not 1"
    )
    analyse.add_argument("--good-passed", metavar="K/N", help="the judge passed K of N pictures a person had passed")
    analyse.add_argument("--bad-failed", metavar="K/N", help="the judge failed K of N pictures a person had failed")
    analyse.add_argument(
        "--labels", metavar="CSV", type=Path, help="what a person said of some of the same pictures: corrects the rates"
    )
    analyse.add_argument("--json", action="store_true", help="print everything as JSON")
    analyse.set_defaults(run=_analyse)
    compare = commands.add_parser("compare", help="two epochs, weights or studies on the seeds they share")
    compare.add_argument("table", metavar="RUN|CSV", type=Path, help=table)
    compare.add_argument("first", metavar="EPOCH[@WEIGHT]", help="like 143 or 143@0.8, or `control`")
    compare.add_argument("second", metavar="EPOCH[@WEIGHT]", help="the other one")
    compare.add_argument(
        "--with", dest="other", metavar="RUN|CSV", type=Path, help="where the second is; else the same"
    )
    compare.add_argument("--trial", metavar="TRIAL", help="which trial of the table, when it holds several")
    compare.add_argument("--with-trial", metavar="TRIAL", help="the trial of the second, when it is another")
    compare.add_argument(
        "--margin", metavar="SHARE", type=float, default=0.05, help="differences below it do not matter (0.05)"
    )
    compare.add_argument("--json", action="store_true", help="print the comparison as JSON")
    compare.set_defaults(run=_compare)


def _analyse(options: argparse.Namespace) -> int:
    margin = _margin(options.margin)
    weights = dict(_prompt_weight(text) for text in options.prompt_weight)
    calibration = _calibration(options.good_passed, options.bad_failed)
    if calibration and options.labels:
        raise ConfigError("a judge is calibrated once", where="--labels", fix="leave out --good-passed, --bad-failed")
    from evaluators.decide.analysis import analyse
    from evaluators.decide.read import read_rows

    rows = read_rows(options.table)
    if unknown := sorted(set(weights) - {row.context.prompt for row in rows}):
        raise ConfigError(f"no picture of prompt {unknown[0]!r}", where="--prompt-weight")
    if options.labels:
        from evaluators.decide.labels import calibration_of

        calibration = calibration_of(rows, read_rows(options.labels), options.labels)
    analysis = analyse(rows, margin=margin, context_weights=weights, calibration=calibration)
    if options.json:
        json.dump(analysis.to_json(), sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        from evaluators.decide.render import render

        _print(render(analysis))
    return 0


def _compare(options: argparse.Namespace) -> int:
    margin = _margin(options.margin)
    from evaluators.decide.paired import compare, pairs_of
    from evaluators.decide.read import read_rows

    rows = read_rows(options.table)
    first = _outcomes(rows, options.first, options.trial, options.table)
    other, trial = options.other or options.table, options.with_trial or (None if options.other else options.trial)
    second = _outcomes(read_rows(other) if options.other else rows, options.second, trial, other)
    pairs = pairs_of(first, second)
    if not pairs.n:
        raise ConfigError(
            "the two share no seed that was scored with both",
            where=str(options.table),
            fix="draw both on the same seeds; `analyse` compares rates over different ones",
        )
    said = compare(pairs, margin=margin)
    if options.json:
        print(json.dumps(asdict(said), indent=2))
        return 0
    from evaluators.decide.render_pair import render_comparison

    one, two = _named(options.first, options.trial), _named(options.second, trial)
    if one == two:
        one, two = f"{one} of {options.table.name}", f"{two} of {other.name}"
    _print(render_comparison(one, two, said, margin))
    return 0


def _named(which: str, trial: str | None) -> str:
    named = which if which == "control" else f"epoch {which.replace('@', ' at weight ')}"
    return f"{named} of {trial}" if trial else named


def _print(page: RenderableType) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False).print(page)


def _outcomes(rows: list[Row], which: str, trial: str | None, path: Path) -> Mapping[tuple[Context, str], bool]:
    from evaluators.decide.paired import control_outcomes, outcomes
    from evaluators.decide.table import by_trial, make_table

    trials = by_trial(rows)
    if trial is None and len(trials) > 1:
        raise ConfigError("there are several trials", where=str(path), fix=f"--trial one of: {', '.join(trials)}")
    if trial is not None and trial not in trials:
        raise ConfigError(f"there is no trial {trial!r}", where=str(path), fix=f"it holds: {', '.join(trials)}")
    table = make_table(rows if trial is None else trials[trial])
    if which == "control":
        return control_outcomes(table)
    epoch, _, weight = which.partition("@")
    try:
        number, strength = int(epoch), float(weight) if weight else None
    except ValueError:
        raise ConfigError(f"cannot read {which!r}", where="command line", fix="write 143, 143@0.8 or control") from None
    if number not in table.epochs:
        raise ConfigError(f"there is no picture of epoch {number}", where=str(path))
    if strength is None and len(table.weights) > 1:
        listed = ", ".join(f"{w:g}" for w in table.weights)
        raise ConfigError(
            f"there are several weights: {listed}", where=str(path), fix=f"write {epoch}@{table.weights[0]:g}"
        )
    return outcomes(table, number, strength)


def _margin(margin: float) -> float:
    if not 0 <= margin < 1:
        raise ConfigError(f"a margin is a share from 0 to below 1, not {margin:g}", where="--margin")
    return margin


def _prompt_weight(text: str) -> tuple[str, float]:
    name, _, weight = text.rpartition("=")
    try:
        value = float(weight)
    except ValueError:
        value = -1.0
    if not name or not 0 <= value < 1e9:
        raise ConfigError(f"cannot read {text!r}", where="--prompt-weight", fix="write NAME=2")
    return name, value


def _calibration(good: str | None, bad: str | None) -> Calibration | None:
    if good is None and bad is None:
        return None
    if good is None or bad is None:
        raise ConfigError(
            "a judge is known by both shares", where="command line", fix="give --good-passed, --bad-failed"
        )
    from evaluators.decide.intervals import Calibration

    return Calibration(*_share(good, "--good-passed"), *_share(bad, "--bad-failed"))


def _share(text: str, where: str) -> tuple[int, int]:
    """(N, K) of a text like K/N."""
    k, _, n = text.partition("/")
    if not (k.strip().isdecimal() and n.strip().isdecimal()) or not 0 < int(n) >= int(k):
        raise ConfigError(f"cannot read {text!r}", where=where, fix="write K/N, like 48/50")
    return int(n), int(k)
