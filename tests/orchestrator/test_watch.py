"""What people see: a line per fact in the log, plain lines without a terminal, bars and figures with one."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.core.layout import Layout
from orchestrator.deciding.policy import rates
from orchestrator.record.ledger import read_events
from orchestrator.record.state import StudyState, replay
from orchestrator.watching.lines import choice_lines, curve_lines, folded, from_here
from orchestrator.watching.status import status_lines, study_status
from orchestrator.watching.watch import LogFile, PlainLines, Screen, Tally
from tests.orchestrator.scripted import checkpoint, target
from tests.orchestrator.test_controller import run
from trainer.facts import StepLogged


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str, str]:
    """A scripted study watched by all three: its folder, its log, its plain lines, its screen."""
    root = tmp_path_factory.mktemp("watched") / "study"
    plain, terminal = io.StringIO(), io.StringIO()
    consoles = [
        Console(file=plain, width=100, force_terminal=False),
        Console(file=terminal, width=100, force_terminal=True, color_system=None, legacy_windows=False),
    ]
    lines, screen = PlainLines(consoles[0], target(), StudyState()), Screen(consoles[1], target(), StudyState())
    with closing(LogFile(Layout(root).log)) as log, lines, screen:
        run(root, watchers=[log, lines, screen])
    return root, Layout(root).log.read_text(), plain.getvalue(), terminal.getvalue()


def test_the_log_has_a_line_per_fact(seen: tuple[Path, str, str, str]) -> None:
    root, log, _, _ = seen
    assert log.count("\n") == sum(1 for _ in read_events(Layout(root).ledger))
    assert log.count("sample drawn | trial=main-00000001") == 29
    assert "verdict given | trial=main-00000001 epoch=1 seed=1 select | fail: 1 missing" in log


def test_plain_lines_tell_epochs_not_pictures(seen: tuple[Path, str, str, str]) -> None:
    _, _, plain, _ = seen
    assert "sample drawn" not in plain
    assert plain.count("epoch judged |") == 6
    assert "epoch judged | trial=main-00000001 epoch=3 weight=1 | 4/4 passed" in plain
    assert "\x1b" not in plain


def test_the_training_bar_knows_its_length_before_the_first_step_and_counts_all_trials() -> None:
    two = target(trials=["first-00000001", "second-00000002"])
    steps = {"first-00000001": 60, "second-00000002": 30}
    state = StudyState()
    for epoch in (1, 2, 3):
        state.checkpoints["first-00000001", epoch] = checkpoint("first-00000001", epoch)
    terminal = io.StringIO()
    console = Console(file=terminal, width=80, force_terminal=True, color_system=None, legacy_windows=False)
    with Screen(console, two, state, steps) as screen:
        before = terminal.getvalue()
        screen.step(StepLogged("second-00000002", 1, 2, 5, 0.25, 1e-3, 0.1))
    assert "30/90" in before
    assert "starting" in before
    assert "32/90" in terminal.getvalue()
    assert "second epoch 1/6 loss 0.250" in terminal.getvalue()


def test_lines_are_folded_between_words_below_their_second_column_and_paths_stay_whole() -> None:
    line = "rate     67 % of fresh seeds pass at first try: 4 of 6 (95 % interval 30 to 90 %)"
    assert folded(line, 100) == line
    assert folded(line, 80).splitlines() == [line[:75], " " * 9 + "90 %)"]
    curve = "passed by epoch  " + "  ".join(f"{epoch}: 10/12" for epoch in range(1, 13))
    for part in folded(curve, 40).splitlines()[1:]:
        assert part.startswith(" " * 17)
        assert not part.strip().startswith("10/12")
    path = f"adapter  {'folder/' * 20}adapter.safetensors"
    assert folded(path, 80) == path


def test_the_screen_ends_with_full_bars_and_every_rate(seen: tuple[Path, str, str, str]) -> None:
    *_, screen = seen
    for words in ("60/60", "29/29", "epoch 6/6 loss 0.100", "passed by epoch  1: 0/4  2: 1/4  3: 4/4"):
        assert words in screen


def test_the_result_is_told_in_figures(seen: tuple[Path, str, str, str]) -> None:
    root, *_ = seen
    state = replay(read_events(Layout(root).ledger))
    assert state.choice is not None
    lines = choice_lines(state.choice, Layout(root))
    assert lines[0] == "adopted  epoch 5 of main-00000001 at weight 1"
    assert "80 % of fresh seeds pass at first try: 4 of 5 (95 % interval 38 to 96 %)" in lines[1]
    assert lines[3].endswith("epoch-0005/adapter.safetensors")


def test_status_reads_the_ledger(seen: tuple[Path, str, str, str]) -> None:
    root, *_ = seen
    text = "\n".join(status_lines(study_status(Layout(root), target())))
    for words in (
        "study    scripted: finished; last fact",
        "main-00000001: 6 of 6 epochs saved\n",
        "29 of 29 pictures drawn, 29 judged\n",
        "passed   1: 0/4",
        "adopted  epoch 5",
    ):
        assert words in text


def test_curves_of_several_weights_are_told_apart(tmp_path: Path) -> None:
    wanted = target(weights=[0.8, 1.0])
    state = run(tmp_path / "study", wanted)
    text = "\n".join(curve_lines(rates(wanted, state)))
    assert "main-00000001 at 0.8  1: 0/4" in text
    assert "main-00000001 at 1  1: 0/4" in text
    assert Tally(wanted).total == 6 * 2 * 4 + 5


def test_paths_are_told_from_where_the_reader_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_here(tmp_path / "runs" / "report.html") == "runs/report.html"
    assert from_here(Path("/elsewhere/report.html")) == "/elsewhere/report.html"
