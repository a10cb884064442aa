"""The command line, as a user meets it: help at once, one clear line for what is wrong, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.__main__ import COMMANDS, main
from orchestrator.commands.completion import SHELLS
from orchestrator.core.errors import BusyError
from orchestrator.core.lock import Holder, holder_of, sole_driver
from orchestrator.planning.config import load_config
from orchestrator.planning.plan import make_plan

QUICK = "conf/quickstart.yaml"


def test_an_unknown_key_ends_with_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", QUICK, "train.learing_rate=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: command line: train.learing_rate=1: unknown key")
    assert error.count("\n") == 1


def test_a_study_that_lacks_things_ends_with_a_line_each_and_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "conf/trio_v2.yaml", f"volume={tmp_path}", "cluster.device=cpu"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3, "base, an adapter of the grid, dataset"
    assert all(line.startswith("error: ") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_somebody_runs_is_refused_with_exit_code_5(tmp_path: Path) -> None:
    """The lock is held by another process, as it really would be."""
    code = (
        "import sys; from pathlib import Path; from orchestrator.core.lock import Holder, holder_of, sole_driver\n"
        "with sole_driver(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    lock = tmp_path / "driver.lock"
    command = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {holder.pid} is running this study") as error, sole_driver(lock):
            pass
        assert error.value.exit_code == 5
        holder.kill()
    with sole_driver(lock):
        assert holder_of(lock) == Holder.from_text(lock.read_text()), "a dead process holds nothing"


def test_status_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 3
    assert "has not been run here" in capsys.readouterr().err


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: command line: ")
    assert "COMMAND" in said
    assert said.count("\n") == 1


def test_errors_are_json_for_machines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Also those in the arguments themselves."""
    for arguments, code in (
        (["report", str(tmp_path), "--json"], 3),
        (["plan", "--json"], 2),
        (["plan", "no", "--json"], 2),
    ):
        assert main(arguments) == code
        said = capsys.readouterr()
        told = json.loads(said.out)["error"]
        assert told["exit_code"] == code
        assert said.err.startswith("error: ")
        assert told["what"] in said.err


def test_a_file_that_is_not_there_is_never_taken_for_one_that_is_no_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "conf/nothere.yaml"]) == 2
    said = capsys.readouterr().err
    assert "rates.yaml" not in said
    assert "studies there: conf/quickstart.yaml, conf/trio_v2.yaml" in said
    assert main(["run", "conf/quikstart.yaml"]) == 2
    assert "did you mean 'conf/quickstart.yaml'?" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "study.yaml")]) == 2
    assert "give the path of a study's YAML" in capsys.readouterr().err


def test_a_plan_is_json_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "conf/trio_v2.yaml", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    counted = make_plan(load_config(Path("conf/trio_v2.yaml")))
    assert (plan["pictures"], plan["trials"][0]["steps"]) == (counted.pictures, 22050)
    assert any(pod["gpu"] == "RTX 5090" and 13 < pod["dollars"] < 16 for pod in plan["pods"])


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert [c.__name__ for c in COMMANDS if c.__name__.rpartition(".")[2] not in code] == []
    assert "-m orchestrator" in code


def test_bash_completes_commands_options_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real shell reads the code and is asked what could follow, as the Tab key asks it."""
    assert main(["completion", "bash"]) == 0
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "one.yaml").touch()
    (tmp_path / "one.txt").touch()
    ask = (
        '\ncomplete_words() { COMP_WORDS=(epochsweep "$@"); COMP_CWORD=$#; COMPREPLY=();'
        ' _shtab_epochsweep; echo "${COMPREPLY[*]}"; }'
        "\ncomplete_words st; complete_words plan --j; complete_words plan o; complete_words status m\n"
    )
    script = tmp_path / "ask.sh"
    script.write_text(capsys.readouterr().out + ask)
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, capture_output=True, text=True)
    commands, options, files, studies = (line.split() for line in done.stdout.splitlines())
    assert "status" in commands
    assert all(word.startswith("st") for word in commands)
    assert (options, files, studies) == (["--json"], ["one.yaml"], ["mine"])


HELP = """
import json, sys
from orchestrator.__main__ import COMMANDS, main
from orchestrator.commands.completion import SHELLS
from orchestrator.core.errors import BusyError
try:
    main(sys.argv[1:])
except SystemExit:
    pass
names = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(names & {"torch", "ray", "pydantic", "omegaconf", "rich", "numpy"})))
"""


@pytest.mark.parametrize("command", [*(command.__name__.rpartition(".")[2] for command in COMMANDS), ""])
def test_help_loads_nothing(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    done = subprocess.run([sys.executable, "-c", HELP, *arguments], capture_output=True, text=True, check=True)
    assert "usage:" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == []
