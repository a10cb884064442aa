"""python -m orchestrator: parse, import what the command needs, run it; bad input ends in one clear line."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from orchestrator.commands import completion, logs, plan, pull, report, run, status, stop, sync, verify
from orchestrator.core.errors import ConfigError, StudyError, VolumeError
from orchestrator.core.files import refused

COMMANDS = (run, plan, status, logs, stop, report, pull, verify, sync, completion)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk says that takes no more."""

EXIT_CODES = """\
exit codes:
  0    done
  1    a fault of this program; its traceback is worth a report
  2    bad input: YAML, dataset or arguments; or the study cannot go on
  3    something is missing: weights, pictures, a GPU, an account, a run
  4    the volume cannot be read or written; or verify found damage
  5    another process runs this study
  6    an adapter file is corrupt or does not fit
  7    base weights are corrupt or not the ones that were asked for
  9    W&B cannot be reached
  130  stopped on request; the same command continues

An error is one line on stderr: where, what, how to mend it. With --json it is also on stdout: {"error": {...}}."""


class _Parser(argparse.ArgumentParser):
    """Speaks of mistakes as the rest of the project does: in one line, as an error that is raised."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, where="command line", fix=f"see {self.prog} --help")


class _Layout(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the epilog, and a command's name beside what it does."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)
        # argparse forgets the indentation of commands when it measures them.
        self._action_max_length = max(len(command.__name__.rpartition(".")[2]) for command in COMMANDS) + 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    # The driver's matrices are small: threads would only fight with training and drawing for the cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser().parse_args(arguments)
        return int(options.run(options))
    except StudyError as error:
        print(f"error: {error}".replace("\n", "\nerror: "), file=sys.stderr)
        if "--json" in arguments:
            print(json.dumps({"error": _told(error)}, ensure_ascii=False))
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped. The same command continues.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"error: {refused(error)}", file=sys.stderr)
        return VolumeError.exit_code


def _told(error: StudyError) -> dict[str, str | int]:
    """An error for machines."""
    kind = type(error).__name__
    return {"kind": kind, "what": error.what, "where": error.where, "fix": error.fix, "exit_code": error.exit_code}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(
        prog="python -m orchestrator",
        description="Train character LoRAs, draw and judge every saved epoch, adopt the best one with its evidence.",
        epilog=EXIT_CODES,
        formatter_class=_Layout,
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    top.set_defaults(parser=top)
    return top


if __name__ == "__main__":
    sys.exit(main())
