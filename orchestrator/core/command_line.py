"""What every `python -m PACKAGE` has in common: mistakes are lines on stderr, and exit codes say of which kind."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from orchestrator.core.errors import ConfigError, StudyError
from orchestrator.core.files import refused

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk says that takes no more."""

INTERRUPTED = 130
GOES_ON = "Stopped. The same command continues."


EXIT_CODES = """\
exit codes:
  0    done
  1    a fault of this program; its traceback is worth a report
  2    bad input: YAML, dataset or arguments; or the study cannot go on
  3    something is missing: weights, pictures, a GPU, an account, a run
  4    the disk or volume cannot be read or written; or verify found damage
  5    another process runs this study
  6    an adapter file is corrupt or does not fit
  7    base weights are corrupt or not the ones that were asked for
  8    a drawing backend outside this program, such as ComfyUI, refused or failed
  9    W&B cannot be reached, or did not take it
  130  stopped on request; the same command continues

An error is one line on stderr: where, what, how to mend it. With --json it is also on stdout: {"error": {...}}."""


class Layout(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the epilog, and a command's name beside what it does."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)
        # argparse forgets the indentation of commands when it measures them; the longest name has twelve letters.
        self._action_max_length = 16


class Parser(argparse.ArgumentParser):
    """The command line of a package: raises mistakes as errors like all others, takes KEY=VALUE behind options too.

    The namespace of a command has `run`, which takes the namespace and returns the exit code.
    """

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, where="command line", fix=f"see {self.prog} --help")

    def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Raises ConfigError for what no command takes."""
        options, rest = self.parse_known_args(arguments)
        # argparse takes no positional arguments behind an option: what it leaves is theirs.
        if strange := [text for text in rest if text.startswith("-") or not hasattr(options, "overrides")]:
            command = f"{self.prog} {arguments[0]}" if not arguments[0].startswith("-") else self.prog
            fix = f"see {command} --help"
            raise ConfigError(f"unrecognized arguments: {' '.join(strange)}", where="command line", fix=fix)
        if rest:
            options.overrides += rest
        return options


def top_parser(prog: str, description: str) -> Parser:
    """A package's command line, still without commands."""
    return Parser(prog=prog, description=description, epilog=EXIT_CODES, formatter_class=Layout)


def run_command(parser: Callable[[], Parser], arguments: Sequence[str] | None, *, stopped: str = GOES_ON) -> int:
    """Parse, run, and turn errors into lines; returns the exit code. `stopped` is said after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser().parse_all(arguments)
        return int(options.run(options))
    except StudyError as error:
        return _tell(error, as_json="--json" in arguments)
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in FULL:
            raise
        return _tell(refused(error), as_json="--json" in arguments)


def printable(text: str, *, limit: int = 0) -> str:
    """`text` with everything a terminal could obey written out (\\x1b), on one line, cut to `limit` characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"{shown[: limit - 1]}…" if limit and len(shown) > limit else shown


def _tell(error: StudyError, *, as_json: bool) -> int:
    for line in str(error).split("\n"):
        print(f"error: {printable(line)}", file=sys.stderr)
    if as_json:
        facts = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
        print(json.dumps({"error": {**facts, "exit_code": error.exit_code}}, ensure_ascii=False))
    return error.exit_code
