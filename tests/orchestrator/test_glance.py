"""What `status` reads at a glance is what the whole state says; and the commands that look at a run or end it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.__main__ import main
from orchestrator.core.layout import Layout
from orchestrator.deciding.policy import rates
from orchestrator.planning.config import parse_config, to_data
from orchestrator.planning.target import build_target
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Ledger, read_events
from orchestrator.record.state import replay
from orchestrator.watching.glance import Glance
from orchestrator.watching.watch import Tally
from tests.orchestrator.drawn_study import BASE, DATASET, DrawnStudy, draw_study

RUNNING = """
import pathlib, signal, sys, threading
from orchestrator.core.lock import sole_driver
asked = threading.Event()
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _: (print(signal.Signals(number).name, flush=True), asked.set()))
with sole_driver(pathlib.Path(sys.argv[1])):
    print("running", flush=True)
    while not asked.wait(0.05):
        pass
"""


@pytest.fixture
def study(tmp_path: Path) -> DrawnStudy:
    return draw_study(tmp_path, epochs=4, seeds=3, confirm=2, weights=(0.8, 1.0))


def wanted(study: DrawnStudy, **grid: Any) -> Target:
    data = to_data(study.config)
    config = parse_config(data | {"grid": data["grid"] | grid})
    return build_target(config, dataset_sha256=DATASET, base_sha256=BASE)


def agree(layout: Layout, target: Target) -> tuple[int, int]:
    """The glance says what the whole state says; how many are drawn and judged."""
    glance, state, tally = Glance.of(layout.ledger), replay(read_events(layout.ledger)), Tally(target)
    counts = glance.counts(target, tally.confirm)
    assert counts == (tally.drawn(state), tally.judged(state))
    assert glance.rates(target) == rates(target, state)
    assert glance.state.checkpoints == state.checkpoints
    assert glance.state.choice == state.choice
    return counts


def test_a_glance_agrees_with_the_whole_state(study: DrawnStudy) -> None:
    assert agree(study.layout, wanted(study)) == (26, 26)
    assert agree(study.layout, wanted(study, seeds=[1, 2])) == (18, 18), "a seed that is not asked for any more"
    assert agree(study.layout, wanted(study, weights=[0.8])) == (14, 14)
    assert agree(study.layout, wanted(study, drawing={"steps": 13, "width": 96, "height": 64})) == (2, 2)


def test_it_forgets_what_was_set_apart_and_reads_lines_of_other_forms(study: DrawnStudy) -> None:
    lines = study.layout.ledger.read_text().splitlines()
    spaced = [json.dumps(json.loads(line), separators=(",", ":")) if i % 3 else line for i, line in enumerate(lines)]
    study.layout.ledger.write_text("".join(f"{line}\n" for line in spaced))
    assert agree(study.layout, wanted(study)) == (26, 26)
    cell = next(c for c in study.state.cells.values() if c.purpose == "select")
    ledger = Ledger(study.layout.ledger)
    ledger.record("file_quarantined", path="a", moved_to="b", reason="torn", cell_key=cell.key)
    ledger.record("file_quarantined", path="a", moved_to="b", reason="torn", trial=study.trial, epoch=4)
    ledger.close()
    assert agree(study.layout, wanted(study))[0] < 26


def test_status_is_json_for_machines(study: DrawnStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(study.layout.root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["standing"], told["pictures"]["drawn"], told["process"]) == ("finished", 26, None)
    assert told["choice"]["epoch"] == told["trials"][0]["newest_epoch"] or told["choice"]["epoch"] in (1, 2, 3)
    assert [rate["epoch"] for rate in told["rates"]] == [1, 2, 3, 4] * 2


def test_watching_what_nobody_runs_ends_at_once(study: DrawnStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(study.layout.root), "--watch"]) == 0
    assert "finished" in capsys.readouterr().out


def test_logs_are_the_last_lines(study: DrawnStudy, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(study.layout.root)
    assert main(["logs", root]) == 3
    study.layout.log.write_text("".join(f"2026-01-01 00:00:0{i} fact {i}\n" for i in range(9)))
    capsys.readouterr()
    assert main(["logs", root, "--lines", "2", "--follow"]) == 0
    assert capsys.readouterr().out == "2026-01-01 00:00:07 fact 7\n2026-01-01 00:00:08 fact 8\n"
    assert main(["logs", root, "--lines", "0", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0] == {"time": "2026-01-01 00:00:00", "text": "fact 0"}
    assert len(told) == 9


@pytest.mark.parametrize(("arguments", "number"), [([], "SIGUSR1"), (["--now"], "SIGTERM")])
def test_stop_asks_the_process_that_holds_the_lock(
    study: DrawnStudy, arguments: list[str], number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", RUNNING, str(study.layout.lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "running\n"
        assert main(["stop", str(study.layout.root), *arguments]) == 0
        assert f"Asked process {runner.pid} to stop" in capsys.readouterr().out
        assert runner.stdout.read() == f"{number}\n"
    assert main(["stop", str(study.layout.root)]) == 0
    assert "Nobody runs this study." in capsys.readouterr().out


def test_stop_never_signals_a_process_that_only_has_the_number(study: DrawnStudy) -> None:
    """The number of a dead driver may be another process's by now: nobody holds the lock, so nobody is asked."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        facts = {"pid": other.pid, "host": "here", "since": 0.0, "started": 1}
        study.layout.lock.write_text(json.dumps(facts) + "\n")
        assert main(["stop", str(study.layout.root)]) == 0
        assert other.poll() is None
        other.kill()
