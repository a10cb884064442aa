"""The rate table: read as it is shipped, refused with one line when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.pods import RATES, Offer, read_offers
from orchestrator.core.errors import ConfigError


def test_the_shipped_table_is_read() -> None:
    offers = {offer.name: offer for offer in read_offers(RATES)}
    assert offers["RTX 5090"].dollars_per_hour == 0.99
    assert "images_per_second" in offers["RTX 5090"].estimated


def test_hours_follow_work() -> None:
    offer = Offer(
        name="x", arch="x", vram_gb=1, dollars_per_hour=1, training_images_per_second=2, images_per_second=0.5
    )
    assert offer.training_hours(7200, 1024 * 1024) == pytest.approx(1)
    assert offer.drawing_hours(1800, 1024 * 1024, 8) == pytest.approx(1)
    assert offer.drawing_hours(1800, 512 * 1024, 16, passes=2) == pytest.approx(2)


@pytest.mark.parametrize(
    ("text", "words"),
    [("gpus: [{name: x}]", "gpus.0.arch"), ("gpus: [", "cannot read"), ("pods: []", "gpus: field required")],
)
def test_a_wrong_table_is_one_clear_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        read_offers(path)
    assert "\n" not in str(error.value)


def test_a_missing_table_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the rate table"):
        read_offers(tmp_path / "none.yaml")
