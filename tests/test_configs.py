"""Every file in conf/ is read as the program reads it, and says what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from orchestrator.config import load_config

CONF = Path(__file__).resolve().parent.parent / "conf"
RATES = CONF / "rates.yaml"
STUDIES = sorted(path for path in CONF.rglob("*.yaml") if path != RATES)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_a_study_is_valid(path: Path) -> None:
    config = load_config(path)
    assert config.study == path.stem, "the folder of a study's runs is named like its file"
    for prompt in config.grid.prompts:
        for look in config.cast.values():
            assert look.hair not in prompt.text, "trigger-only: a described look leaves its owner"


def test_the_real_study_counts_as_by_hand() -> None:
    config = load_config(CONF / "trio_v2.yaml")
    train, images = config.trials["main"], sum(config.dataset.expect.values())
    several = sum(count for who, count in config.dataset.expect.items() if "+" in who)
    assert images * config.dataset.repeats / train.images_per_step == 147
    assert train.epochs * config.dataset.repeats == 300
    assert round(several / images, 3) == 0.238
    assert len(config.grid.seeds) == 6
    assert {who for group in config.dataset.expect for who in group.split("+")} == set(config.cast)


def test_the_conf_folder_is_described() -> None:
    page = (CONF / "README.md").read_text()
    assert [path.name for path in CONF.rglob("*.yaml") if f"`{path.name}`" not in page] == []


def test_rates_are_plausible_and_say_what_is_estimated() -> None:
    table = OmegaConf.to_container(OmegaConf.load(RATES))
    assert isinstance(table, dict)
    assert len({gpu["name"] for gpu in table["gpus"]}) == len(table["gpus"]) >= 3
    for gpu in table["gpus"]:
        figures = ("dollars_per_hour", "training_images_per_second", "images_per_second")
        assert set(gpu) == {"name", "arch", "vram_gb", "estimated", *figures}
        assert set(gpu["estimated"]) <= set(figures)
        assert 0.1 < gpu["dollars_per_hour"] < 20
        # Gradients cost time, and so do eight passes and a decoder: neither rate is far from the other.
        assert 0.3 < gpu["images_per_second"] / gpu["training_images_per_second"] < 1
        assert gpu["vram_gb"] >= 16


def test_the_real_study_takes_the_practitioners_hours_and_dollars() -> None:
    """150 epochs of 588 pictures on an RTX 5090 at $0.99 took about 14 hours and 14 dollars."""
    table = OmegaConf.to_container(OmegaConf.load(RATES))
    assert isinstance(table, dict)
    gpu = next(gpu for gpu in table["gpus"] if gpu["name"] == "RTX 5090")
    hours = 150 * 588 / gpu["training_images_per_second"] / 3600
    assert hours == pytest.approx(14, abs=0.5)
    assert hours * gpu["dollars_per_hour"] == pytest.approx(14, abs=0.5)
