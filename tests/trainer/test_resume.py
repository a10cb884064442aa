"""A trial that is killed at any micro-step, however often, ends in the same bytes; what it stands on is never torn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestrator.core.layout import Layout
from tests.soaking import seeds
from tests.trainer.pocket_trials import TRAIN, VARIED, losses, make_job, make_session, saved, timeless, varied_dataset
from trainer.config import DrawnDataset, TrainConfig
from trainer.drawn import ensure_drawn_dataset
from trainer.facts import StepLogged
from trainer.states import FILE, Origin, Place, drop_old_states, newest_state, save_state, stored_states
from trainer.trial import run_trial

ORIGIN = Origin("main", "settings", "dataset", "base", "vae", "text")
DRIVER = Path(__file__).with_name("kill_often.py")


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "dataset"
    ensure_drawn_dataset(root, DrawnDataset(solo=1, pair=0, trio=0))
    return root


@pytest.mark.parametrize(
    ("kills", "seed"), [(4, 1), *(pytest.param(20, seed, marks=pytest.mark.soak) for seed in seeds(2, 1))]
)
def test_killed_at_random_micro_steps_it_ends_in_the_same_bytes(tmp_path: Path, kills: int, seed: int) -> None:
    """Shuffled and dropped tags, mirrored pictures, several shapes, a balanced cast: everything that is drawn."""
    # Twenty kills need a longer trial, or it is over before the last of them.
    varied = VARIED.model_copy(update={"epochs": 2 if kills < 10 else 12})
    root = varied_dataset(tmp_path / "dataset")
    undisturbed = saved(run_trial(make_job(tmp_path / "undisturbed", root, varied)))
    study = tmp_path / "killed"
    arguments = [str(DRIVER), str(study), str(root), str(seed), str(kills), str(varied.epochs)]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == kills
    for checkpoint in undisturbed:
        adapters = [tmp_path / name / checkpoint.adapter for name in ("undisturbed", "killed")]
        assert adapters[0].read_bytes() == adapters[1].read_bytes()
    rows = [Layout(tmp_path / name).metrics("main").read_text().splitlines() for name in ("undisturbed", "killed")]
    assert [without_time(row) for row in rows[0]] == [without_time(row) for row in rows[1]]


def without_time(row: str) -> dict:
    return {key: value for key, value in json.loads(row).items() if key not in ("seconds", "memory_mb")}


def test_a_state_within_an_epoch_is_entered_where_it_was_left(dataset_root: Path, tmp_path: Path) -> None:
    train = TRAIN.model_copy(update={"epochs": 2, "state_every_steps": 2, "batch": 1, "grad_accum": 1})
    undisturbed = list(run_trial(make_job(tmp_path / "a", dataset_root, train)))
    running = run_trial(make_job(tmp_path / "b", dataset_root, train))
    for fact in running:
        if isinstance(fact, StepLogged) and fact.step == 5:
            break
    running.close()  # type: ignore[attr-defined]
    assert sorted((s.epoch, s.step or 0) for s in stored_states(Layout(tmp_path / "b"), "main")) == [(1, 0), (2, 4)]
    again = list(run_trial(make_job(tmp_path / "b", dataset_root, train)))
    assert [fact.step for fact in again if isinstance(fact, StepLogged)] == [5, 6]
    assert losses(again) == losses(undisturbed)[4:]
    assert timeless(saved(again)) == timeless(saved(undisturbed))[1:]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "adafactor", "nadam", "prodigy", "radam", "muon"])
def test_every_optimizer_learns_and_goes_on_bit_for_bit(dataset_root: Path, tmp_path: Path, optimizer: str) -> None:
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="an extra: pip install 'bitsandbytes>=0.50,<0.51'")
    config = {"optimizer": optimizer, "epochs": 3, "batch": 3, "grad_accum": 1, "weight_decay": 0.01}
    # Matrices of 4,096 numbers are the smallest whose moments are kept in 8 bits.
    config |= {"rank": 32} | ({"learning_rate": 1.0} if optimizer == "prodigy" else {})
    made = make_session(make_job(tmp_path, dataset_root, TrainConfig.model_validate(TRAIN.model_dump() | config)))
    assert made.rewind(before=1) == 1
    before = made.adaptation.state()
    list(made.epoch(1))
    kinds = {
        value.dtype
        for values in made._optimizer.state.values()
        for value in values.values()
        if isinstance(value, torch.Tensor)
    }
    assert (torch.uint8 in kinds) == (optimizer == "adamw8bit")
    made.save()
    list(made.epoch(2))
    after = made.adaptation.state()
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("lora_B.weight"))
    again_made = make_session(make_job(tmp_path, dataset_root, made.job.train))
    assert again_made.rewind(before=2) == 2
    list(again_made.epoch(2))
    again = again_made.adaptation.state()
    assert all(torch.equal(after[name], again[name]) for name in after)


def store(layout: Layout, epoch: int, steps: int, *, whole: bool, origin: Origin = ORIGIN) -> Path:
    place = Place(epoch, steps, whole, (epoch - 1) * 10 + steps)
    save_state(layout, place, origin, {"0.value": torch.full((3,), float(place.step)), "step": torch.tensor(epoch)})
    return max((s.folder for s in stored_states(layout, origin.trial)), key=lambda f: f.stat().st_mtime_ns)


def test_the_newest_state_that_helps_is_found(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for epoch in (1, 2, 3):
        store(layout, epoch, 10, whole=True)
    store(layout, 4, 6, whole=False)

    def found(before: int) -> Place | None:
        state = newest_state(layout, ORIGIN, before=before)
        return state[0] if state else None

    assert found(before=9) == found(before=4) == Place(4, 6, False, 36)
    assert found(before=3) == Place(2, 10, True, 20)
    assert found(before=1) is None
    stored = newest_state(layout, ORIGIN, before=4)
    assert stored is not None
    assert stored[1]["0.value"].tolist() == [36.0] * 3


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-3] + b"abc", lambda _: b"", lambda b: b[8:]])
def test_a_damaged_state_is_passed_over(tmp_path: Path, damage) -> None:
    layout = Layout(tmp_path)
    store(layout, 1, 10, whole=True)
    newest = store(layout, 2, 10, whole=True) / FILE
    newest.write_bytes(damage(newest.read_bytes()))
    state = newest_state(layout, ORIGIN, before=3)
    assert state is not None
    assert state[0].epoch == 1


def test_a_state_of_other_settings_data_or_base_is_passed_over(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for field in ("settings", "dataset", "base", "vae", "text"):
        other = Origin(**{**{n: getattr(ORIGIN, n) for n in ORIGIN.__slots__}, field: "another"})
        store(layout, 1, 10, whole=True, origin=other)
        assert newest_state(layout, ORIGIN, before=2) is None


def test_what_was_written_halfway_is_no_state(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    folder = store(layout, 1, 10, whole=True)
    folder.rename(folder.with_name(".epoch-0001.writing"))
    assert list(stored_states(layout, "main")) == []
    assert newest_state(layout, ORIGIN, before=2) is None


def test_old_states_go_and_only_the_newest_unfinished_one_stays(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for epoch in (1, 2, 3):
        store(layout, epoch, 4, whole=False)
        store(layout, epoch, 10, whole=True)
    store(layout, 4, 4, whole=False)
    store(layout, 4, 8, whole=False)
    drop_old_states(layout, "main", keep=2)
    assert sorted((s.epoch, s.step) for s in stored_states(layout, "main")) == [(2, None), (3, None), (4, 38)]
    store(layout, 4, 10, whole=True)
    drop_old_states(layout, "main", keep=2)
    assert sorted((s.epoch, s.step) for s in stored_states(layout, "main")) == [(3, None), (4, None)]
