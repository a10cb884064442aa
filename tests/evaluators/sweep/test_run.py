"""A grid without the rest: every picture once, the table whole after whatever happens, the page for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from evaluators.config import GridConfig
from evaluators.decide.read import read_rows
from evaluators.sidecar import sidecar_of
from evaluators.sweep.run import Judging, Sweep, cells_of
from evaluators.sweep.sheet import write_sheet
from evaluators.sweep.table import VerdictTable
from evaluators.sweep.verify import Comparison, spread, verify
from evaluators.thumbnails import thumbnail_of
from orchestrator.core.errors import AdapterError, DamagedError
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Checkpoint, Finding, Sample, Verdict

JUDGE = ("scripted", 1)
CHECKPOINTS = [
    Checkpoint("kei", epoch, f"kei-{epoch}.safetensors", f"{epoch}" * 64, 4, 0, 0.0, 0.0, 0.0) for epoch in (1, 2, 3)
]
GRID = GridConfig.model_validate(
    {
        "prompts": [
            {"name": "pair", "text": "a b", "cast": ["a", "b"]},
            {"name": "strangers", "text": "two girls", "role": "control", "seeds": [1], "epochs": [3]},
            {"name": "base", "text": "a", "cast": ["a"], "role": "control", "adapter": False, "seeds": [1]},
        ],
        "seeds": [1, 2],
        "drawing": {"width": 96, "height": 64},
    }
)


@dataclass
class Artist:
    """Draws one colour per cell, and counts; `broken` are the adapters it cannot merge."""

    layout: Layout
    broken: frozenset[str] = frozenset()
    calls: list[str] = field(default_factory=list)
    die_after: int = 99
    shade: int = 0
    facts: dict[str, object] = field(default_factory=lambda: {"backend": "scripted"})

    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        if cells[0].adapter_sha256 in self.broken:
            raise AdapterError("does not fit this base", where=cells[0].adapter)
        return [self._draw(cell) for cell in cells]

    def _draw(self, cell: Cell) -> Sample:
        if len(self.calls) >= self.die_after:
            raise KeyboardInterrupt
        self.calls.append(cell.key)
        path = self.layout.image(cell.trial, cell.epoch, cell.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (cell.drawing.width, cell.drawing.height), (cell.seed, cell.epoch, self.shade)).save(path)
        digest = sha256(path.read_bytes()).hexdigest()
        sidecar = sidecar_of(cell, image_sha256=digest, seconds=0.1, drawn_by=self.facts)
        write_whole(path.with_suffix(".json"), json.dumps(sidecar))
        return Sample(cell.key, self.layout.relative(path), digest, 0.1)


class Critic:
    """Passes seed 1."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def judge(self, cells: Sequence[Cell], samples: Sequence[Sample]) -> list[Verdict]:
        assert [s.cell_key for s in samples] == [c.key for c in cells]
        self.calls += [c.key for c in cells]
        missing = (Finding("missing", "a", "ahoge", "yes"), Finding("count", expected="2", seen="3"))
        return [Verdict(c.key, *JUDGE, *(("pass",) if c.seed == 1 else ("fail", missing))) for c in cells]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "study")


def a_sweep(layout: Layout, critic: Critic | None = None, grid: GridConfig = GRID) -> Sweep:
    judging = Judging(JUDGE, critic) if critic else None
    sweep = Sweep(layout, cells_of(CHECKPOINTS, grid, "b" * 64), judging)
    sweep.look()
    return sweep


def test_what_counts_comes_first_and_the_newest_epoch_before_others(layout: Layout) -> None:
    cells = a_sweep(layout).cells.values()
    assert [(c.prompt.name, c.epoch, c.seed) for c in cells] == [
        *[("pair", epoch, seed) for epoch in (3, 2, 1) for seed in (1, 2)],
        ("base", 0, 1),
        ("strangers", 3, 1),
    ]


def test_every_picture_is_drawn_and_judged_once_however_often_it_is_stopped(layout: Layout) -> None:
    drawn: list[str] = []
    judged: list[str] = []
    for _ in range(20):
        artist, critic = Artist(layout, die_after=2), Critic()
        sweep = a_sweep(layout, critic)
        try:
            list(sweep.run(artist, 1))
        except KeyboardInterrupt:
            continue
        finally:
            drawn += artist.calls
            judged += critic.calls
        break
    assert sorted(drawn) == sorted(judged) == sorted(sweep.cells)
    assert len(sweep.finished()) == 8
    again = a_sweep(layout, Critic())
    assert again.lacking() == []
    assert again.verdicts == sweep.verdicts


def test_analyse_reads_the_table_and_counts_no_control(layout: Layout) -> None:
    sweep = a_sweep(layout, Critic())
    list(sweep.run(Artist(layout), 4))
    rows = read_rows(sweep.table.csv)
    assert [(r.epoch, r.outcome, r.seed, r.context.prompt) for r in rows] == [
        (epoch, outcome, seed, "pair") for epoch in (3, 2, 1) for seed, outcome in (("1", "pass"), ("2", "fail"))
    ]
    assert [(s.kind, s.character) for s in rows[1].signs] == [("missing", "a"), ("count", "")]
    assert str(rows[0].context) == "pair 96x64"
    assert len(sweep.table.csv.read_text().splitlines()) == 1 + 8, "controls stand in it all the same"


def test_a_line_cut_short_is_judged_again(layout: Layout) -> None:
    sweep = a_sweep(layout, Critic())
    list(sweep.run(Artist(layout), 4))
    log = layout.root / "grid" / "verdicts.jsonl"
    log.write_bytes(log.read_bytes()[:-9])
    critic = Critic()
    again = a_sweep(layout, critic)
    list(again.run(Artist(layout), 4))
    assert len(critic.calls) == 1
    assert again.verdicts == sweep.verdicts
    assert len(VerdictTable(layout).read(JUDGE)) == 8
    log.write_text("{}\n")
    with pytest.raises(DamagedError, match=r"verdicts\.jsonl:1"):
        a_sweep(layout, Critic())


def test_what_people_wrote_into_the_table_stays(layout: Layout) -> None:
    sweep = a_sweep(layout)
    list(sweep.run(Artist(layout), 4))
    table = sweep.table.csv
    lines = table.read_text().splitlines()
    assert {r.outcome for r in read_rows(table)} == {"unscored"}
    lines[1] = lines[1].replace(",rate,1,,", ",rate,1,pass,")
    table.write_text("\n".join(lines) + "\n")
    more = GRID.model_copy(update={"seeds": (1, 2, 3)})
    list(a_sweep(layout, grid=more).run(Artist(layout), 4))
    assert [r.outcome for r in read_rows(table)] == ["pass", *["unscored"] * 8]


def test_an_adapter_that_cannot_be_drawn_is_passed_over_and_tried_again(layout: Layout) -> None:
    sweep = a_sweep(layout, Critic())
    list(sweep.run(Artist(layout, broken=frozenset({"2" * 64})), 1))
    assert {one.cell.epoch for one in sweep.finished()} == {0, 1, 3}
    assert list(sweep.faults.values()) == ["kei-2.safetensors: does not fit this base"]
    artist = Artist(layout)
    list(a_sweep(layout, Critic()).run(artist, 4))
    assert len(artist.calls) == 2


def test_a_changed_picture_is_drawn_again(layout: Layout) -> None:
    sweep = a_sweep(layout)
    list(sweep.run(Artist(layout), 4))
    victim = next(iter(sweep.drawn.values()))
    layout.resolve(victim.image).write_bytes(b"?")
    assert [cell.key for cell in a_sweep(layout).lacking()] == [victim.cell_key]


def compared(layout: Layout, again: Layout, artist: Artist, count: int) -> list[Comparison]:
    sweep = a_sweep(layout, Critic())
    return list(verify(spread(sweep.finished(), count), layout, again, artist, Judging(JUDGE, Critic())))


def test_drawn_again_pictures_and_verdicts_are_compared(layout: Layout, tmp_path: Path) -> None:
    list(a_sweep(layout, Critic()).run(Artist(layout), 4))
    again = Layout(tmp_path / "again")
    same = compared(layout, again, Artist(again), 5)
    assert len(same) == 5
    assert all(c.same_file and c.largest == 0 and c.same_verdict and not c.broken for c in same)
    shaded = compared(layout, again, Artist(again, shade=9), 99)
    assert len(shaded) == 8
    assert all(c.largest == 9 and c.mean == 3 and c.broken and not c.same_file for c in shaded)
    elsewhere = compared(layout, again, Artist(again, shade=9, facts={"backend": "scripted", "device": "x"}), 8)
    assert {c.changed for c in elsewhere} == {("device: None then, x now",)}
    assert not any(c.broken for c in elsewhere), "another device may draw other pixels"


def test_the_same_cells_are_taken_every_time(layout: Layout) -> None:
    sweep = a_sweep(layout)
    list(sweep.run(Artist(layout), 4))
    chosen = [one.cell.key for one in spread(sweep.finished(), 3)]
    assert chosen == [one.cell.key for one in spread(sweep.finished()[::-1], 3)][::-1]
    assert len(set(chosen)) == 3


def test_the_page_shows_every_picture_with_its_verdict_and_links_to_it(layout: Layout) -> None:
    sweep = a_sweep(layout, Critic())
    list(sweep.run(Artist(layout), 4))
    page = write_sheet(sweep.table.csv.with_name("index.html"), "kei <3", sweep.finished(), layout)
    text = page.read_text()
    assert text.count("<img") == 8
    assert "kei &lt;3" in text
    assert "3 of 6 that count passed" in text
    assert "control, counts in no rate" in text
    assert text.count("✗ fail") == 3
    for one in sweep.finished():
        assert (page.parent / Path(one.sample.image).relative_to("grid")).is_file()


def test_large_pictures_get_a_thumbnail_beside_them_once(tmp_path: Path) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.new("RGB", (96, 64)).save(small)
    Image.new("RGB", (1024, 512), (200, 10, 10)).save(large)
    assert thumbnail_of(small) == small
    made = thumbnail_of(large)
    assert made == tmp_path / "large.webp"
    with Image.open(made) as image:
        assert image.size == (256, 128)
    stamp = made.stat().st_mtime_ns
    assert thumbnail_of(large) == made
    assert made.stat().st_mtime_ns == stamp
    assert thumbnail_of(tmp_path / "none.png") is None
