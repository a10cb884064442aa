"""The page for people: one HTML file that shows which epoch was adopted, why, and every picture behind it.

It is written from the ledger's state and the files of the study alone, needs nothing but a browser, and comes out the
same for the same state. A study that is not finished gets a page too, and the page says so.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.core.layout import Layout
from orchestrator.core.study import FINDING_KINDS
from orchestrator.ledger import read_events
from orchestrator.report import sections, summary
from orchestrator.report.evidence import gather, recorded_target, run_seconds
from orchestrator.report.frame import patterns
from orchestrator.report.markup import Markup, element
from orchestrator.report.sheet import symbols
from orchestrator.report.style import STYLE, filter_rules
from orchestrator.report.tables import count_table, settings_table
from orchestrator.report.viewer import SCRIPT, viewer
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
    runs = run_seconds(events)
    evidence = gather(state, config, recorded_target(events, config), runs)
    parts = [
        summary.headline(evidence),
        summary.progress(evidence),
        sections.adopted_pictures(evidence, layout),
        sections.rates(evidence),
        summary.why(evidence),
        sections.failures(evidence),
        sections.maps(evidence),
        sections.seeds(evidence, layout),
        sections.extremes(evidence, layout),
        sections.sheets(evidence, layout),
        sections.usage(evidence),
        [element("h2", "Time, counts and cost"), count_table(evidence, runs)],
        [element("h2", "Settings"), settings_table(state.config)],
    ]
    return _document(evidence.study, element("main", *parts))


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
