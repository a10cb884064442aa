"""`python -m evaluators analyse` and `compare`: what people see, and what a program reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from evaluators.__main__ import main
from evaluators.decide.read import read_rows
from orchestrator.core.study import Cell, Drawing, Finding, Prompt, Verdict

EXAMPLES = Path(__file__).resolve().parents[2] / "conf" / "examples"
TRIO, HAND = str(EXAMPLES / "trio_v2.csv"), str(EXAMPLES / "keikana_v2.csv")


def unwrapped(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without line breaks."""
    return " ".join(capsys.readouterr().out.split())


def test_a_table_is_analysed_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["analyse", TRIO]) == 0
    page = capsys.readouterr().out
    assert "Adopt epoch 143." in page
    assert "seed" in page
    assert "failed at 119, 131; passed at 143" in page
    assert "on held-out pictures, against" in " ".join(page.split()), "the smoothers' contest is told"
    assert page.index("kanachan") < page.index("keichan"), "who breaks first comes first"
    assert "epoch 147: drift on kanachan is seen for the first time" in page
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
    assert "corrected for a judge who passed 48 of 50 good and failed 47" in unwrapped(capsys)
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


def ledger_of(table: Path, folder: Path) -> Path:
    """A run's folder with a ledger that says what a table says; nameless seeds get numbers nobody else has."""
    fields = {"negative": "", "cast": ("kanachan", "keichan", "koharu")}
    prompt, drawing, lines = Prompt("trio", "three girls", **fields), Drawing(), []  # type: ignore[arg-type]
    for number, row in enumerate(read_rows(table), 1000):
        seed = int(row.seed.removeprefix("again-") or number)
        cell = Cell("t", row.epoch, "a.safetensors", f"{row.epoch:064d}", row.weight, prompt, seed, drawing, "b" * 64)
        findings = tuple(Finding(sign.kind, sign.character) for sign in row.signs)  # type: ignore[arg-type]
        verdict = Verdict(cell.key, "pixels", 1, row.outcome, findings)
        lines.append({"kind": "sample_drawn", "cell": cell.to_json(), "sample": {}})
        lines.append({"kind": "verdict_given", "verdict": verdict.to_json()})
    folder.mkdir()
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_run_is_analysed_as_the_same_pictures_in_a_table_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(ledger_of(Path(TRIO), tmp_path / "run"))
    assert main(["analyse", run, "--json"]) == 0
    (of_run,) = json.loads(capsys.readouterr().out)["trials"]
    assert main(["analyse", TRIO, "--json"]) == 0
    (of_table,) = json.loads(capsys.readouterr().out)["trials"]
    assert of_run["chosen"]["epoch"] == of_table["chosen"]["epoch"] == 143
    assert of_run["warnings"] == of_table["warnings"]
    assert of_run["signs"] == of_table["signs"]
    assert [p["wilson"] for p in of_run["curves"]] == [p["wilson"] for p in of_table["curves"]]
    assert of_run["seeds_matter"] > 0.5, "seeds are shared in both"
    assert main(["analyse", run, "--good-passed", "48/50", "--bad-failed", "47/50", "--prompt-weight", "trio=2"]) == 0
    assert "corrected for a judge" in unwrapped(capsys)
    assert main(["compare", run, "143", "131"]) == 0
    assert "epoch 143 against epoch 131, on 10 seeds" in capsys.readouterr().out


def test_a_study_may_be_named_as_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its folder, its name under runs/, its YAML; one that was only drawn and judged by hand too."""
    hand, conf = Path(HAND).resolve(), Path("conf/quickstart.yaml").resolve()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart" / "grid").mkdir(parents=True)
    shutil.copy(hand, tmp_path / "runs" / "quickstart" / "grid" / "verdicts.csv")
    told = set()
    for name in ("runs/quickstart", "quickstart", str(conf)):
        assert main(["analyse", name, "--json"]) == 0
        told.add(capsys.readouterr().out)
    assert len(told) == 1
    assert main(["compare", "quickstart", "140", "150"]) == 0
    assert main(["analyse", "quikstart"]) == 3
    assert "quikstart: there is no such table or study" in capsys.readouterr().err


def test_a_persons_labels_calibrate_the_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "mine.csv"
    labels.write_text("epoch,seed,pass\n140,7,pass\n140,13,pass\n144,7,pass\n148,7,fail\n150,13,pass\n150,99,?\n")
    assert main(["analyse", HAND, "--labels", str(labels), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["calibration"] == {"good": 4, "good_passed": 3, "bad": 1, "bad_failed": 1}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("epoch,seed,pass\n140,7,pass\n", "1 labelled pictures are good and 0 are bad"),
        ("epoch,pass\n140,pass\n", "names no seed"),
        ("epoch,seed,pass\n1,7,pass\n", "0 labelled pictures are good and 0 are bad"),
    ],
)
def test_labels_that_say_nothing_of_the_judge_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    labels = tmp_path / "mine.csv"
    labels.write_text(text)
    assert main(["analyse", HAND, "--labels", str(labels)]) != 0
    assert complaint in capsys.readouterr().err


def test_a_label_that_fits_two_pictures_asks_for_more_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, labels = tmp_path / "t.csv", tmp_path / "mine.csv"
    table.write_text("epoch,seed,prompt,pass\n1,7,solo,1\n1,7,duo,0\n1,8,duo,1\n")
    labels.write_text("epoch,seed,pass\n1,7,1\n")
    assert main(["analyse", str(table), "--labels", str(labels)]) != 0
    assert "fits 2 pictures" in capsys.readouterr().err
    labels.write_text("epoch,seed,prompt,pass\n1,7,solo,1\n1,7,duo,0\n")
    assert main(["analyse", str(table), "--labels", str(labels), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"]["bad_failed"] == 1


def test_two_epochs_are_compared_on_their_shared_seeds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["compare", TRIO, "143", "131"]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    said = " ".join(page.split())
    assert "epoch 143 against epoch 131, on 10 seeds drawn with both" in said
    assert "only epoch 143 1 only epoch 131 0" in said
    assert "epoch 143 is better with a probability of 82 %" in said
    assert "p = 1;" in said
    assert "more seeds would settle it." in said
    assert main(["compare", HAND, "140", "150", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == {"both": 0, "first": 3, "second": 0, "neither": 0}


def test_two_studies_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = tmp_path / "worse.csv"
    worse.write_text("epoch,seed,pass\n140,7,fail\n140,13,fail\n140,99,pass\n")
    assert main(["compare", HAND, "140", "140", "--with", str(worse)]) == 0
    said = unwrapped(capsys)
    assert "on 3 seeds drawn with both" in said
    assert "only epoch 140 of keikana_v2.csv 2 only epoch 140 of worse.csv 0" in said


def test_two_trials_and_two_weights_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.csv"
    rows = [
        f"{trial},3,{weight},{seed},{int(trial == 'big')}"
        for trial in ("big", "small")
        for weight in (0.8, 1)
        for seed in range(9)
    ]
    table.write_text("\n".join(["trial,epoch,weight,seed,pass", *rows]))
    assert main(["compare", str(table), "3@0.8", "3@0.8", "--trial", "big", "--with-trial", "small"]) == 0
    said = unwrapped(capsys)
    assert "epoch 3 at weight 0.8 of big against epoch 3 at weight 0.8 of small" in said
    assert said.endswith("That is settled.")
    assert main(["compare", str(table), "3@0.8", "3@1", "--trial", "big"]) == 0
    assert "nothing speaks for either" in unwrapped(capsys)
    assert main(["compare", str(table), "3", "3@1", "--trial", "big"]) != 0
    assert "several weights" in capsys.readouterr().err
    assert main(["compare", str(table), "3@1", "3@1", "--trial", "tiny"]) != 0
    assert "there is no trial 'tiny'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["analyse", "nowhere.csv"], "no such table"),
        (["analyse", TRIO, "--margin", "1.5"], "--margin"),
        (["analyse", TRIO, "--prompt-weight", "duo=2"], "no picture of prompt 'duo'"),
        (["analyse", TRIO, "--prompt-weight", "duo"], "write NAME=2"),
        (["analyse", TRIO, "--good-passed", "48/50"], "--bad-failed"),
        (["analyse", TRIO, "--good-passed", "60/50", "--bad-failed", "1/2"], "write K/N"),
        (["analyse", TRIO, "--labels", TRIO, "--good-passed", "1/2", "--bad-failed", "1/2"], "calibrated once"),
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
