"""A trial on the real miniature: what it publishes, and that any interruption ends in the same bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from anima.adapter_files import read_adapter
from orchestrator.core.errors import ConfigError, DatasetError
from orchestrator.core.layout import Layout
from tests.trainer.pocket_trials import TRAIN, make_job, saved, timeless
from tests.trainer.small_datasets import TRIGGERS
from trainer.checkpoints import published_checkpoints, saved_epochs
from trainer.config import BucketConfig, DatasetConfig, DrawnDataset, TrainConfig
from trainer.dataset import read_dataset
from trainer.drawn import ensure_drawn_dataset
from trainer.facts import CheckpointSaved, EpochStarted, StepLogged, TrialFact
from trainer.schedule import learning_rate_at
from trainer.states import stored_states
from trainer.trial import run_trial


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "dataset"
    ensure_drawn_dataset(root, DrawnDataset(solo=1, pair=1, trio=1))
    return root


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, dataset_root: Path) -> tuple[Layout, list[TrialFact]]:
    study = tmp_path_factory.mktemp("undisturbed")
    return Layout(study), list(run_trial(make_job(study, dataset_root)))


def test_it_streams_steps_and_publishes_every_epoch(undisturbed: tuple[Layout, list[TrialFact]]) -> None:
    layout, facts = undisturbed
    steps = [f for f in facts if isinstance(f, StepLogged)]
    # 7 pictures, 4 a step: the second step of an epoch takes the 3 that are left.
    assert [(s.epoch, s.step) for s in steps] == [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6)]
    assert [f.epoch for f in facts if isinstance(f, EpochStarted)] == [1, 2, 3]
    checkpoints = [f.checkpoint for f in facts if isinstance(f, CheckpointSaved)]
    assert published_checkpoints(layout, "main") == checkpoints
    assert [c.exposures_per_image for c in checkpoints] == [1.0, 2.0, 3.0]
    epoch_losses = [s.loss for s in steps if s.epoch == 2]
    assert checkpoints[1].loss == pytest.approx(sum(epoch_losses) / len(epoch_losses))
    logged = [json.loads(line) for line in layout.metrics("main").read_text().splitlines()]
    assert [row["step"] for row in logged] == [1, 2, 3, 4, 5, 6]


def test_adapters_change_from_epoch_to_epoch_and_say_how_they_came_to_be(
    undisturbed: tuple[Layout, list[TrialFact]],
) -> None:
    layout, facts = undisturbed
    first, *_, last = saved(iter(facts))
    adapter = read_adapter(layout.resolve(last.adapter), sha256=last.sha256)
    assert first.sha256 != last.sha256
    assert adapter.metadata is not None
    assert (adapter.metadata.epoch, adapter.metadata.rank, adapter.metadata.trigger_words) == (3, 4, TRIGGERS)
    assert any(name.endswith("cross_attn.k_proj.lora_B.weight") for name in adapter.state)
    assert any(t.abs().max() > 0 for name, t in adapter.state.items() if name.endswith("lora_B.weight"))


def test_only_the_newest_states_are_kept(undisturbed: tuple[Layout, list[TrialFact]]) -> None:
    assert sorted(s.epoch for s in stored_states(undisturbed[0], "main")) == [2, 3]


def test_a_finished_trial_does_nothing_and_loads_nothing(
    undisturbed: tuple[Layout, list[TrialFact]], dataset_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.session.load_base", lambda *_, **__: pytest.fail("loaded the base for nothing"))
    assert list(run_trial(make_job(undisturbed[0].root, dataset_root))) == []


def test_stopped_in_the_middle_of_an_epoch_it_ends_in_the_same_bytes(
    undisturbed: tuple[Layout, list[TrialFact]], dataset_root: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, dataset_root)
    running = run_trial(job)
    for fact in running:
        if isinstance(fact, StepLogged) and (fact.epoch, fact.step) == (2, 3):
            break
    running.close()  # type: ignore[attr-defined]
    again = list(run_trial(job))
    assert next(f.epoch for f in again if isinstance(f, EpochStarted)) == 2
    assert timeless(published_checkpoints(Layout(tmp_path), "main")) == timeless(saved(iter(undisturbed[1])))
    logged = [json.loads(line)["step"] for line in Layout(tmp_path).metrics("main").read_text().splitlines()]
    assert logged == [1, 2, 3, 4, 5, 6]


def test_a_damaged_adapter_is_trained_again_to_the_same_bytes(
    undisturbed: tuple[Layout, list[TrialFact]], dataset_root: Path, tmp_path: Path
) -> None:
    job, layout = make_job(tmp_path, dataset_root), Layout(tmp_path)
    list(run_trial(job))
    adapter = layout.adapter("main", 3)
    adapter.write_bytes(adapter.read_bytes()[:-100])
    # The state of epoch 2 is damaged as well: there is nothing to stand on but the start.
    state = layout.state("main", 2) / "state.safetensors"
    state.write_bytes(b"gone")
    again = saved(run_trial(job))
    assert timeless(again) == timeless(saved(iter(undisturbed[1]))[2:])


def test_more_epochs_continue_where_the_trial_ended(
    undisturbed: tuple[Layout, list[TrialFact]], dataset_root: Path, tmp_path: Path
) -> None:
    two = make_job(tmp_path, dataset_root, TRAIN.model_copy(update={"epochs": 2}))
    list(run_trial(two))
    again = saved(run_trial(make_job(tmp_path, dataset_root)))
    assert timeless(again) == timeless(saved(iter(undisturbed[1]))[2:])


def test_pictures_of_several_shapes_train_in_batches_of_one_shape(dataset_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(dataset_root, root)
    for number, size in enumerate([(64, 96), (80, 80), (64, 96)]):
        picture = Image.open(root / "kanachan-001.png").resize(size)
        picture.putpixel((0, 0), (number, 0, 0))
        picture.save(root / f"extra-{number}.png")
        (root / f"extra-{number}.txt").write_text("kanachan, 1girl, solo")
    buckets = BucketConfig(step=16, min_side=48, max_side=128)
    job = make_job(tmp_path / "study", root, TRAIN.model_copy(update={"epochs": 1, "buckets": buckets}))
    facts = list(run_trial(job))
    # 7 of 96x64, 2 of 64x96 and 1 of 80x80: 4 + 1 + 1 batches of two, two a step.
    assert [f.steps for f in facts if isinstance(f, EpochStarted)] == [3]
    assert len([f for f in facts if isinstance(f, StepLogged)]) == 3
    report = (Layout(tmp_path / "study").trial("main") / "dataset.txt").read_text()
    assert "      2  64x96" in report


def test_no_bucket_for_the_resolution_is_said_before_anything_is_loaded(
    dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.session.load_base", lambda *_, **__: pytest.fail("loaded the base first"))
    job = make_job(tmp_path, dataset_root, TRAIN.model_copy(update={"buckets": BucketConfig()}))
    with pytest.raises(ConfigError, match="no bucket of at least 512 pixels"):
        list(run_trial(job))


def test_a_dataset_edited_after_it_was_planned_or_begun_is_refused(dataset_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(dataset_root, root)
    planned = read_dataset(root, DatasetConfig(), TRIGGERS).sha256
    job = replace(make_job(tmp_path / "study", root), dataset_sha256=planned)
    next(run_trial(job))
    (root / "koharu-001.txt").write_text("koharu, 1girl, solo, waving")
    with pytest.raises(DatasetError, match="edited since this run began"):
        next(run_trial(job))
    with pytest.raises(DatasetError, match=r"edited since this trial began: koharu-001\.png has another caption"):
        next(run_trial(replace(job, dataset_sha256="")))


def test_the_learning_rate_rises_stays_or_falls_to_its_floor() -> None:
    constant = TrainConfig(learning_rate=1e-3, warmup_steps=4)
    assert [learning_rate_at(s, 100, constant) for s in (0, 3, 50)] == pytest.approx([0.25e-3, 1e-3, 1e-3])
    cosine = TrainConfig(learning_rate=1e-3, lr_schedule="cosine")
    assert [learning_rate_at(s, 100, cosine) for s in (0, 50, 100)] == pytest.approx([1e-3, 0.51e-3, 0.02e-3])


def test_the_last_epoch_is_saved_whatever_divides_what() -> None:
    assert saved_epochs(10, 4) == (4, 8, 10)
    assert saved_epochs(8, 4) == (4, 8)
