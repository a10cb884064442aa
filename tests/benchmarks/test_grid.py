"""The grid benchmark compares like with like: both sides draw the same pictures from the same adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from anima.base import POCKET
from benchmarks.grid import Result, Work, differences, engine, pipeline, table, write_adapters
from benchmarks.random_base import PARTS, write_drawing_base


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    made = Work(str(tmp_path_factory.mktemp("grid")), adapters=2, seeds=2, steps=4, batch=2, threads=1)
    write_adapters(made)
    return made


def test_engine_and_plain_loop_draw_the_same_pictures(work: Work) -> None:
    results = [engine(work), pipeline(work, batch=1)]
    assert [r.pictures for r in results] == [4, 4]
    largest, _ = differences(work)
    assert largest <= 2
    drawn = {path.read_bytes() for path in (Path(work.folder) / "engine").glob("*.png")}
    assert len(drawn) == 4, "every adapter and every seed gives a picture of its own"


def test_a_base_with_random_weights_is_drawn_by_both(tmp_path: Path) -> None:
    """What a GPU is measured with, here in pocket's sizes."""
    write_drawing_base(tmp_path / "base", {part: POCKET / part / "config.json" for part in PARTS})
    work = Work(str(tmp_path), adapters=2, seeds=1, steps=2, batch=2, threads=1, base=str(tmp_path / "base"), height=96)
    write_adapters(work)
    assert engine(work).pictures == pipeline(work, batch=2).pictures == 2
    for side in ("engine", "batched"):
        with Image.open(tmp_path / side / "1-1.png") as picture:
            assert picture.size == (96, 96)


def test_the_profile_names_every_part_and_what_a_switch_takes(tmp_path: Path) -> None:
    work = Work(str(tmp_path), adapters=2, seeds=2, steps=4, batch=2, threads=1)
    write_adapters(work)
    result = engine(work)
    assert min(result.profile.values()) > 0
    assert max(result.profile, key=lambda part: result.profile[part]) == "denoise"
    assert 0 < result.switch_ms < 1000 * result.seconds


def test_the_table_gives_ratios_of_the_same_round() -> None:
    work = Work("", adapters=2, seeds=2, steps=4, batch=2, threads=1)
    rounds = [
        [Result("engine", 4, 1.0, 2.0, 500.0, {"denoise": 3.0, "decode": 1.0}, 2.5), Result("plain", 4, 5.0, 8.0)],
        [Result("engine", 4, 2.0, 2.0, 500.0, {"denoise": 3.0, "decode": 1.0}, 2.5), Result("plain", 4, 14.0, 9.0)],
        [Result("engine", 4, 9.0, 2.0, 500.0, {"denoise": 3.0, "decode": 1.0}, 2.5), Result("plain", 4, 54.0, 10.0)],
    ]
    said = table(rounds, work, (1, 0.25))
    assert "| plain | 3500 | 6.0 × (5.0–7.0) | 2250 | 4.5 × (4.0–5.0) | 0 MB |" in said
    assert "denoise 75.0 %, decode 25.0 %" in said
    assert "more than 1 of 255" in said
