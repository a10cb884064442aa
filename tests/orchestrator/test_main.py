"""The command line, as a user meets it: help at once, one clear line for what is wrong, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.core.errors import BusyError
from orchestrator.core.lock import sole_driver

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
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_somebody_runs_is_refused_with_exit_code_5(tmp_path: Path) -> None:
    """The lock is held by another process, as it really would be."""
    code = (
        "import sys; from pathlib import Path; from orchestrator.core.lock import sole_driver\n"
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
        assert lock.read_text().strip().isdigit(), "a dead process holds nothing"


def test_status_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 3
    assert "has not been run here" in capsys.readouterr().err


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main([])
    assert error.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


HELP = """
import json, sys
from orchestrator.__main__ import main
from orchestrator.core.errors import BusyError
try:
    main(sys.argv[1:])
except SystemExit:
    pass
names = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(names & {"torch", "ray", "pydantic", "omegaconf", "rich", "numpy"})))
"""


@pytest.mark.parametrize("command", ["run", "plan", "status", "report", ""])
def test_help_loads_nothing(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    done = subprocess.run([sys.executable, "-c", HELP, *arguments], capture_output=True, text=True, check=True)
    assert "usage:" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == []
