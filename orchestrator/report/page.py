"""The page for people: one HTML file that shows which epoch was adopted, why, and every picture behind it.

It is written from the ledger's state and the files of the study alone, needs nothing but a browser, and comes out the
same for the same state. A study that is not finished gets a page too, and the page says so.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.core.study import FINDING_KINDS
from orchestrator.planning.target import recorded_target
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import read_events
from orchestrator.record.state import StudyState
from orchestrator.report import sections, summary
from orchestrator.report.beside import beside
from orchestrator.report.evidence import Evidence, gather, run_seconds
from orchestrator.report.figures import write_figures
from orchestrator.report.frame import patterns
from orchestrator.report.markup import Markup, element
from orchestrator.report.meanwhile import meanwhile
from orchestrator.report.sheet import symbols
from orchestrator.report.style import STYLE, filter_rules
from orchestrator.report.tables import count_table, settings_table
from orchestrator.report.viewer import SCRIPT, viewer

if TYPE_CHECKING:
    from orchestrator.planning.config import StudyConfig


def write_report(state: StudyState, layout: Layout, config: StudyConfig) -> Path:
    """Write the study's `report.html`, and its charts beside it; returns the path of the page."""
    events = list(read_events(layout.ledger))
    runs = run_seconds(events)
    target = recorded_target(state, config)
    evidence = gather(state, config, target, runs)
    write_figures(evidence, layout)
    write_whole(layout.report, _page(evidence, target, state, layout, runs))
    return layout.report


def render_report(state: StudyState, layout: Layout, config: StudyConfig) -> str:
    """The whole page as text."""
    events = list(read_events(layout.ledger))
    runs = run_seconds(events)
    target = recorded_target(state, config)
    return _page(gather(state, config, target, runs), target, state, layout, runs)


def _page(evidence: Evidence, target: Target, state: StudyState, layout: Layout, runs: Sequence[float]) -> str:
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
        beside(evidence, layout),
        meanwhile([trial.trial for trial in target.trials], layout),
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
