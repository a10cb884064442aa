"""`python -m evaluators analyse` and `compare`: what people see, and what a program reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluators.__main__ import main

EXAMPLES = Path(__file__).resolve().parents[2] / "conf" / "examples"
TRIO, HAND = str(EXAMPLES / "trio_v2.csv"), str(EXAMPLES / "keikana_v2.csv")


def test_a_table_is_analysed_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["analyse", TRIO]) == 0
    page = capsys.readouterr().out
    assert "Adopt epoch 143." in page
    assert "seed" in page
    assert "failed at 119, 131; passed at 143" in page
    assert "16/16" in page
    assert "\x1b" not in page, "a pipe gets no control codes"
    assert max(map(len, page.splitlines())) <= 80


def test_the_other_example_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", HAND]) == 0
    assert "Adopt epoch 140." in capsys.readouterr().out


def test_a_table_is_analysed_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", TRIO, "--json", "--margin", "0.05"]) == 0
    (trial,) = json.loads(capsys.readouterr().out)["trials"]
    assert trial["chosen"]["epoch"] == 143
    assert trial["images"] == trial["scored"] == 78
    assert [point["epoch"] for point in trial["curves"]] == [119, 131, 143, 147, 160, 170, 180, 190]
    assert all(point["low"] < point["rate"] < point["high"] for point in trial["curves"])
    assert sum(trial["onset"].values()) == pytest.approx(1, abs=1e-4)


def test_labels_correct_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", TRIO, "--good-passed", "48/50", "--bad-failed", "47/50"]) == 0
    assert "corrected for the judge" in capsys.readouterr().out
    assert main(["analyse", TRIO, "--good-passed", "26/50", "--bad-failed", "25/50"]) == 0
    assert "NOT corrected" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["epoch,pass\n", "epoch,pass\n1,?\n2,?\n", "epoch,pass\n4,1\n", "epoch,pass\n4,0\n5,0\n"]
)
def test_hardly_a_table_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    assert main(["analyse", str(file)]) == 0
    assert capsys.readouterr().out.strip()
    assert main(["analyse", str(file), "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_two_epochs_are_compared_on_their_shared_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", TRIO, "143", "131"]) == 0
    said = capsys.readouterr().out
    assert "143 against 131 on 10 shared seeds: 1 pass" in said
    assert "McNemar p = 1" in said
    assert main(["compare", HAND, "140", "150", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == {"both": 0, "first": 3, "second": 0, "neither": 0}


def test_two_studies_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", HAND, "140", "144", "--with", HAND]) == 0
    assert "on 3 shared seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["analyse", "nowhere.csv"], "no such table"),
        (["analyse", TRIO, "--margin", "1.5"], "--margin"),
        (["analyse", TRIO, "--prompt-weight", "duo=2"], "no picture of prompt 'duo'"),
        (["analyse", TRIO, "--prompt-weight", "duo"], "write NAME=2"),
        (["analyse", TRIO, "--good-passed", "48/50"], "--bad-failed"),
        (["analyse", TRIO, "--good-passed", "60/50", "--bad-failed", "1/2"], "write K/N"),
        (["compare", TRIO, "143", "144"], "no picture of epoch 144"),
        (["compare", TRIO, "143", "160"], "share no seed"),
        (["compare", TRIO, "143", "best"], "cannot read 'best'"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) != 0
    said = capsys.readouterr()
    assert complaint in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
