"""python -m orchestrator logs: what a study has said, fact by fact."""

from __future__ import annotations

import argparse
import time
from typing import IO, TYPE_CHECKING

from orchestrator.commands.arguments import add_json, add_run

if TYPE_CHECKING:
    from orchestrator.commands import Commands

LOOK_S = 0.5
BLOCK = 65536


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "logs",
        help="what a study has said, fact by fact",
        description="The last lines of a study's run.log: a line for each fact and for everything that went wrong.",
    )
    add_run(parser)
    parser.add_argument("--lines", metavar="N", type=int, default=40, help="how many; 0 for all (40)")
    parser.add_argument("--follow", action="store_true", help="go on with what is added, until the run ends")
    add_json(parser, "a JSON document on each line: time and text")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the end of the log, and what is added to it."""
    from orchestrator.core.errors import ConfigError, MissingError
    from orchestrator.core.lock import holder_of
    from orchestrator.watching.status import find_layout

    if options.lines < 0:
        raise ConfigError(f"--lines {options.lines}: there are no fewer than 0 lines", where="command line")
    layout = find_layout(options.study)
    if not layout.log.exists():
        raise MissingError("there is no log: the study never started", where=str(layout.log))
    with layout.log.open("rb") as stream:
        rest = _print(_last(stream, options.lines), b"", as_json=options.json)
        while options.follow:
            # Asked before reading: what a run writes last is there once its lock is free.
            running = holder_of(layout.lock) is not None
            if added := stream.read():
                rest = _print(added, rest, as_json=options.json)
            elif not running:
                break
            else:
                time.sleep(LOOK_S)
    return 0


def _last(stream: IO[bytes], lines: int) -> bytes:
    """The last whole lines, or all; the stream then stands at its end."""
    end = at = stream.seek(0, 2)
    data = b""
    while at > 0 and (lines == 0 or data.count(b"\n") <= lines):
        at = max(0, at - BLOCK)
        stream.seek(at)
        data = stream.read(end - at)
    return b"".join(data.splitlines(keepends=True)[-lines:])


def _print(added: bytes, rest: bytes, *, as_json: bool) -> bytes:
    """Print whole lines; returns what is no whole line yet."""
    from orchestrator.commands.output import json_line

    *whole, rest = (rest + added).split(b"\n")
    for raw in whole:
        line = raw.decode("utf-8", "replace")
        if as_json:
            day, clock, text = (*line.split(" ", 2), "", "")[:3]
            json_line({"time": f"{day} {clock}", "text": text})
        else:
            print(line, flush=True)
    return rest
