"""The grid benchmark compares like with like: both sides draw the same pictures from the same adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.grid import Result, Work, differences, engine, pipeline, table, write_adapters


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


def test_the_parts_of_the_profile_make_up_the_whole(tmp_path: Path) -> None:
    work = Work(str(tmp_path), adapters=1, seeds=2, steps=4, batch=2, threads=1)
    write_adapters(work)
    result = engine(work)
    assert sum(result.profile.values()) == pytest.approx(result.seconds)
    assert min(result.profile.values()) > 0


def test_the_table_gives_ratios(work: Work) -> None:
    results = [Result("engine", 4, 1.0, {"transformer": 0.75}), Result("plain", 4, 5.0)]
    said = table(results, work, (1, 0.25))
    assert "| plain | 1250 | 5.0 x |" in said
    assert "transformer 75 %" in said
