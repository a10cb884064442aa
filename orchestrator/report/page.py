"""The page for people: one HTML file that shows which epoch was adopted, why, and every picture behind it.

It is written from the ledger's state and the files of the study alone, needs nothing but a browser, and comes out the
same for the same state. A study that is not finished gets a page too, and the page says so.
"""

from __future__ import annotations

import base64
import hashlib
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.core.layout import Layout
from orchestrator.core.study import FINDING_KINDS
from orchestrator.ledger import read_events
from orchestrator.report.charts import both_widths, failure_chart, loss_chart, patterns, rate_chart, swatch
from orchestrator.report.evidence import (
    Evidence,
    Shot,
    gather,
    kind_counts,
    recorded_target,
    run_seconds,
    seed_records,
    sentence_counts,
)
from orchestrator.report.markup import Markup, element
from orchestrator.report.sheet import contact_sheet, gallery, mark_legend, picture_filter, symbols
from orchestrator.report.style import STYLE, filter_rules
from orchestrator.report.tables import count_table, kind_table, seed_table, settings_table, who_table
from orchestrator.report.viewer import SCRIPT, viewer
from orchestrator.report.wording import KIND_WORDS, percent, times
from orchestrator.state import StudyState

if TYPE_CHECKING:
    from orchestrator.config import StudyConfig


def write_report(state: StudyState, layout: Layout, config: StudyConfig) -> Path:
    """Write the study's `report.html` and return its path."""
    page = render_report(state, layout, config)
    aside = layout.report.with_suffix(".html.partial")
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text(page, encoding="utf-8")
    return aside.replace(layout.report)


def render_report(state: StudyState, layout: Layout, config: StudyConfig) -> str:
    """The whole page as text."""
    events = list(read_events(layout.ledger))
    evidence = gather(state, config, recorded_target(events, config))
    runs = run_seconds(events)
    sections = [
        _headline(evidence),
        _progress(evidence),
        _adopted_pictures(evidence, layout),
        _rates(evidence),
        _reason(evidence),
        _sheets(evidence, layout),
        _failures(evidence),
        _hard_seeds(evidence),
        _usage(evidence),
        [element("h2", "Time and counts"), count_table(evidence, runs)],
        [element("h2", "Settings"), settings_table(state.config)],
    ]
    return _document(evidence.study, element("main", *sections))


def _document(title: str, main: Markup) -> str:
    """The page may load nothing but the study's own pictures, and run nothing but its own script."""
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data: 'self' file:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", f"{title}: report"),
        element("style", Markup(STYLE + filter_rules(FINDING_KINDS))),
    ]
    shapes = element("svg", *patterns(), *symbols(), class_="defs", aria_hidden="true")
    body = element("body", shapes, main, viewer(), element("script", Markup(SCRIPT)))
    return "<!doctype html>\n" + element("html", element("head", *head), body, lang="en") + "\n"


def _headline(evidence: Evidence) -> list[Markup]:
    name = element("p", f"Study {evidence.study}", class_="study")
    choice = evidence.choice
    if choice is None:
        return [name, element("h1", "No epoch is adopted yet."), element("p", _best_so_far(evidence), class_="lead")]
    epoch = f"Epoch {choice.epoch}"
    if len({s.trial for s in evidence.series}) > 1:
        epoch += f" of {choice.trial}"
    if choice.n:
        passed, (low, high) = round(choice.first_try_rate * choice.n), choice.interval
        sentence = f"{epoch} is adopted: it gets {passed} of {choice.n} pictures right at the first try."
        interval = f"a 95\u00a0% interval from {percent(low)} to {percent(high)}"
        seeds = f"on {choice.n} fresh seeds that took no part in choosing the epoch"
        source = f"That is {percent(choice.first_try_rate)}, with {interval}, at weight {choice.weight:g}, {seeds}."
    else:
        sentence = f"{epoch} is adopted."
        source = f"Its rate on fresh seeds has not been measured yet. Use it at weight {choice.weight:g}."
    seen = choice.selection
    note = (
        f"While choosing it passed {seen.passes} of {seen.scored} ({percent(seen.rate)}). Do not expect that figure: "
        "the best of several epochs is partly the luckiest, so the rate it was chosen by is optimistic."
    )
    return [name, element("h1", sentence), element("p", source, class_="lead"), element("p", note)]


def _best_so_far(evidence: Evidence) -> str:
    if not evidence.lead:
        return "No picture has been judged so far."
    best = max(evidence.lead.rates, key=lambda r: (r.rate, r.scored, r.epoch))
    return f"So far epoch {best.epoch} is ahead with {best.passes} of {best.scored} pictures passed. This may change."


def _progress(evidence: Evidence) -> Markup | None:
    """What is still missing; nothing for a study that is complete."""
    drawn = [*evidence.shots, *evidence.confirming]
    waiting = sum(s.verdict is None for s in drawn)
    lines = [f"Training of {name} failed: {error}" for name, error in evidence.failed_trials]
    if evidence.choice is None:
        epochs = f"{len(evidence.checkpoints)} epochs saved of {evidence.epochs_asked} asked for"
        lines.append(f"This study is not finished: {epochs}, {len(drawn)} pictures drawn.")
    if waiting:
        lines.append(f"{waiting} of {len(drawn)} pictures have not been judged.")
    return element("div", *(element("p", line) for line in lines), class_="notice") if lines else None


def _adopted_pictures(evidence: Evidence, layout: Layout) -> list[Markup]:
    choice = evidence.choice
    if choice is None:
        return []
    shots, about = evidence.confirming, "All pictures drawn on fresh seeds, none left out"
    if not shots:
        shots = tuple(s for s in _lead_shots(evidence) if s.cell.epoch == choice.epoch)
        about = "The pictures it was chosen by; fresh seeds are not drawn yet"
    return [
        element("h2", f"What epoch {choice.epoch} draws"),
        element("p", f"{about}. Choose a picture to enlarge it and read what was seen."),
        mark_legend(shots),
        gallery(shots, layout),
    ]


def _rates(evidence: Evidence) -> list[Markup]:
    lead = evidence.lead
    if lead is None:
        return []
    how = (
        "Each dot is the share of an epoch's pictures that passed, its bar the 95\u00a0% Wilson interval; the dashed "
        "line smooths over neighbouring epochs. The hatched band is the plateau."
    )
    if evidence.choice:
        how += " The diamond is the adopted epoch, the open square the same epoch on fresh seeds."
    parts = [element("h2", "How the rate changed with training"), element("p", how)]
    parts.append(both_widths(lambda width: rate_chart(evidence, width)))
    if trained := [c for c in evidence.checkpoints if c.trial == lead.trial and isfinite(c.loss)]:
        caution = "The loss says little about which epoch draws best; it is here to show that training ran."
        parts.append(both_widths(lambda width: loss_chart(trained, evidence, width)))
        parts.append(element("p", caution, class_="soft"))
    return parts


def _reason(evidence: Evidence) -> list[Markup]:
    choice = evidence.choice
    if choice is None:
        return []
    parts = [element("h2", "Why this epoch"), element("p", choice.reason)]
    if other := choice.runner_up:
        where = f"epoch {other.epoch}"
        where += f" at weight {other.weight:g}" if other.weight != choice.weight else ""
        where += f" of {other.trial}" if other.trial != choice.trial else ""
        rate = f"{percent(other.rate)}, interval {percent(other.low)} to {percent(other.high)}"
        said = f"Next best by the smoothed rate was {where} with {other.passes} of {other.scored} ({rate})."
        if other.high >= choice.selection.low and choice.selection.high >= other.low:
            said += " The intervals overlap: with this many pictures the two cannot be told apart for sure."
        parts.append(element("p", said))
    return parts


def _sheets(evidence: Evidence, layout: Layout) -> list[Markup]:
    if not evidence.shots:
        return []
    groups: dict[tuple[str, float, str], list[Shot]] = {}
    for shot in evidence.shots:
        groups.setdefault((shot.cell.trial, shot.cell.weight, shot.cell.prompt.name), []).append(shot)
    lead = (evidence.lead.trial, evidence.lead.weight) if evidence.lead else None
    tables = []
    for (trial, weight, prompt), shots in sorted(groups.items(), key=lambda item: (item[0][:2] != lead, item[0])):
        leads = (trial, weight) == lead
        sheet = contact_sheet(shots, evidence.seeds, evidence.choice if leads else None, layout)
        asked = element("p", "Prompt: ", element("code", shots[0].cell.prompt.text), class_="soft")
        heading = element("summary", f"{trial}, weight {weight:g}, prompt {prompt}")
        tables.append([sheet, asked] if len(groups) == 1 else element("details", heading, sheet, asked, open=leads))
    intro = (
        "One row per saved epoch, one column per seed. Hover or choose a picture for the findings in words; in the "
        "enlarged view the arrow keys step to the next seed or epoch in place."
    )
    body = element("div", picture_filter(evidence.shots), mark_legend(evidence.shots), *tables, class_="filtered")
    return [element("h2", "Every picture, epoch by epoch"), element("p", intro), body]


def _failures(evidence: Evidence) -> list[Markup]:
    shots = _lead_shots(evidence)
    if not shots:
        return []
    epochs = sorted({s.cell.epoch for s in shots})
    by_epoch = {e: kind_counts(s for s in shots if s.cell.epoch == e) for e in epochs}
    heading = element("h2", "What goes wrong")
    if not any(by_epoch.values()):
        return [heading, element("p", "No judged picture had a finding.")]
    legend = [element("li", swatch(k), " ", element("b", k), f": {KIND_WORDS[k]}") for k in FINDING_KINDS]
    frequent = [element("li", f"{said}: {times(n)}") for said, n in sentence_counts(shots)[:6]]
    return [
        heading,
        element("p", "Findings per epoch; one picture can have several."),
        element("ul", *legend, class_="legend"),
        both_widths(lambda width: failure_chart(by_epoch, [epochs[0], epochs[-1]], width)),
        kind_table(shots, by_epoch, evidence.choice.epoch if evidence.choice else None),
        element("h3", "Who fails"),
        who_table(shots),
        element("h3", "Most frequent findings"),
        element("ul", *frequent),
    ]


def _hard_seeds(evidence: Evidence) -> list[Markup]:
    shots, where = _lead_shots(evidence), "over all judged epochs"
    if not shots:
        return []
    if evidence.plateau and evidence.plateau[0] != evidence.plateau[1]:
        first, last = evidence.plateau
        where = f"inside the plateau, epochs {first} to {last}"
        shots = [s for s in shots if first <= s.cell.epoch <= last]
    heading = element("h2", "Hardest seeds")
    hard = [r for r in seed_records(shots) if r.passes < r.scored]
    if not hard:
        return [heading, element("p", f"None: every seed passed every time {where}.")]
    about = (
        f"How often each seed passed {where}. A defect on every seed is the epoch's fault, a rare one is the seed's."
    )
    return [heading, element("p", about), seed_table(hard[:8])]


def _usage(evidence: Evidence) -> list[Markup]:
    choice = evidence.choice
    if choice is None:
        return []
    name = f"{choice.trial}-epoch{choice.epoch}"
    load = f'pipe.load_lora_weights("{choice.adapter}", adapter_name="{name}")'
    weigh = f'pipe.set_adapters(["{name}"], [{choice.weight!r}])'
    node = "“Load LoRA (Model Only)”"
    comfy = f"ComfyUI: copy the file to models/loras and load it with {node} at strength {choice.weight:g}."
    return [
        element("h2", "Use the adapter"),
        element("p", "File, relative to this page: ", element("code", choice.adapter)),
        element("p", "SHA-256: ", element("code", choice.adapter_sha256)),
        element("p", f"Use it at weight {choice.weight:g}, on the base model it was trained on."),
        element("p", comfy),
        element("p", "diffusers:"),
        element("pre", element("code", f"{load}\n{weigh}")),
    ]


def _lead_shots(evidence: Evidence) -> list[Shot]:
    """Pictures of the adopted trial and weight, or of the best so far, that take part in choosing."""
    lead = evidence.lead
    return [s for s in evidence.shots if lead and (s.cell.trial, s.cell.weight) == (lead.trial, lead.weight)]
