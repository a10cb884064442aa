"""python -m orchestrator: parse, import what the command needs, run it; bad input ends in one clear line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    # The driver's matrices are small: threads would only fight with training and drawing for the cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    options = parser().parse_args(arguments)
    from orchestrator.core.errors import StudyError

    try:
        return int(options.command(options))
    except StudyError as error:
        print(f"error: {error}".replace("\n", "\nerror: "), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped. The same command continues.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m orchestrator",
        description="Train character LoRAs, draw and judge every saved epoch, adopt the best one with its evidence.",
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run or resume a study", description="Run or resume the study of a YAML.")
    _add_study(run)
    run.set_defaults(command=_run)

    plan = commands.add_parser(
        "plan",
        help="what a study takes: steps, pictures, hours, dollars",
        description="Expand a study without running anything: steps, exposures, cells, hours and dollars per pod.",
    )
    _add_study(plan)
    plan.set_defaults(command=_plan)

    status = commands.add_parser("status", help="how far a study is", description="Progress, read from the ledger.")
    status.add_argument("study", metavar="RUN|CONF", help="folder of a study, its name under runs/, or its YAML")
    status.set_defaults(command=_status)

    report = commands.add_parser(
        "report", help="rebuild the report page", description="Rebuild report.html from the ledger."
    )
    report.add_argument("study", metavar="RUN|CONF", help="folder of a study, its name under runs/, or its YAML")
    report.set_defaults(command=_report)
    return top


def _add_study(command: argparse.ArgumentParser) -> None:
    command.add_argument("conf", metavar="CONF", type=Path, help="the study's YAML, like conf/quickstart.yaml")
    command.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", help="set a key of the YAML, like train.learning_rate=1e-3"
    )


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from orchestrator.run import run_study

    return run_study(options.conf, options.overrides, Console())


def _plan(options: argparse.Namespace) -> int:
    from rich.console import Console

    from orchestrator.plan import show_plan

    return show_plan(options.conf, options.overrides, Console())


def _status(options: argparse.Namespace) -> int:
    from rich.console import Console

    from orchestrator.status import show_status

    return show_status(options.study, Console())


def _report(options: argparse.Namespace) -> int:
    from rich.console import Console

    from orchestrator.status import rebuild_report

    return rebuild_report(options.study, Console())


if __name__ == "__main__":
    sys.exit(main())
