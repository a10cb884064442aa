"""Steps that go wrong: numbers that are none never reach the adapter, and memory that runs out is made do with once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anima.flow import velocity_target
from anima.load import Base, load_base
from orchestrator.core.errors import StudyError
from orchestrator.core.layout import Layout
from tests.trainer.pocket_trials import TRAIN, losses, make_job, make_session, saved, timeless
from trainer.cache import View
from trainer.checkpoints import published_checkpoints
from trainer.config import DrawnDataset
from trainer.drawn import ensure_drawn_dataset
from trainer.guards import MARK, DivergedError
from trainer.memory import is_out_of_memory
from trainer.tensor_files import TensorFiles
from trainer.trial import run_trial

SHORT = TRAIN.model_copy(update={"epochs": 2})


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "dataset"
    ensure_drawn_dataset(root, DrawnDataset(solo=1, pair=1, trio=0))
    return root


def test_a_loss_that_is_no_number_ends_the_trial_and_names_the_picture(dataset_root: Path, tmp_path: Path) -> None:
    """One latent in the cache is not finite, with a checksum that says so: as from an encoder that overflowed."""
    job = make_job(tmp_path, dataset_root, SHORT)
    made = make_session(job)
    item = next(i for i in made.dataset.items if i.file == "koharu-001.png")
    key = made._latents._key(View(item, (96, 64), flip=False))
    files = TensorFiles(Layout(tmp_path).cache / "latents", memory_bytes=0)
    latent = files.get(key)
    assert latent is not None
    files.put(key, torch.full_like(latent, float("inf")))
    with pytest.raises(DivergedError, match=r"diverged: the loss is not a number at step \d in epoch 1") as diverged:
        list(run_trial(job))
    assert "(pictures: koharu-001.png)" in str(diverged.value)
    marked = json.loads((Layout(tmp_path).trial("main") / MARK).read_text())
    assert marked["pictures"] == ["koharu-001.png"]
    assert published_checkpoints(Layout(tmp_path), "main") == []


def overflowing(*arguments: Any, **named: Any) -> Base:
    """A base whose backward pass overflows, as in a narrow number format, for latents that are far too large."""
    base = load_base(*arguments, **named)

    def after(_module: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
        large = inputs[0].abs().amax(dim=(1, 2, 3, 4), keepdim=True) > 1e5
        if output[0].requires_grad:
            output[0].register_hook(lambda gradient: gradient.masked_fill(large, float("inf")))

    base.transformer.register_forward_hook(after)
    return base


def test_a_gradient_that_overflows_names_the_picture_it_comes_from(
    dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is a number all the while, and it shares its step and its pass with others."""
    job = make_job(tmp_path, dataset_root, SHORT)
    made = make_session(job)
    item = next(i for i in made.dataset.items if i.file == "keichan-001.png")
    files = TensorFiles(Layout(tmp_path).cache / "latents", memory_bytes=0)
    key = made._latents._key(View(item, (96, 64), flip=False))
    latent = files.get(key)
    assert latent is not None
    files.put(key, torch.full_like(latent, 1e8))
    monkeypatch.setattr("trainer.session.load_base", overflowing)
    with pytest.raises(DivergedError, match=r"the gradient is not a number at step \d in epoch 1") as diverged:
        list(run_trial(job))
    assert "(pictures: keichan-001.png)" in str(diverged.value)
    assert published_checkpoints(Layout(tmp_path), "main") == []


def test_a_diverged_trial_is_not_trained_again_until_the_mark_is_gone(
    dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, dataset_root, SHORT.model_copy(update={"learning_rate": 1e30, "clip_norm": 1e30}))
    with pytest.raises(DivergedError, match=r"lower train\.learning_rate"):
        list(run_trial(job))
    with monkeypatch.context() as patch:
        patch.setattr("trainer.session.load_base", lambda *_, **__: pytest.fail("loaded the base for nothing"))
        with pytest.raises(DivergedError, match=r"remove .*diverged\.json"):
            list(run_trial(job))
    (Layout(tmp_path).trial("main") / MARK).unlink()
    calm = make_job(tmp_path, dataset_root, SHORT)
    assert [c.epoch for c in saved(run_trial(calm))] == [1, 2]


def test_a_fault_that_does_not_come_again_leaves_no_trace(
    dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = list(run_trial(make_job(tmp_path / "a", dataset_root, SHORT)))
    calls = 0

    def once(clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return velocity_target(clean, noise) * (float("nan") if calls == 4 else 1.0)

    monkeypatch.setattr("trainer.step.velocity_target", once)
    again = list(run_trial(make_job(tmp_path / "b", dataset_root, SHORT)))
    assert timeless(saved(again)) == timeless(saved(undisturbed))
    assert "trying again from the last state" in caplog.text
    assert [row["step"] for row in metrics(tmp_path / "b")] == list(range(1, len(losses(undisturbed)) + 1))


def scarce(fits: Callable[[Base, int], bool]) -> Callable[..., Base]:
    """Loads a base on a machine whose memory holds only passes that fit."""

    def load(*arguments: Any, **named: Any) -> Base:
        base = load_base(*arguments, **named)

        def forward(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if not fits(base, len(inputs[0])):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        base.transformer.register_forward_pre_hook(forward)
        return base

    return load


def test_out_of_memory_is_tried_once_more_with_less(
    dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = losses(run_trial(make_job(tmp_path / "a", dataset_root, SHORT)))
    small = scarce(lambda base, pictures: pictures <= 1 and base.transformer.gradient_checkpointing)
    monkeypatch.setattr("trainer.session.load_base", small)
    again = list(run_trial(make_job(tmp_path / "b", dataset_root, SHORT)))
    assert losses(again) == pytest.approx(undisturbed, rel=1e-4), "as many pictures behind each step as before"
    assert "out of memory, trying again with less" in caplog.text


def test_memory_that_does_not_suffice_at_all_is_a_clear_end(
    dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.session.load_base", scarce(lambda *_: False))
    with pytest.raises(StudyError, match=r"out of memory with 1 picture\(s\) at once and activations computed again"):
        list(run_trial(make_job(tmp_path, dataset_root, SHORT)))
    assert published_checkpoints(Layout(tmp_path), "main") == []


def test_an_ordinary_error_is_not_taken_for_one_of_memory(
    dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("trainer.step.velocity_target", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(run_trial(make_job(tmp_path, dataset_root, SHORT)))


def test_running_out_of_this_machines_memory_is_recognised() -> None:
    """The allocator refuses before it touches anything: no machine has 2^60 bytes."""
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)


def metrics(study: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Layout(study).metrics("main").read_text().splitlines()]
