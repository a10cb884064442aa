"""The charts as PNG, how sure a choice is, what more would buy, and which pictures stand for a large grid."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.core.study import StopAdvice, Verdict
from orchestrator.planning.config import parse_config, to_data
from orchestrator.record.state import TrialState
from orchestrator.report.breaks import groups
from orchestrator.report.evidence import Evidence, gather
from orchestrator.report.figures import charts, study_figures
from orchestrator.report.frame import Frame, svg, text
from orchestrator.report.heat import HeatRow, heat_chart
from orchestrator.report.markup import element
from orchestrator.report.outlook import Cost, Sureness, another
from orchestrator.report.page import render_report, write_report
from orchestrator.report.picks import evenly, out_of_line, telling_epochs
from orchestrator.report.raster import HEAD, png
from tests.orchestrator.drawn_study import DrawnStudy, draw_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> DrawnStudy:
    return draw_study(tmp_path_factory.mktemp("study"), epochs=10, seeds=6, confirm=10, weights=(0.7, 1.0))


@pytest.fixture(scope="module")
def evidence(study: DrawnStudy) -> Evidence:
    return gather(study.state, study.config, study.target, [3600.0])


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), dtype=np.int16)


def test_every_chart_of_the_page_is_a_figure_beside_it(study: DrawnStudy, evidence: Evidence) -> None:
    path = write_report(study.state, study.layout, study.config)
    names = {"rate", "plateau", "loss", "who-breaks-first", "failures", "weights"}
    assert {p.stem for p in (path.parent / "figures").glob("*.png")} == names == set(charts(evidence))
    told = study_figures(study.state, study.config, study.target)
    assert {name: (study.layout.figures / f"{name}.png").read_bytes() for name in names} == dict(told)


def test_a_figure_is_painted_where_the_chart_says() -> None:
    frame = Frame(100, 10, 90, 10, 50, [1, 4])
    shapes = [
        element("rect", x=20, y=10, width=10, height=10, class_="shade", fill_opacity=1.0),
        element("rect", x=40, y=10, width=10, height=10, class_="shade", fill_opacity=0.5),
        element("line", x1=10, x2=90, y1=40, y2=40, class_="axis"),
        element("path", d="M70 10l8 8l-8 8l-8 -8z", class_="dot"),
        text(frame.left, 58, "words", "start"),
    ]
    seen = pixels(png(svg(100, 60, "A title", "what it says", shapes)))
    assert seen.shape == (2 * (60 + HEAD), 200)

    def at(x: float, y: float) -> int:
        return int(seen[round(2 * (y + HEAD)), round(2 * x)])

    assert at(25, 15) < 40
    assert 120 < at(45, 15) < 160, "half as dark"
    assert at(70, 18) < 40
    assert at(63, 11) == 255, "outside the diamond"
    assert at(50, 40) < 100
    assert seen[: 2 * HEAD].min() < 100, "the title"


def test_a_shape_no_chart_uses_is_refused_rather_than_left_out() -> None:
    with pytest.raises(ValueError, match="ellipse"):
        png(svg(10, 10, "A", "b", [element("ellipse", cx=1, cy=1, rx=1, ry=1)]))


def test_dashes_leave_gaps() -> None:
    solid, dashed = (
        pixels(png(svg(100, 10, "A", "b", [element("polyline", points="5,5 95,5", class_=kind)])))
        for kind in ("who", "who who-2")
    )
    assert 0 < (dashed[2 * HEAD :] < 128).sum() < 0.7 * (solid[2 * HEAD :] < 128).sum()


def test_the_page_says_how_sure_it_is_and_what_a_dollar_buys(study: DrawnStudy) -> None:
    data = to_data(study.config)
    data["cluster"]["dollars_per_hour"] = 0.5
    config = parse_config(data)
    page = re.sub(r"<[^>]*>", "\n", render_report(study.state, study.layout, config)).replace("\u00a0", " ")
    assert re.search(r"With a probability of \d+ % no epoch that was drawn is more than 5 points better", page)
    assert re.search(r"One more dollar draws [\d,]+ more pictures \(2 h 0 min\) and narrows the rate", page)
    assert re.search(r"cost so far\n+\$0\.0\d at \$0\.50 an hour", page)


def test_sureness_is_of_the_adopted_epoch_against_all_others(study: DrawnStudy, evidence: Evidence) -> None:
    choice = study.state.choice
    assert choice is not None
    good, bad = (evidence.outlook.sureness(study.trial, epoch, choice.weight) for epoch in (choice.epoch, 1))
    assert good is not None
    assert bad is not None
    assert good.chance > 0.5 > bad.chance
    assert 0 <= good.regret < 0.15 < bad.regret
    assert evidence.outlook.sureness(study.trial, 99, choice.weight) is None


def test_more_pictures_narrow_with_the_square_root(study: DrawnStudy) -> None:
    choice = replace(study.state.choice, n=25, interval=(0.8, 1.0))  # type: ignore[type-var]
    sure = Sureness(0.9, 0.04, 0.9, 0.8, 0.98)
    paid = another(Cost(0, 200.0, 400.0, 100, 36.0), choice, sure, 50)
    assert paid is not None
    assert (paid.pictures, paid.seconds) == (50, 100.0)
    assert paid.half_then == pytest.approx(0.1 * (25 / 75) ** 0.5)
    assert paid.regret_then == pytest.approx(0.04 * (50 / 100) ** 0.5)
    free = another(Cost(0, 200.0, 400.0, 100, None), choice, sure, 50)
    assert free is not None
    assert free.pictures == 100
    assert another(Cost(0, 0.0, 0.0, 0, 1.0), choice, sure, 50) is None


def test_a_stop_is_told_at_the_top_with_what_it_saved(study: DrawnStudy) -> None:
    advice = StopAdvice(study.trial, 10, 8, 0.97, 40, 3.5, 1.75, "epoch 8 is better than anything since epoch 9")
    before = study.state.trials[study.trial]
    state = replace(study.state, trials={study.trial: TrialState(10, 1, advice=advice, stopped=True)})
    page = render_report(state, study.layout, study.config)
    assert "was stopped at epoch 10, which saved 40 epochs, 3.5 hours and $1.75: epoch 8 is better" in page
    assert before.advice is None


def test_pictures_two_judges_disagree_on_are_shown(study: DrawnStudy) -> None:
    passed = next(v for v in study.state.verdicts.values() if v.outcome == "pass")
    other = Verdict(passed.cell_key, "person", 1, "fail")
    verdicts = {**study.state.verdicts, (other.cell_key, "person", 1): other}
    page = render_report(replace(study.state, verdicts=verdicts, follower=None), study.layout, study.config)
    assert "Judges disagree (1 pictures)" in page
    assert "person: failed" in page
    assert "Judges disagree" not in render_report(study.state, study.layout, study.config)


def test_what_is_out_of_line_differs_from_the_same_seed_on_both_sides(evidence: Evidence) -> None:
    for shot, _ in out_of_line(evidence):
        same = [s for s in evidence.lead_shots if s.cell.seed == shot.cell.seed]
        at = same.index(shot)
        assert same[at - 1].outcome == same[at + 1].outcome != shot.outcome


def test_a_large_sheet_shows_epochs_spread_over_the_whole_and_those_that_matter(evidence: Evidence) -> None:
    there = list(range(1, 501))
    kept = telling_epochs(evidence, there)
    assert len(kept) == 12
    assert evidence.choice is not None
    assert {1, 500, evidence.choice.epoch, *evidence.choice.plateau} <= set(kept)
    assert max(b - a for a, b in pairwise(kept)) <= 130
    shots = list(evidence.shots)
    assert [evenly(shots, 5)[0], evenly(shots, 5)[-1]] == [shots[0], shots[-1]]


def test_many_epochs_share_bars_and_nothing_is_lost(evidence: Evidence) -> None:
    shots = evidence.lead_shots
    few = groups(shots, most=3)
    assert len(few) <= 3
    assert sum(g.judged for g in few) == sum(g.judged for g in groups(shots)) == len(shots)
    assert sum(g.kinds.total() for g in few) == sum(len(s.verdict.findings) for s in shots if s.verdict)


def test_a_map_is_darker_where_the_rate_is_higher_and_says_it_in_figures() -> None:
    chart = heat_chart([HeatRow("weight 1", (1, 2, 3), (0.1, None, 0.9), adopted=3)], "Rates", 400)
    shades = [float(v) for v in re.findall(r'fill-opacity="([\d.]+)"', chart)]
    assert shades[0] < shades[1]
    assert ">10<" in chart
    assert ">90<" in chart
    assert "epoch 2: not drawn" in chart
    assert png(chart)


def test_a_grid_of_thousands_makes_a_page_of_a_few_megabytes(tmp_path: Path) -> None:
    study = draw_study(tmp_path, epochs=40, seeds=16, confirm=4)
    page = render_report(study.state, study.layout, study.config)
    assert "96 of 640 pictures" in page or re.search(r"Shown are \d+ of 640", page)
    assert page.count("<img") < 160
