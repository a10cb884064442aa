"""All four programs meet a mistake alike: one line on stderr, JSON for machines, the exit codes of one table."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import anima.__main__
import evaluators.__main__
import orchestrator.__main__
import trainer.__main__
from orchestrator.core.command_line import EXIT_CODES, printable
from orchestrator.core.errors import StudyError

Main = Callable[[Sequence[str] | None], int]
PROGRAMS: dict[str, Main] = {
    "orchestrator": orchestrator.__main__.main,
    "trainer": trainer.__main__.main,
    "evaluators": evaluators.__main__.main,
    "anima": anima.__main__.main,
}
QUICK = "conf/quickstart.yaml"


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["--nothing"]], ids=["none", "unknown", "option"])
def test_a_slip_in_the_command_is_one_line(
    program: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert PROGRAMS[program](arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: command line: ")
    assert said.err.count("\n") == 1
    assert said.err.endswith(f"see python -m {program} --help\n")


@pytest.mark.parametrize(("program", "command"), [("orchestrator", "plan"), ("trainer", "run"), ("evaluators", "grid")])
def test_settings_may_stand_behind_options(program: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    option = {"plan": ["--json"], "run": ["--trial", "main"], "grid": ["--threads", "1"]}[command]
    assert PROGRAMS[program]([command, QUICK, *option, "study=", "--bogus"]) == 2
    assert f"unrecognized arguments: --bogus — see python -m {program} {command} --help" in capsys.readouterr().err
    key = {"plan": "train.epoch", "run": "train.epoch", "grid": "grid.seds"}[command]
    assert PROGRAMS[program]([command, QUICK, *option, f"{key}=1"]) == 2
    assert f"command line: {key}=1: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("orchestrator", ["report", "nothing-here", "--json"]),
        ("evaluators", ["analyse", "nothing-here", "--json"]),
        ("anima", ["inspect", "nothing-here.safetensors", "--json"]),
    ],
)
def test_errors_are_json_for_machines(program: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAMS[program](arguments) == 3
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["exit_code"] == 3
    assert said.err.startswith("error: ")


def test_every_exit_code_has_one_meaning_and_is_written_down() -> None:
    """Those of the help, those of the page, and those that errors have."""
    shown = {int(code) for code in re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE)}
    page = re.findall(r"^\| (\d+) \|", Path("docs/commands.md").read_text(), re.MULTILINE)
    assert sorted(map(int, page)) == sorted(shown)
    for module in ("orchestrator.run", "orchestrator.tracking.service", "trainer.guards"):
        importlib.import_module(module)
    kinds, codes = [StudyError], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        codes.add(kind.exit_code)
    assert codes <= shown


def test_words_of_others_do_not_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert printable("äöü 小春") == "äöü 小春"
    assert printable("abcdef", limit=4) == "abc…"
