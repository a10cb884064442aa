"""Pictures drawn while training: those that drawing gives, and training takes the same steps with them as without."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anima.adapter_files import read_adapter
from anima.base import POCKET
from anima.draw import Request, draw
from anima.load import load_base
from anima.lora import Merger
from anima.png import png_bytes
from orchestrator.core.errors import ConfigError
from orchestrator.core.layout import Layout
from orchestrator.core.study import Drawing
from tests.trainer.pocket_trials import TRAIN, losses, make_job, saved
from tests.trainer.small_datasets import TRIGGERS, put, read
from trainer.config import DrawnDataset, SamplesConfig, TrainConfig
from trainer.drawn import ensure_drawn_dataset
from trainer.facts import StepLogged
from trainer.sampled import sampled
from trainer.samples import default_prompts, is_due
from trainer.trial import run_trial

PROMPTS = ("kanachan, 1girl", "a drawing of (koharu:1.2)", "keichan")
SAMPLES = SamplesConfig(prompts=PROMPTS, seeds=(5,), every=2, steps=3, cfg=2.0, batch=2, negative="bad")
TRAINED = TRAIN.model_copy(update={"samples": SAMPLES})


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "dataset"
    ensure_drawn_dataset(root, DrawnDataset(solo=1, pair=0, trio=0))
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, dataset_root: Path) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("study"))
    with_them = losses(run_trial(make_job(layout.root, dataset_root, TRAINED)))
    without = losses(run_trial(make_job(tmp_path_factory.mktemp("without"), dataset_root)))
    assert with_them == without, "pictures to look at must not change what is looked at"
    return layout


def drawn(layout: Layout) -> dict[str, bytes]:
    """Every sample, by its place below the trial's folder."""
    folder = layout.trial("main") / "samples"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_who_looks_later_reads_them_back(study: Layout) -> None:
    found = sampled(study, "main")
    assert {study.relative(one.path).removeprefix("trials/main/samples/") for one in found} == set(drawn(study))
    assert [(one.prompt, one.seed, one.epoch) for one in found] == [
        (prompt, 5, epoch) for prompt in sorted(PROMPTS) for epoch in (0, 2, 3)
    ]
    assert {one.slug for one in found} == {"kanachan-1girl", "a-drawing-of-koharu-1-2", "keichan"}
    assert len({one.setting for one in found}) == 1
    assert [one.epoch for one in sampled(study, "main", after=2)] == [3, 3, 3]


def test_the_first_the_last_and_every_second_epoch_are_drawn(study: Layout) -> None:
    epochs = [name.partition("/")[0] for name in drawn(study)]
    assert epochs == [f"epoch-{epoch:04d}" for epoch in (0, 2, 3) for _ in PROMPTS]


def test_a_sample_is_what_drawing_gives_of_the_saved_adapter(study: Layout) -> None:
    base = load_base(POCKET)
    Merger(base.transformer, base.text).merge(read_adapter(study.adapter("main", 3)).state)
    requests = [Request(prompt, 5, "bad") for prompt in PROMPTS]
    torch.set_num_threads(1)
    expected = draw(base, requests, Drawing("er_sde", 3, 2.0, 3.0, 96, 64))
    for prompt, picture in zip(PROMPTS, expected, strict=True):
        (found,) = [facts for facts in sidecars(study, 3) if facts["prompt"] == prompt]
        wanted = np.asarray(Image.open(BytesIO(png_bytes(picture, {})))).astype(int)
        # Merged and unmerged weights round differently in the last bits.
        assert np.abs(np.asarray(Image.open(found["file"])).astype(int) - wanted).max() <= 2
    assert len({bytes(content) for name, content in drawn(study).items() if "/kanachan" in name}) == 3, "it learns"


def sidecars(layout: Layout, epoch: int) -> list[dict]:
    files = sorted(layout.samples("main", epoch).glob("*.json"))
    return [json.loads(file.read_text()) | {"file": file.with_suffix(".png")} for file in files]


def test_each_has_its_settings_beside_it_and_in_it(study: Layout) -> None:
    facts = next(f for f in sidecars(study, 2) if f["prompt"].startswith("kanachan"))
    assert (facts["epoch"], facts["step"], facts["seed"], facts["negative"]) == (2, 2, 5, "bad")
    assert facts["drawing"]["cfg"] == 2.0
    with Image.open(facts["file"]) as image:
        assert image.info["parameters"].startswith("kanachan, 1girl\nNegative prompt: bad\n")


def test_what_a_stop_prevented_is_drawn_when_training_goes_on(
    study: Layout, dataset_root: Path, tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    running = run_trial(make_job(tmp_path, dataset_root, TRAINED))
    for fact in running:
        if isinstance(fact, StepLogged) and fact.epoch == 3:
            break
    running.close()  # type: ignore[attr-defined]
    victim = sorted(layout.samples("main", 2).glob("*.png"))[1]
    victim.unlink()
    assert [c.epoch for c in saved(run_trial(make_job(tmp_path, dataset_root, TRAINED)))] == [3]
    assert drawn(layout) == drawn(study)


def test_memory_that_does_not_suffice_for_them_does_not_stop_training(
    dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr("trainer.samples.draw", no_room)
    train = TRAINED.model_copy(update={"epochs": 1})
    assert [c.epoch for c in saved(run_trial(make_job(tmp_path, dataset_root, train)))] == [1]
    assert "no memory for samples" in caplog.text
    assert drawn(Layout(tmp_path)) == {}


def test_a_trained_conditioner_draws_with_its_own_adapter(dataset_root: Path, tmp_path: Path) -> None:
    """Encoded prompts are kept between drawings; they must not outlive the weights that encoded them."""
    config = TRAINED.model_dump() | {"targets": r"llm_adapter\.blocks\.0\.cross_attn", "learning_rate": 0.05}
    list(run_trial(make_job(tmp_path, dataset_root, TrainConfig.model_validate(config))))
    pictures = drawn(Layout(tmp_path))
    first, _, last = (pictures[name] for name in pictures if "/keichan" in name)
    assert first != last


def test_prompts_that_nobody_wrote_are_the_triggers_and_their_captions(tmp_path: Path) -> None:
    put(tmp_path, "a", "kanachan, (smile:1.3), school")
    put(tmp_path, "b", "kanachan, again", colour="red")
    put(tmp_path, "c", "koharu and kanachan", colour="blue")
    prompts = default_prompts(read(tmp_path), TRIGGERS)
    assert prompts == (*TRIGGERS, r"kanachan, \(smile:1.3\), school")


def test_the_last_epoch_is_always_due() -> None:
    config = SamplesConfig(every=4)
    assert [epoch for epoch in range(11) if is_due(config, epoch, 10)] == [0, 4, 8, 10]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"size": (100, 64)}, "multiples of 16"),
        ({"prompts": ["(a:inf)"]}, "not finite"),
        ({"seeds": []}, "at least 1 item"),
        ({"cfg": 0.5}, "greater than or equal to 1"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused_at_once(wrong: dict, why: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=why):
        SamplesConfig.model_validate(wrong)
