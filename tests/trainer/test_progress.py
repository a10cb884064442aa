"""`state.json` says where a trial stands, whenever it is read, in the words other monitors read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.core.fence import Fence
from orchestrator.core.layout import Layout
from tests.trainer.pocket_trials import TRAIN, make_job
from trainer.balance import Exposures
from trainer.config import DrawnDataset, SamplesConfig
from trainer.drawn import ensure_drawn_dataset
from trainer.facts import StepLogged
from trainer.guards import DivergedError
from trainer.metrics import log_step
from trainer.progress import POINTS, Progress
from trainer.trial import run_trial

SAMPLES = SamplesConfig(prompts=("kanachan", "koharu"), seeds=(1,), every=3, steps=1, cfg=1.0, size=(32, 32))


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "dataset"
    ensure_drawn_dataset(root, DrawnDataset(solo=1, pair=1, trio=1))
    return root


def state(layout: Layout) -> dict:
    return json.loads(layout.progress("main").read_text())


def test_a_trial_says_where_it_stands_and_how_it_ended(dataset_root: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    job = make_job(tmp_path, dataset_root, TRAIN.model_copy(update={"samples": SAMPLES}))
    running = run_trial(job)
    for fact in running:
        if isinstance(fact, StepLogged) and fact.epoch == 2:
            break
    running.close()  # type: ignore[attr-defined]
    stopped = state(layout)
    assert (stopped["status"], stopped["epoch"], stopped["step"], stopped["total_steps"]) == ("stopped", 2, 3, 6)
    assert stopped["eta_seconds"] == pytest.approx(3 / stopped["speed"])
    # Seven pictures; each of the three is on one of her own, on two of pairs and on one with all.
    assert stopped["exposures"] == {
        "epoch": 1, "per_image": 1.0, "characters": {"kanachan": 4, "keichan": 4, "koharu": 4}
    }  # fmt: skip
    list(run_trial(job))
    done = state(layout)
    assert (done["status"], done["step"], done["exposures"]["epoch"]) == ("finished", 6, 3)
    steps = [[point["step"] for point in done[curve]] for curve in ("losses", "lr_history")]
    assert steps == [[1, 2, 3, 4, 5, 6]] * 2
    assert [sample["epoch"] for sample in done["samples"]] == [0, 0, 3, 3]
    assert [sample["step"] for sample in done["samples"]] == [0, 0, 6, 6]
    assert all(layout.resolve(sample["path"]).is_file() for sample in done["samples"])
    assert set(done["by_character"]) == {"kanachan", "keichan", "koharu"}
    assert done["memory_mb"] > 50
    assert done["config"]["rank"] == 4


def test_a_trial_that_fails_says_why(dataset_root: Path, tmp_path: Path) -> None:
    wild = TRAIN.model_copy(update={"learning_rate": 1e30, "clip_norm": 1e30})
    with pytest.raises(DivergedError):
        list(run_trial(make_job(tmp_path, dataset_root, wild)))
    assert state(Layout(tmp_path))["status"] == "failed"
    assert "diverged" in state(Layout(tmp_path))["reason"]


def step(number: int, seconds: float = 1.0) -> StepLogged:
    return StepLogged("main", 1, number, 4, 1.0 / number, 1e-4, seconds, {"kanachan": 0.5})


def of_nobody(root: Path) -> Progress:
    """The progress of a trial that is told of, not trained."""
    fence = Fence(Layout(root).attempt("main"))
    fence.enter()
    return Progress(make_job(root, root), steps_per_epoch=4, fence=fence)


def test_an_attempt_that_was_replaced_leaves_the_file_to_the_newer_one(tmp_path: Path) -> None:
    older, newer = of_nobody(tmp_path), of_nobody(tmp_path)
    newer.begin(step=0)
    newer.write("training", "newer")
    older.write("failed", "older")
    assert state(Layout(tmp_path))["reason"] == "newer"


def test_curves_stay_short_and_end_with_the_last_step(tmp_path: Path) -> None:
    progress = of_nobody(tmp_path)
    for number in range(1, 2 * POINTS + 2):
        log_step(Layout(tmp_path).metrics("main"), step(number))
    progress.begin(step=2 * POINTS + 1)
    steps = [point["step"] for point in progress.facts()["losses"]]
    assert POINTS / 2 < len(steps) <= POINTS
    assert steps[-1] == 2 * POINTS + 1
    assert steps == sorted(steps)


def test_what_was_trained_after_the_point_gone_back_to_is_forgotten(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        log_step(Layout(tmp_path).metrics("main"), step(number))
    progress = of_nobody(tmp_path)
    progress.begin(step=2)
    assert [point["step"] for point in state(Layout(tmp_path))["losses"]] == [1, 2]


def test_speed_follows_slowly_and_nothing_is_known_before_the_first_step(tmp_path: Path) -> None:
    progress = of_nobody(tmp_path)
    progress.begin(step=0)
    before = state(Layout(tmp_path))
    assert (before["speed"], before["eta_seconds"], before["loss"], before["step"]) == (None, None, None, 0)
    progress.tell(step(1, seconds=2.0))
    progress.tell(step(2, seconds=1.0))
    progress.shown(1, Exposures({"kanachan": 4}, (4,)))
    assert state(Layout(tmp_path))["speed"] == pytest.approx(1 / 1.9)
    assert state(Layout(tmp_path))["eta_seconds"] == pytest.approx(10 * 1.9)
