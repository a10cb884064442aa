"""Controls and probes stand on the page in a part of their own, and change nothing that is counted."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest

from evaluators.critic import judge_of
from orchestrator.core.study import ConstantAdapter, Finding, Prompt, Sample, Verdict
from orchestrator.deciding.policy import cells_beside, unjudged, verdicts_of
from orchestrator.planning.config import StudyConfig, parse_config, to_data
from orchestrator.planning.target import build_target
from orchestrator.record.state import StudyState
from orchestrator.report.beside import beside
from orchestrator.report.evidence import Evidence, gather
from orchestrator.report.page import render_report
from orchestrator.report.sections import usage
from tests.orchestrator.drawn_study import BASE, DATASET, DrawnStudy, draw_study

SHOWN = [
    {"name": "strangers", "text": "two <girls>", "role": "control", "seeds": [1, 2]},
    {"name": "alone", "text": "1girl, {1}", "cast": ["kanachan"], "role": "control", "adapter": False, "seeds": [1]},
    {"name": "nobody", "text": "two <girls>", "role": "control", "adapter": False, "seeds": [1, 2]},
    {"name": "coat", "format": "tags", "cast": ["kanachan"], "add": ["coat"], "role": "probe", "epochs": [4]},
]


CONTROL = Prompt("strangers", "two <girls>", (), role="control")
LEAK = Finding("leak", "kanachan", "accessory", "blue scrunchie", "blue scrunchie", "stranger 2 of 2", 1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> DrawnStudy:
    return draw_study(tmp_path_factory.mktemp("beside"), epochs=4, seeds=3, confirm=2)


@pytest.fixture(scope="module")
def shown(plain: DrawnStudy) -> tuple[StudyConfig, StudyState]:
    """The same study with controls and probes, all of them judged failed, but for one that is not judged."""
    data = to_data(plain.config)
    data["grid"]["prompts"] += SHOWN
    config, state = parse_config(data), copy.copy(plain.state)
    state.cells, state.samples = dict(state.cells), dict(state.samples)
    state.verdicts, state.follower = dict(state.verdicts), None
    target = build_target(config, dataset_sha256=DATASET, base_sha256=BASE)
    assert target.judge is not None
    picture = next(iter(plain.state.samples.values())).image
    for number, (key, cell) in enumerate(cells_beside(target, state).items()):
        state.cells[key], state.samples[key] = cell, Sample(key, picture, "s", 0.5)
        if number:
            judge = judge_of(target.judge, cell.prompt)
            found = (LEAK,) if cell.prompt.calls_nobody else ()
            state.verdicts[key, *judge] = Verdict(key, *judge, "fail", found)
    return config, state


def evidence_of(config: StudyConfig, state: StudyState) -> Evidence:
    return gather(state, config, build_target(config, dataset_sha256=DATASET, base_sha256=BASE))


def test_nothing_that_is_counted_changes(plain: DrawnStudy, shown: tuple[StudyConfig, StudyState]) -> None:
    before, after = evidence_of(plain.config, plain.state), evidence_of(*shown)
    assert after.series == before.series
    assert [s.cell for s in after.shots] == [s.cell for s in before.shots]
    assert after.sureness == before.sureness
    assert len(before.beside) == 0
    assert [s.cell.prompt.name for s in after.beside] == [
        *["strangers"] * 8,
        "alone",
        *["nobody"] * 2,
        *["coat"] * 3,
    ]
    assert after.cost.pictures == before.cost.pictures + 14


def test_each_has_its_question_and_its_pictures(plain: DrawnStudy, shown: tuple[StudyConfig, StudyState]) -> None:
    page = "".join(beside(evidence_of(*shown), plain.layout))
    assert page.count("<details") == 4
    assert page.count("<img") == 14
    assert "14 pictures for people to look at; no rate counts them." in page
    assert "the base alone, without the adapter" in page
    assert "two &lt;girls&gt;" in page
    assert beside(evidence_of(plain.config, plain.state), plain.layout) == []


def rows_of(page: str) -> list[list[str]]:
    """What stands in the rows of the tables of numbers."""
    bodies = re.findall(r'class="numbers">.*?<tbody>(.*?)</tbody>', page, re.S)
    rows = [row for body in bodies for row in re.findall(r"<tr.*?>(.*?)</tr>", body, re.S)]
    return [[re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)] for row in rows]


def test_leaks_are_told_by_epoch_beside_what_the_base_does_alone(
    plain: DrawnStudy, shown: tuple[StudyConfig, StudyState]
) -> None:
    evidence = evidence_of(*shown)
    shots = []
    for shot in evidence.beside:
        clean = shot.cell.prompt.name == "nobody" or (shot.cell.epoch, shot.cell.seed) in ((1, 1), (1, 2), (3, 2))
        if shot.cell.prompt.calls_nobody and shot.verdict:
            said = replace(shot.verdict, outcome="pass", findings=()) if clean else shot.verdict
            shot = replace(shot, verdict=said)
        shots.append(shot)
    page = "".join(beside(replace(evidence, beside=tuple(shots)), plain.layout))
    mark = "kanachan&#x27;s accessory (blue scrunchie)"
    bare = sum(s.verdict is not None for s in evidence.beside if s.cell.prompt.name == "nobody")
    assert rows_of(page) == [
        ["base alone", "0", f"{bare}", "0\u00a0%", "–", "–"],
        ["1", "0", "2", "0\u00a0%", "–", "–"],
        ["2", "2", "2", "100\u00a0%", "kanachan 2", mark],
        ["3", "1", "2", "50\u00a0%", "kanachan 1", mark],
        ["4", "2", "2", "100\u00a0%", "kanachan 2", mark],
    ]
    assert "leak in 1 of 2" in page
    assert "Some come by chance" in page


def test_verdicts_of_before_stay_and_only_strangers_are_looked_at_anew(shown: tuple[StudyConfig, StudyState]) -> None:
    config, state = shown
    target, older = build_target(config, dataset_sha256=DATASET, base_sha256=BASE), copy.copy(state)
    assert target.judge is not None
    cells = cells_beside(target, state)
    older.verdicts = dict(state.verdicts)
    for key in cells:
        said = Verdict(key, *target.judge, "unscored", reason="the prompt asks for nobody of the cast")
        older.verdicts[key, *target.judge] = said
        older.verdicts.pop((key, *judge_of(target.judge, CONTROL)), None)
    found = verdicts_of(target, older, cells)
    assert {cell.prompt.name for key, cell in cells.items() if key not in found} == {"strangers", "nobody"}
    assert unjudged(target, older, {key: cell for key, cell in cells.items() if cell.prompt.calls_nobody})
    assert not unjudged(target, older, {key: cell for key, cell in cells.items() if not cell.prompt.calls_nobody})
    assert evidence_of(config, older).series == evidence_of(config, state).series


def test_the_page_has_the_part(plain: DrawnStudy, shown: tuple[StudyConfig, StudyState]) -> None:
    config, state = shown
    assert "Controls and probes" in render_report(state, plain.layout, config)
    assert "Controls and probes" not in render_report(plain.state, plain.layout, plain.config)


def test_of_many_epochs_some_are_shown(plain: DrawnStudy, shown: tuple[StudyConfig, StudyState]) -> None:
    evidence = evidence_of(*shown)
    one = evidence.beside[0]
    many = tuple(replace(one, cell=replace(one.cell, epoch=epoch)) for epoch in range(1, 101))
    page = "".join(beside(replace(evidence, beside=many), plain.layout))
    assert page.count("<img") == 12
    assert "12 of 100 pictures" in page
    assert ">1</b>" in page
    assert ">100</b>" in page


def test_what_was_drawn_along_is_named_where_the_adapter_is_used(plain: DrawnStudy) -> None:
    evidence = evidence_of(plain.config, plain.state)
    assert "drawn together" not in "".join(usage(evidence))
    along = (ConstantAdapter("turbo", "c" * 64, 0.8),)
    shots = tuple(replace(s, cell=replace(s.cell, with_adapters=along)) for s in evidence.confirming)
    said = "".join(usage(replace(evidence, confirming=shots)))
    assert "Every picture here was drawn together with turbo at weight 0.8" in said
