"""`run` from a YAML on disk to the files it leaves, with only the work itself scripted; and how it is stopped."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from anima.base import POCKET
from orchestrator.core.errors import BusyError, DatasetError, WeightsError
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.lock import sole_driver
from orchestrator.core.study import ConstantAdapter
from orchestrator.crew.work import Crew, InlineCrew
from orchestrator.crew.workers import StudyWorkers
from orchestrator.planning.config import StudyConfig, load_config, parse_config, to_data
from orchestrator.record.ledger import read_events
from orchestrator.run import Study, drive, prepare, run_study
from tests.orchestrator.scripted import ScriptedWorkers

QUICK = Path("conf/quickstart.yaml")


def study_config(tmp_path: Path, *overrides: str) -> StudyConfig:
    """The quickstart, small, in a folder of its own."""
    config = small_config(overrides)
    return config.model_copy(update={"volume": config.volume.model_copy(update={"folder": f"{tmp_path}/runs"})})


@cache
def small_config(overrides: tuple[str, ...]) -> StudyConfig:
    small = ["dataset.drawn={solo: 2, pair: 1, trio: 1}", "train.epochs=3", "grid.seeds=[1, 2]", "grid.batch=2"]
    return load_config(QUICK, ["wandb.mode=disabled", "judge.name=none", *small, *overrides])


def scripted(study: Study) -> Crew:
    return InlineCrew(ScriptedWorkers(study.layout.root, epochs=3), turn_s=0)


def go(config: StudyConfig) -> tuple[int, str]:
    """Run it; returns the exit code and what was printed."""
    stream = io.StringIO()
    code = drive(prepare(config), Console(file=stream, width=100), hire=scripted)
    return code, stream.getvalue()


def test_a_run_leaves_a_ledger_a_log_the_configuration_and_a_page(tmp_path: Path) -> None:
    config = study_config(tmp_path)
    code, printed = go(config)
    layout = config.layout()
    assert code == 0
    assert "report   " in printed
    assert load_config(layout.config) == config
    assert "study finished" in layout.log.read_text()
    assert layout.report.stat().st_size > 1000
    assert sum(e.kind == "sample_drawn" for e in read_events(layout.ledger)) == 6


def test_the_log_says_what_was_matched_of_the_weights(tmp_path: Path) -> None:
    config = study_config(tmp_path)
    go(config)
    log = config.layout().log.read_text()
    for part, tensors in (("transformer", 127), ("text_conditioner", 42), ("text_encoder", 35), ("vae", 118)):
        assert f"weights matched | {part} {tensors} of {tensors} tensors, f16 | {POCKET / part}" in log


def test_weights_that_do_not_fit_stop_before_anything_is_recorded(tmp_path: Path) -> None:
    shutil.copytree(POCKET, tmp_path / "base")
    (file,) = (tmp_path / "base/vae").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    config = study_config(tmp_path, f"base={tmp_path}/base")
    with pytest.raises(WeightsError, match=r"vae/diffusion_pytorch_model\.safetensors: is .* it was cut short"):
        prepare(config)
    assert not config.layout().ledger.exists()


def test_running_again_says_it_is_done_and_mends_the_page(tmp_path: Path) -> None:
    config = study_config(tmp_path)
    go(config)
    before = config.layout().ledger.read_bytes()
    config.layout().report.unlink()
    code, printed = go(config)
    assert code == 0
    assert printed.startswith("Everything this study asks for is done already.")
    assert config.layout().ledger.read_bytes() == before
    assert config.layout().report.exists()


def test_another_learning_rate_is_another_trial_and_more_epochs_are_not(tmp_path: Path) -> None:
    def trial(*overrides: str) -> str:
        return prepare(study_config(tmp_path, *overrides)).target.trials[0].trial

    first = trial()
    assert first.startswith("main-")
    assert len(first) == len("main-") + 8
    assert trial("train.epochs=9", "train.save_every=3", "train.threads=2", "grid.seeds=[5]") == first
    assert trial("train.learning_rate=1e-3") != first
    assert trial("dataset.repeats=2") != first
    assert trial("dataset.drawn.seed=2") != first
    assert trial("trials={main: {rank: 4}}") != first


def test_adapters_that_are_drawn_along_are_found_and_written_down(tmp_path: Path) -> None:
    sides = {"lora_down": (2, 8), "lora_up": (8, 2)}
    turbo = tmp_path / "turbo.safetensors"
    layer = "lora_unet_blocks_0_self_attn_q_proj"
    save_file({f"{layer}.{side}.weight": np.ones(shape, np.float32) for side, shape in sides.items()}, turbo)
    study = prepare(study_config(tmp_path, f"grid.with_adapters=[{{source: {turbo}, weight: 0.5}}]"))
    content = file_sha256(turbo)
    assert study.target.grid.constants == (ConstantAdapter("turbo", content, 0.5),)
    assert parse_config(to_data(study.config)).grid == study.target.grid, "the ledger knows which cells are meant"
    assert isinstance(study.workers, StudyWorkers)
    assert study.workers.adapters == {content: str(turbo)}
    assert study.workers.base_name == "pocket"


def test_a_dataset_that_is_wrong_stops_before_anything_is_recorded(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.txt").write_text("kanachan")
    config = study_config(tmp_path, f"dataset={{root: {pictures}}}", "dataset.drawn=null")
    with pytest.raises(DatasetError):
        prepare(config)
    assert not config.layout().ledger.exists()


def test_a_study_that_is_running_is_not_started_twice(tmp_path: Path) -> None:
    config = study_config(tmp_path)
    with sole_driver(config.layout().lock), pytest.raises(BusyError, match="is running this study"):
        run_study(QUICK, [f"volume={tmp_path}/runs"], Console(file=io.StringIO()))


DRIVER = """
import sys, time
from pathlib import Path
from rich.console import Console
from orchestrator.crew.work import InlineCrew
from orchestrator.run import drive, prepare
from tests.orchestrator.scripted import ScriptedWorkers
from tests.orchestrator.test_run import study_config

class Slow(InlineCrew):
    def wait(self, timeout_s):
        reports = super().wait(timeout_s)
        time.sleep(0.2)
        return reports

def hire(study):
    return Slow(ScriptedWorkers(study.layout.root, epochs=3), turn_s=0)

sys.exit(drive(prepare(study_config(Path(sys.argv[1]))), Console(), hire=hire))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_soon_is_recorded_and_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-u", "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.startswith("checkpoint saved"):
                break
        driver.send_signal(number)
        rest, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "The same command continues." in rest
    config = study_config(tmp_path)
    layout = config.layout()
    assert [e.kind for e in read_events(layout.ledger)][-1] == "run_interrupted"
    code, _ = go(config)
    assert code == 0
    calls = ScriptedWorkers(Layout(layout.root.resolve()).root).calls()
    assert len(calls) == len(set(calls)) == 3 + 6, "nothing was done twice"


def test_a_damaged_adapter_is_set_apart_and_made_again_and_the_run_says_so(tmp_path: Path) -> None:
    config = study_config(tmp_path)
    go(config)
    layout = config.layout()
    (trial,) = {e.data["checkpoint"]["trial"] for e in read_events(layout.ledger) if e.kind == "checkpoint_saved"}
    whole = layout.adapter(trial, 2).read_bytes()
    layout.adapter(trial, 2).write_bytes(whole[:-1])
    code, printed = go(config)
    assert code == 0
    assert "file set apart | " in printed
    assert "will be made again" in printed
    assert layout.adapter(trial, 2).read_bytes() == whole
