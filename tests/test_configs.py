"""Every file in conf/ is read as the program reads it, and says what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.pods import read_offers
from orchestrator.planning.config import load_config
from orchestrator.planning.plan import make_plan

CONF = Path(__file__).resolve().parent.parent / "conf"
RATES = CONF / "rates.yaml"
STUDIES = sorted(path for path in CONF.rglob("*.yaml") if path != RATES)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_a_study_is_valid(path: Path) -> None:
    config = load_config(path)
    assert config.study == path.stem, "the folder of a study's runs is named like its file"
    for prompt in config.grid.rate_prompts:
        for look in config.cast.values():
            assert look.hair not in prompt.text, "trigger-only: a described look leaves its owner"


def test_the_real_study_counts_as_by_hand() -> None:
    config = load_config(CONF / "trio_v2.yaml")
    plan = make_plan(config)
    assert plan.images == 294
    assert plan.trials[0].steps_per_epoch == 147
    assert plan.trials[0].exposures_per_image == 300
    assert plan.trials[0].pictures == 150 * 6
    assert plan.shown_pictures == 2 + 7 * 2 * 6, "the base alone, and seven prompts on two seeds at six epochs"
    several = sum(count for who, count in config.dataset.expect.items() if "+" in who)
    assert round(several / plan.images, 3) == 0.238


def test_the_real_study_takes_the_practitioners_hours_and_dollars() -> None:
    """150 epochs on an RTX 5090 at $0.99 took about 14 hours and 14 dollars."""
    pod = next(pod for pod in make_plan(load_config(CONF / "trio_v2.yaml")).pods if pod.offer.name == "RTX 5090")
    assert pod.training_hours == pytest.approx(14, abs=0.5)
    assert pod.training_hours * pod.offer.dollars_per_hour == pytest.approx(14, abs=0.5)


def test_the_conf_folder_is_described() -> None:
    page = (CONF / "README.md").read_text()
    assert [path.name for path in CONF.rglob("*.yaml") if f"`{path.name}`" not in page] == []


def test_rates_are_plausible_and_say_what_is_estimated() -> None:
    offers = read_offers(RATES)
    assert len({offer.name for offer in offers}) == len(offers) >= 3
    for offer in offers:
        assert offer.estimated <= {"dollars_per_hour", "training_images_per_second", "images_per_second"}
        assert 0.1 < offer.dollars_per_hour < 20
        assert offer.vram_gb >= 16
        # Gradients cost time, and so do eight passes and a decoder: neither rate is far from the other.
        assert 0.3 < offer.images_per_second / offer.training_images_per_second < 1
