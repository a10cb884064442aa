"""The report page, written from studies whose every picture is really drawn."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from evaluators.rates import wilson
from orchestrator.core.study import Finding, Sample
from orchestrator.planning.config import parse_config, to_data
from orchestrator.record.ledger import Event
from orchestrator.record.state import StudyState
from orchestrator.report.charts import rate_chart
from orchestrator.report.evidence import gather, run_seconds, seed_records
from orchestrator.report.frame import NARROW, WIDE
from orchestrator.report.markup import Markup, element
from orchestrator.report.page import render_report, write_report
from orchestrator.report.style import STYLE
from tests.orchestrator.drawn_study import DrawnStudy, draw_study

ROOT = Path(__file__).parents[2]
VOID = {"meta", "img", "input", "br"}


@dataclass
class Page(HTMLParser):
    """A page taken apart: every element with its attributes and the text inside it."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts).replace("\u00a0", " ")

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """Attributes of every such element whose attributes contain these words."""
        found = [a for t, a in self.elements if t == tag]
        named = {k.rstrip("_").replace("_", "-"): word for k, word in wanted.items()}
        return [a for a in found if all(word in (a.get(k) or "").split() for k, word in named.items())]


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def whole_sheet(html: str) -> str:
    """The table that holds every picture, beside those that show some of them again."""
    return html.split('class="sheet"')[1].split("</table>")[0]


def rendered(study: DrawnStudy, state: StudyState | None = None) -> str:
    return render_report(state or study.state, study.layout, study.config)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> DrawnStudy:
    return draw_study(tmp_path_factory.mktemp("study"), epochs=12, seeds=8, confirm=20)


@pytest.fixture(scope="module")
def html(study: DrawnStudy) -> str:
    return rendered(study)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> DrawnStudy:
    return draw_study(tmp_path_factory.mktemp("small"), epochs=6, seeds=4, confirm=4)


@pytest.fixture
def tiny(tmp_path: Path) -> DrawnStudy:
    """A study whose files a test may damage."""
    return draw_study(tmp_path, epochs=2, seeds=2, confirm=1)


def altered(study: DrawnStudy, change: Callable[[StudyState], object]) -> StudyState:
    """A copy of the study's state with something done to it."""
    state = replace(study.state)
    for name in ("samples", "verdicts", "cells", "checkpoints", "trials", "quarantined"):
        setattr(state, name, getattr(state, name).copy())
    change(state)
    return state


def test_the_page_begins_with_the_adopted_epoch_its_fresh_rate_and_a_warning(study: DrawnStudy, html: str) -> None:
    choice = study.state.choice
    assert choice is not None
    passed = round(choice.first_try_rate * 20)
    text = read(html).text
    assert f"Epoch {choice.epoch} is adopted: it gets {passed} of 20 pictures right at the first try." in text
    low, high = wilson(passed, 20)
    assert f"That is {passed / 20:.0%}".replace("%", " %") in text
    assert f"a 95 % interval from {100 * low:.0f} % to {100 * high:.0f} %" in text
    assert f"While choosing it passed {choice.selection.passes} of 8" in text
    assert "optimistic" in text
    assert choice.reason in text


def test_sections_come_in_the_order_a_reader_asks_for_them(study: DrawnStudy, html: str) -> None:
    assert study.state.choice is not None
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        f"What epoch {study.state.choice.epoch} draws",
        "How the rate changed with training",
        "Why this epoch",
        "What goes wrong",
        "Hardest seeds",
        "Best, worst, and out of line",
        "Every picture, epoch by epoch",
        "Use the adapter",
        "Time, counts and cost",
        "Settings",
    ]


def test_the_page_needs_nothing_from_outside(html: str) -> None:
    page = read(html)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "srcset", "action"):
            if (value := attributes.get(name)) is not None:
                assert value.startswith(("data:image/", "#")), (tag, value)
    assert "url(http" not in html
    assert "@import" not in html
    policy = page.all("meta", http_equiv="Content-Security-Policy")[0]["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_the_contact_sheet_has_a_marked_picture_for_every_epoch_and_seed(study: DrawnStudy, html: str) -> None:
    sheet = html.split('class="sheet"')[1].split("</table>")[0]
    rows = sheet.split("<tbody>")[1].split("</tr>")[:-1]
    assert len(rows) == 12
    evidence = gather(study.state, study.config, study.target)
    for epoch, row in enumerate(rows, 1):
        wanted = [s for s in evidence.shots if s.cell.epoch == epoch]
        assert re.findall(r'data-outcome="(\w+)"', row) == [s.outcome for s in wanted]
        assert re.findall(r'use href="#mark-(\w+)"', row) == [s.outcome for s in wanted]
        assert len(re.findall('<img src="data:image/png', row)) == 8
        passes = sum(s.outcome == "pass" for s in wanted)
        assert f"{passes} of 8" in row
        assert ("adopted" in row) == (study.state.choice is not None and epoch == study.state.choice.epoch)


def test_embedded_pictures_are_the_drawn_ones(study: DrawnStudy, html: str) -> None:
    embedded = {base64.b64decode(uri) for uri in re.findall(r"data:image/png;base64,([^\"]+)", html)}
    on_disk = {study.layout.resolve(s.image).read_bytes() for s in study.state.samples.values()}
    assert embedded == on_disk


def test_a_failed_picture_says_why_in_words(study: DrawnStudy, html: str) -> None:
    failed = [s for s in gather(study.state, study.config, study.target).shots if s.outcome == "fail"]
    titles = Counter(a["title"] for a in read(html).all("button", class_="shot"))
    for shot in failed:
        assert shot.verdict is not None
        named = f"epoch {shot.cell.epoch}, seed {shot.cell.seed}: failed"
        lines = [named, *(f.sentence() for f in shot.verdict.findings)]
        title = next(t for t in titles if t is not None and t.startswith(lines[0] + "\n"))
        assert title.split("\n")[: len(lines)] == lines
        assert f"seen left: {shot.verdict.seen[0]}" in title


def test_outcomes_differ_in_shape_and_words_not_in_colour(html: str) -> None:
    drawn = dict(re.findall(r'<symbol id="mark-(\w+)"[^>]*>(.*?)</symbol>', html))
    assert set(drawn) == {"pass", "fail", "unscored", "none"}
    assert len(set(drawn.values())) == 4
    assert "circle" in drawn["pass"]
    assert "circle" not in drawn["fail"]
    patterns = dict(re.findall(r'<pattern id="(\w+)"[^>]*>(.*?)</pattern>', html))
    assert len(set(patterns.values())) == len(patterns) == 7


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1])
def test_both_themes_have_enough_contrast(theme: int) -> None:
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", re.findall(r":root \{.*?\}", STYLE, re.S)[theme]))

    def contrast(a: str, b: str) -> float:
        bright, dark = sorted((luminance(colours[a]), luminance(colours[b])), reverse=True)
        return (bright + 0.05) / (dark + 0.05)

    for text in ("ink", "soft", "strong"):
        assert contrast(text, "paper") >= 4.5, text
        assert contrast(text, "tint") >= 4.5, text
    assert contrast("mid", "paper") >= 3


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_rate_chart_puts_every_epoch_where_its_numbers_are(study: DrawnStudy, width: int) -> None:
    evidence = gather(study.state, study.config, study.target)
    chart = rate_chart(evidence, width)
    groups = re.findall(r"<title>epoch (\d+): (\d+) of 8 passed.*?</title>(.*?)</g>", chart)
    assert [int(e) for e, _, _ in groups] == list(range(1, 13))
    top, bottom = 44.0, 296.0
    for epoch, passes, marks in groups:
        if int(epoch) == evidence.choice.epoch:  # type: ignore[union-attr]
            continue
        y = float(re.findall(r'cy="([\d.]+)"', marks)[0])
        assert y == pytest.approx(bottom - int(passes) / 8 * (bottom - top), abs=0.02)
        ends = [float(v) for v in re.findall(r'y[12]="([\d.]+)"', marks)][:2]
        assert [(bottom - v) / (bottom - top) for v in ends] == pytest.approx(wilson(int(passes), 8)[::-1], abs=1e-3)
    for words in ("adopted: epoch", "plateau: epoch", "fresh seeds:"):
        assert words in chart
    for x, label in re.findall(r'<text x="([\d.]+)"[^>]*>([^<]*)</text>', chart):
        assert 0 <= float(x) <= width, label


def test_charts_survive_one_epoch_and_a_loss_that_is_not_a_number(tmp_path: Path) -> None:
    study = draw_study(tmp_path, epochs=1, seeds=2, confirm=1)

    def diverge(state: StudyState) -> None:
        state.checkpoints[study.trial, 1] = replace(state.checkpoints[study.trial, 1], loss=float("nan"))

    page = rendered(study, altered(study, diverge))
    assert "nan" not in page.replace("kanachan", "")
    assert "training loss, mean" not in page
    assert "training loss, mean" in rendered(study)


def test_failures_are_counted_by_kind_and_by_character(study: DrawnStudy, html: str) -> None:
    shots = gather(study.state, study.config, study.target).shots
    findings = [f for s in shots if s.verdict for f in s.verdict.findings]
    by_who = {who: Counter(f.kind for f in findings if f.character == who) for who in ("kanachan", "keichan", "koharu")}
    table = html.split("<h3>Who fails</h3>")[1].split("</table>")[0]
    kinds = re.findall(r'scope="col">(\w+)<', table)[1:-1]
    for who, counts in by_who.items():
        cells = table.split(f"<td>{who}</td>")[1].split("</tr>")[0]
        numbers = [int(n) for n in re.findall(r">(\d+)</td>", cells)]
        assert numbers == [*(counts[k] for k in kinds), counts.total()]
    said, times = Counter(f.sentence() for f in findings).most_common(1)[0]
    assert f"<li>{said.replace(chr(39), '&#x27;')}: {times} times</li>" in html


def test_hardest_seeds_come_first(study: DrawnStudy) -> None:
    records = seed_records(gather(study.state, study.config, study.target).shots)
    assert sum(r.scored for r in records) == 96
    rates = [r.passes / r.scored for r in records]
    assert rates == sorted(rates)


def test_the_page_says_how_to_use_the_adapter_and_what_it_took(study: DrawnStudy, html: str) -> None:
    choice, text = study.state.choice, read(html).text
    assert choice is not None
    assert f'pipe.load_lora_weights("{choice.adapter}"' in text
    assert choice.adapter_sha256 in text
    assert "116 (96 to choose by, 20 to confirm)" in text
    assert "train.learning_rate" in text
    assert re.search(r"wall time\n2 min 1[78] s", text)


def test_the_same_state_gives_the_same_page_and_the_clock_has_no_say(study: DrawnStudy, html: str) -> None:
    program = (
        "import sys, pathlib; from orchestrator.planning.config import parse_config;"
        "from orchestrator.core.layout import Layout;"
        "from orchestrator.record.ledger import read_events; from orchestrator.record.state import replay;"
        "from orchestrator.report.page import render_report; layout = Layout(pathlib.Path(sys.argv[1]));"
        "state = replay(read_events(layout.ledger));"
        "sys.stdout.buffer.write(render_report(state, layout, parse_config(state.config)).encode());"
        "assert not {'torch', 'ray', 'wandb'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", program, str(study.layout.root)]
    elsewhere = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    again = subprocess.run(command, capture_output=True, check=True, env=elsewhere, cwd=ROOT)
    assert again.stdout.decode() == html


def test_writing_replaces_the_page_whole(tiny: DrawnStudy) -> None:
    tiny.layout.report.write_text("an older page")
    path = write_report(tiny.state, tiny.layout, tiny.config)
    assert path == tiny.layout.report
    assert path.read_text(encoding="utf-8") == rendered(tiny)
    assert [p.name for p in path.parent.glob("report*")] == ["report.html"]


def test_an_unfinished_study_gets_a_page_that_says_so(tmp_path: Path) -> None:
    study = draw_study(tmp_path, epochs=12, seeds=4, confirm=4, stop_after=7)
    html = rendered(study)
    text = read(html).text
    assert "No epoch is adopted yet." in text
    assert "This study is not finished: 7 epochs saved of 12 asked for, 28 pictures drawn." in text
    assert "2 of 28 pictures have not been judged." in text
    assert whole_sheet(html).count('data-outcome="none"') == 2
    assert "Use the adapter" not in text
    assert "adopted" not in html.split('class="sheet"')[1].split("</table>")[0]


def test_cells_not_drawn_yet_are_shown_as_gaps(small: DrawnStudy) -> None:
    gone = next(c.key for c in small.state.cells.values() if (c.epoch, c.seed, c.purpose) == (3, 2, "select"))
    state = altered(small, lambda s: s.samples.pop(gone))
    assert rendered(small).count("not drawn") == 0
    assert rendered(small, state).count(">not drawn<") == 1


def test_a_study_that_has_only_begun_gets_a_page(small: DrawnStudy) -> None:
    state = StudyState()
    state.apply(Event("study_opened", 1.0, {"study": "drawn", "config": to_data(small.config)}))
    text = read(rendered(small, state)).text
    assert "No picture has been judged so far." in text
    assert "0 epochs saved of 6 asked for, 0 pictures drawn" in text


def test_a_failed_trial_is_told_at_the_top(small: DrawnStudy) -> None:
    def fail(state: StudyState) -> None:
        state.trials[small.trial] = replace(state.trials[small.trial], error="the loss is not a number")

    assert f"Training of {small.trial} failed: the loss is not a number" in rendered(small, altered(small, fail))


def test_text_of_people_cannot_become_markup(small: DrawnStudy) -> None:
    evil = '<script>alert("x")</script>&<img src=x onerror=y>\'">'
    data = to_data(small.config)
    data["grid"]["prompts"][0]["text"] += evil
    config = parse_config(data)
    prompt = config.grid.prompts[0].prompt()
    state = StudyState(study=evil, config=data)
    for key, cell in small.state.cells.items():
        renamed = replace(cell, prompt=prompt)
        state.cells[renamed.key] = renamed
        state.samples[renamed.key] = replace(small.state.samples[key], cell_key=renamed.key)
        verdict = next(v for v in small.state.verdicts.values() if v.cell_key == key)
        finding = Finding("drift", evil, "hair", "brown", evil)
        evil_verdict = replace(verdict, cell_key=renamed.key, outcome="fail", findings=(finding,), seen=(evil,))
        state.verdicts[renamed.key, verdict.judge, verdict.judge_version] = evil_verdict
    state.checkpoints, state.trials = small.state.checkpoints, small.state.trials
    state.base_sha256, state.dataset_sha256 = small.state.base_sha256, small.state.dataset_sha256
    assert small.state.choice is not None
    state.choice = replace(small.state.choice, reason=evil, adapter=evil)
    html = render_report(state, small.layout, config)
    page = read(html)
    assert len(page.all("script")) == 1
    assert "<img src=x" not in html
    assert not [a for _, a in page.elements if "onerror" in a]
    assert page.text.count(evil) > 10


def test_a_recorded_path_that_leaves_the_study_is_not_read(small: DrawnStudy) -> None:
    secret = small.layout.root.parent / "secret.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(secret)
    key = next(iter(small.state.samples))
    state = altered(small, lambda s: s.samples.update({key: Sample(key, "../secret.png", "0", 0.1)}))
    html = rendered(small, state)
    assert base64.b64encode(secret.read_bytes()).decode() not in html
    assert html.count("its recorded path leaves the study") == 1


@pytest.mark.parametrize("content", [None, b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_picture_that_cannot_be_read_leaves_a_note(tiny: DrawnStudy, content: bytes | None) -> None:
    sample = next(iter(tiny.state.samples.values()))
    path = tiny.layout.resolve(sample.image)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert whole_sheet(rendered(tiny)).count("its file cannot be read") == 1


def test_a_cut_off_picture_leaves_a_note(tmp_path: Path) -> None:
    study = draw_study(tmp_path, epochs=1, seeds=2, confirm=1, scale=6)
    path = study.layout.resolve(next(iter(study.state.samples.values())).image)
    path.write_bytes(path.read_bytes()[:-2000])
    assert whole_sheet(rendered(study)).count("its file cannot be read") == 1


def test_unscored_pictures_are_neither_pass_nor_fail(small: DrawnStudy) -> None:
    def blind(state: StudyState) -> None:
        for key, verdict in state.verdicts.items():
            if state.cells[verdict.cell_key].epoch == 1:
                state.verdicts[key] = replace(verdict, outcome="unscored", findings=(), reason="nobody to be seen")

    html = rendered(small, altered(small, blind))
    assert whole_sheet(html).count('data-outcome="unscored"') == 4
    assert "nobody to be seen" in html
    row = html.split('class="sheet"')[1].split("<tbody>")[1].split("</tr>")[0]
    assert '<span class="count">–</span>' in row


def test_pictures_of_an_adapter_that_is_gone_do_not_count(small: DrawnStudy) -> None:
    def retrain(state: StudyState) -> None:
        state.checkpoints[small.trial, 2] = replace(state.checkpoints[small.trial, 2], sha256="another")

    states = small.state, altered(small, retrain)
    before, after = (gather(s, small.config, small.target) for s in states)
    assert {s.cell.epoch for s in before.shots} - {s.cell.epoch for s in after.shots} == {2}
    assert 2 not in [r.epoch for r in after.series[0].rates]


def test_only_verdicts_of_the_studys_own_judge_count(small: DrawnStudy) -> None:
    def judge_again(state: StudyState) -> None:
        for (key, judge, version), verdict in list(state.verdicts.items()):
            state.verdicts[key, judge, version + 1] = replace(verdict, outcome="unscored", judge_version=version + 1)

    evidence = gather(altered(small, judge_again), small.config, small.target)
    assert {s.outcome for s in evidence.shots} <= {"pass", "fail"}


def test_a_choice_of_another_training_is_not_shown_as_adopted(small: DrawnStudy) -> None:
    data = to_data(small.config)
    data["trials"]["main"]["learning_rate"] = 0.5
    html = render_report(small.state, small.layout, parse_config(data))
    assert "No epoch is adopted yet." in html
    assert "0 epochs saved of 6 asked for, 0 pictures drawn" in html


def test_large_pictures_become_thumbnails_that_lead_to_the_file(tmp_path: Path) -> None:
    study = draw_study(tmp_path, epochs=2, seeds=2, confirm=2, scale=8)
    html = rendered(study)
    page = read(html)
    shots = page.all("button", class_="shot")
    assert {a["data-file"] for a in shots} == {s.image for s in study.state.samples.values()}
    for image in page.all("img", loading="lazy"):
        assert (image["width"], image["height"]) == ("768", "512")
        uri = image["src"] or ""
        assert uri.startswith("data:image/webp;base64,")
        small = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert max(small.size) in (192, 240, 480)
    on_disk = sum(study.layout.resolve(s.image).stat().st_size for s in study.state.samples.values())
    assert len(html) < on_disk


def test_several_weights_get_their_own_sheets_the_adopted_first(tmp_path: Path) -> None:
    study = draw_study(tmp_path, epochs=6, seeds=3, confirm=2, weights=(0.6, 1.0))
    choice = study.state.choice
    assert choice is not None
    html = rendered(study)
    titles = re.findall(r"<details(?: open)?><summary>main-\w+, (weight [^<]*)", html)
    other = 0.6 if choice.weight == 1.0 else 1
    assert titles == [f"weight {choice.weight:g}, prompt trio", f"weight {other:g}, prompt trio"]
    chart = rate_chart(gather(study.state, study.config, study.target), WIDE)
    assert f"weight {choice.weight:g}, with dots" in chart
    assert f">weight {other:g}<" in chart


def test_wall_time_is_summed_over_runs_without_the_pauses() -> None:
    kinds = ["study_opened", "sample_drawn", "run_interrupted", "study_opened", "study_finished"]
    events = [Event(kind, time, {}) for kind, time in zip(kinds, [0.0, 10.0, 30.0, 5000.0, 5012.5], strict=True)]  # type: ignore[arg-type]
    assert run_seconds(events) == [30.0, 12.5]


def test_markup_escapes_everything_that_is_not_markup() -> None:
    made = element("p", "<b>", Markup("<i>"), None, [1, " & "], title='"', hidden=True, lang=None, data_x=1.5)
    assert made == '<p title="&quot;" hidden data-x="1.5">&lt;b&gt;<i>1 &amp; </p>'
