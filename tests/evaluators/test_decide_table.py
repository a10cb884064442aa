"""Rows and tables: what counts once, what counts not at all, and what people's files may look like."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from evaluators.decide.read import read_rows
from evaluators.decide.table import Context, Row, Sign, by_trial, make_table, rows_of
from orchestrator.core.errors import MissingError, StudyError
from orchestrator.core.study import Cell, Drawing, Finding, Prompt, Sample, Verdict


def test_a_table_does_not_depend_on_the_order_of_its_rows() -> None:
    rows = [
        Row(e, "pass" if (e * s) % 3 else "fail", str(s), w) for e in (9, 2, 5) for s in (3, 10, 1) for w in (1.0, 0.8)
    ]
    one, other = make_table(rows), make_table(Random(1).sample(rows, len(rows)))
    assert one.epochs.tolist() == [2, 5, 9]
    assert one.weights == (0.8, 1.0)
    assert [name for _, name in one.seeds] == ["1", "3", "10"], "numbers by size"
    for axis in ("epoch", "weight", "context", "seed", "passed", "scored"):
        assert np.array_equal(getattr(one, axis), getattr(other, axis))


def test_a_picture_judged_again_counts_once_with_what_was_said_last() -> None:
    rows = [Row(1, "fail", "7"), Row(1, "pass", "7"), Row(1, "pass", "8"), Row(1, "pass", "8")]
    table = make_table(rows)
    assert (table.images, table.repeated, table.contradicted) == (2, 2, 1)
    assert table.passed.tolist() == [1.0, 1.0]


def test_pictures_without_a_seed_are_never_the_same_picture() -> None:
    table = make_table([Row(1, "pass"), Row(1, "pass"), Row(1, "fail")])
    assert table.images == 3
    assert np.unique(table.seed).size == 3


def test_a_seed_of_another_prompt_or_size_is_another_seed() -> None:
    rows = [Row(1, "pass", "7", context=Context("a")), Row(1, "fail", "7", context=Context("b"))]
    assert np.unique(make_table(rows).seed).size == 2


def test_unscored_pictures_count_neither_way_but_are_counted() -> None:
    table = make_table([Row(1, "pass", "1"), Row(1, "unscored", "2"), Row(2, "unscored", "1")])
    passes, scored, unscored = (count[0, 0].tolist() for count in table.counts())
    assert (passes, scored, unscored) == ([1, 0], [1, 0], [1, 1])
    assert table.unscored == 2


def test_weight_0_is_the_control_and_no_candidate() -> None:
    table = make_table([Row(1, "pass", "1"), Row(1, "fail", "1", weight=0.0)])
    assert table.weights == (1.0,)
    assert [row.outcome for row in table.control] == ["fail"]


def test_trials_are_told_apart() -> None:
    rows = [Row(1, "pass", "1", trial="b"), Row(1, "fail", "1", trial="a")]
    assert list(by_trial(rows)) == ["a", "b"]
    with pytest.raises(ValueError, match="one trial"):
        make_table(rows)


def cell(epoch: int, seed: int, purpose: str = "select") -> Cell:
    prompt, drawing = Prompt("trio", "a", ("a",)), Drawing()
    return Cell("t-1", epoch, "a", f"sha{epoch}", 1.0, prompt, seed, drawing, "base", purpose)  # type: ignore[arg-type]


def test_cells_that_confirm_take_no_part_in_choosing() -> None:
    cells = [cell(1, 1), cell(1, 2), cell(1, 3, "confirm")]
    found = (Finding("drift", "kanachan", "hair"), Finding("drift", "kanachan", "eyes"))
    verdicts = {c.key: Verdict(c.key, "judge", 1, "fail", found) for c in cells if c.seed != 2}
    (row,) = rows_of(cells, verdicts)
    assert row == Row(1, "fail", "1", 1.0, Context("trio", "1024x1024"), "t-1", (Sign("drift", "kanachan"),))


def test_people_write_outcomes_in_many_ways(tmp_path: Path) -> None:
    file = tmp_path / "old.csv"
    file.write_text(
        "# by hand, last year\nEpoch;Seed;Passed;note\n\n10;1;yes;good\n10;2;0;\n20;1;TRUE;\n20;2;?;blurred\n",
        "utf-8-sig",
    )
    rows = read_rows(file)
    assert [(r.epoch, r.seed, r.outcome) for r in rows] == [
        (10, "1", "pass"),
        (10, "2", "fail"),
        (20, "1", "pass"),
        (20, "2", "unscored"),
    ]


def test_signs_and_all_axes_are_read(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("epoch,pass,seed,weight,prompt,layout,trial,signs\n3,fail,x,0.8,duo,wide,r64,drift:kana; count\n")
    assert read_rows(file) == [
        Row(3, "fail", "x", 0.8, Context("duo", "wide"), "r64", (Sign("drift", "kana"), Sign("count")))
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seed,pass\n1,1\n", "no column 'epoch'"),
        ("epoch,seed\n1,1\n", "no column 'pass'"),
        ("epoch,pass\n1,perhaps\n", "t.csv:2: cannot read 'perhaps'"),
        ("# remark\n\nepoch,pass\n1,1\n\none,1\n", "t.csv:6: cannot read 'one' as epoch"),
        ("epoch,pass\n1.5,1\n", "whole number"),
        ("epoch,pass\n-3,1\n", "whole number"),
        ("epoch,pass\n1e99,1\n", "as epoch"),
        ("epoch,pass,weight\n1,1,nan\n", "as weight"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    with pytest.raises(StudyError) as raised:
        read_rows(file)
    assert complaint in str(raised.value)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nowhere\.csv"):
        read_rows(tmp_path / "nowhere.csv")
    (tmp_path / "x.csv").write_bytes(b"epoch,pass\n\xff\xfe\n")
    with pytest.raises(StudyError, match="UTF-8"):
        read_rows(tmp_path / "x.csv")


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("# nothing yet\n")
    assert read_rows(tmp_path / "x.csv") == []


def test_a_run_is_read_from_its_ledger(tmp_path: Path) -> None:
    cells = [cell(1, 1), cell(1, 2), cell(2, 1, "confirm"), cell(2, 3)]
    lines = []
    for number, drawn in enumerate(cells):
        sample = Sample(drawn.key, "x.png", "s", 0.1)
        lines.append({"kind": "sample_drawn", "cell": drawn.to_json(), "sample": sample.to_json()})
        said = Verdict(drawn.key, "judge", 1, "pass" if number else "unscored")
        lines.append({"kind": "verdict_given", "verdict": said.to_json()})
    lines.append({"kind": "verdict_given", "verdict": Verdict(cells[0].key, "judge", 2, "fail").to_json()})
    lines.append({"kind": "file_quarantined", "cell_key": cells[3].key})
    whole = "".join(json.dumps({"v": 1, "t": 0.0, **line}) + "\n" for line in lines)
    (tmp_path / "ledger.jsonl").write_text(whole + '{"v": 1, "t": 0.0, "kind": "verd')
    rows = read_rows(tmp_path)
    assert [(r.epoch, r.seed, r.outcome) for r in rows] == [(1, "1", "fail"), (1, "2", "pass")]


def test_a_damaged_ledger_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text('{"kind": "sample_drawn"}\n')
    with pytest.raises(StudyError, match=r"ledger\.jsonl:1"):
        read_rows(tmp_path)
