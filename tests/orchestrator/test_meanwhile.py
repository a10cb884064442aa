"""What training drew, on the page: a strip for each prompt, small, and only where there is something."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.report.meanwhile import MOST_EPOCHS
from orchestrator.report.page import render_report
from tests.orchestrator.drawn_study import DrawnStudy, draw_samples, draw_study


@pytest.fixture
def study(tmp_path: Path) -> DrawnStudy:
    return draw_study(tmp_path, epochs=2, seeds=2, confirm=1)


def section(study: DrawnStudy) -> str:
    """The part of the page; empty when there is none."""
    html = render_report(study.state, study.layout, study.config)
    _, _, rest = html.partition("<h2>Drawn while training</h2>")
    return rest.partition("<h2>")[0]


def places(html: str) -> list[tuple[int, int]]:
    """Epoch and seed of the pictures that are shown, in their order."""
    return [(int(epoch), int(seed)) for epoch, seed in re.findall(r'alt="epoch (\d+), seed (\d+)', html)]


def test_each_prompt_is_a_strip_with_a_row_for_each_seed(study: DrawnStudy) -> None:
    assert section(study) == ""
    draw_samples(study, (0, 1, 2))
    (study.layout.samples(study.trial, 1) / "kanachan-1girl-43-0123abcd.png").unlink()
    (study.layout.samples(study.trial, 2) / "kanachan-1girl-43-0123abcd.png").write_bytes(b"cut")
    (study.layout.samples(study.trial, 2) / "kanachan-1girl-42-0123abcd.json").write_text("{")
    html = section(study)
    first, second = html.split("<table")[1:]
    assert re.findall(r"<code>(.*?)</code>", html) == ["kanachan, 1girl", "koharu reads (a book:1.2)"]
    assert re.findall(r'alt="(epoch \d, seed \d+)', second) == [
        f"epoch {e}, seed {s}" for s in (42, 43) for e in range(3)
    ]
    assert re.findall(r'alt="(epoch \d, seed \d+)', first) == [
        "epoch 0, seed 42",
        "epoch 1, seed 42",
        "epoch 0, seed 43",
    ]
    assert first.count("not drawn") == 2
    assert first.count("cannot be read") == 1
    assert section(study) == html


def test_of_many_epochs_some_are_shown_and_large_pictures_are_small_there(study: DrawnStudy) -> None:
    draw_samples(study, range(31), scale=6)
    html = section(study)
    shown = [int(epoch) for epoch in re.findall(r'alt="epoch (\d+), seed 42: kana', html)]
    assert len(shown) == MOST_EPOCHS
    assert (shown[0], shown[-1]) == (0, 30)
    assert html.count("data:image/webp") == html.count("data-file=") == 4 * MOST_EPOCHS
    assert len(html) / html.count("<img") < 8_000
