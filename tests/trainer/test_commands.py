"""`python -m trainer`: trains without Ray, goes on where it was stopped, and shares everything with a study."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.core.errors import BusyError, ConfigError, MissingError
from orchestrator.core.lock import sole_driver
from orchestrator.planning.config import load_config
from orchestrator.run import prepare
from trainer.__main__ import main
from trainer.checkpoints import published_checkpoints
from trainer.study import load_study

QUICK = Path("conf/quickstart.yaml")
SMALL = [
    "dataset.drawn={solo: 1, pair: 0, trio: 0}",
    "dataset.repeats=1",
    "train.epochs=2",
    "train.batch=3",
    "train.rank=2",
    "train.threads=1",
]


def small(folder: Path, *more: str) -> list[str]:
    return [str(QUICK), f"volume={folder}", *SMALL, *more]


def test_it_trains_a_studys_trials_and_the_study_finds_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *small(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "epoch 1 saved" in said
    assert "epoch 2 saved" in said
    study = prepare(load_config(QUICK, small(tmp_path)[1:]))
    trial = study.target.trials[0].trial
    assert f"trial {trial}" in said
    assert [c.epoch for c in published_checkpoints(study.layout, trial)] == [1, 2]
    assert said.strip().endswith(str(study.layout.adapter(trial, 2)))
    assert main(["run", *small(tmp_path)]) == 0
    assert "saved" not in capsys.readouterr().out, "nothing is left to do"


def test_one_trial_of_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = ["trials={wide: {rank: 4}, narrow: {rank: 1}}", "train.epochs=1"]
    assert main(["run", *small(tmp_path, *trials), "--trial", "narrow"]) == 0
    assert [p.name.partition("-")[0] for p in (tmp_path / "quickstart" / "trials").iterdir()] == ["narrow"]
    assert main(["run", *small(tmp_path, *trials), "--trial", "narow"]) == 2
    assert "no trial 'narow' — did you mean 'narrow'?" in capsys.readouterr().err


def test_interrupted_it_goes_on(tmp_path: Path) -> None:
    """The signal of Ctrl-C, to a process of its own."""
    command = [sys.executable, "-u", "-m", "trainer", "run", *small(tmp_path, "train.epochs=2000")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1 saved"):
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Stopped. The same command continues." in errors
    assert "Traceback" not in errors
    assert main(["run", *small(tmp_path, "train.epochs=4")]) == 0
    (trial,) = (tmp_path / "quickstart" / "trials").iterdir()
    assert len(list(trial.glob("epoch-*"))) >= 4


def test_a_study_that_is_being_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sole_driver(tmp_path / "quickstart" / "driver.lock"):
        assert main(["run", *small(tmp_path)]) == BusyError.exit_code
    assert "is running this study" in capsys.readouterr().err


def test_check_tells_what_becomes_of_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *small(tmp_path)]) == MissingError.exit_code
    assert "draws its pictures when it is run first" in capsys.readouterr().err
    prepare(load_config(QUICK, small(tmp_path)[1:]))
    assert main(["check", *small(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 pictures taken")
    assert "      3  96x64" in said


def test_check_loads_no_model(tmp_path: Path) -> None:
    prepare(load_config(QUICK, small(tmp_path)[1:]))
    arguments = [sys.executable, "-X", "importtime", "-m", "trainer", "check", *small(tmp_path)]
    child = subprocess.run(arguments, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in child.stderr.splitlines()}
    assert "pydantic" in loaded
    assert loaded & {"torch", "ray", "diffusers", "accelerate"} == set()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trian.rank=3"], "unknown key 'trian' — did you mean 'train'?"),
        (["train.rnak=3"], "unknown key 'train.rnak' — did you mean 'rank'?"),
        (["train.targets=("], "neither a named set nor a regular expression"),
        (["study=a/b"], "cannot be a file name"),
        (["train.flip_augment=true"], "kanachan's side ponytail on both sides"),
        (["train.epochs=0"], "train.epochs: input should be greater than 0"),
    ],
)
def test_slips_are_named_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_study(QUICK, overrides)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_sections_of_others_and_looks_in_any_words_are_passed_over() -> None:
    study = load_study(QUICK, ["cast.reina=black bob", "grid=null", "something_else.deep=1"])
    assert study.triggers == ("kanachan", "keichan", "koharu", "reina")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("nowhere/at/all", "there is no such file"),
        ("hf://owner/model/one.safetensors", "is one file"),
        ("ftp://x", "ftp://"),
    ],
)
def test_a_base_that_cannot_be_had_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], base: str, message: str
) -> None:
    assert main(["run", *small(tmp_path, f"base={base}")]) > 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
