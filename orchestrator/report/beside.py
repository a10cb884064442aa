"""Controls and probes on the page: pictures that are drawn beside the grid, and that no rate counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Role
from orchestrator.report.evidence import Evidence
from orchestrator.report.leaks import leak_table
from orchestrator.report.markup import Markup, element
from orchestrator.report.sheet import contact_sheet, gallery
from orchestrator.report.shot import Shot

QUESTIONS: dict[tuple[Role, bool], str] = {
    ("control", True): "Control: the adapter is loaded and nobody it knows is called. Its marks should not show here.",
    ("control", False): "Control: the base alone, without the adapter. What is right here is not the adapter's doing.",
    ("probe", True): "Probe: something unusual is asked for. A late epoch that has learned too much stops following.",
}
MOST_ROWS = 12
"""Epochs shown of one prompt; of more, the first, the last and some between."""


def beside(evidence: Evidence, layout: Layout) -> list[Markup]:
    """A part for each control and probe: the question it asks, and its pictures epoch by epoch."""
    if not evidence.beside:
        return []
    count = len(evidence.beside)
    intro = f"{count} {'picture' if count == 1 else 'pictures'} for people to look at; no rate counts them."
    if any(s.cell.prompt.calls_nobody and s.outcome in ("pass", "fail") for s in evidence.beside):
        intro += (
            " Where a control calls nobody, the judge looks for the cast's marks on strangers. Some come by chance:"
            " what counts is how much oftener than in the same words by the base alone, and from which epoch on."
        )
    parts = []
    for _, group in groupby(evidence.beside, key=lambda s: s.cell.prompt.name):
        shots = list(group)
        summary = element("summary", f"{shots[0].cell.prompt.role} {shots[0].cell.prompt.name}")
        parts.append(element("details", summary, *_prompt(shots, evidence, layout)))
    return [element("h2", "Controls and probes"), element("p", intro), *parts]


def _prompt(shots: Sequence[Shot], evidence: Evidence, layout: Layout) -> list[Markup]:
    cell = shots[0].cell
    question = QUESTIONS[cell.prompt.role, bool(cell.adapter)]
    parts = [element("p", question), element("p", "Prompt: ", element("code", cell.prompt.text), class_="soft")]
    if not cell.adapter:
        return [*parts, gallery(shots, layout)]
    series = {(s.cell.trial, s.cell.weight) for s in shots}
    for trial, weight in sorted(series):
        own = [s for s in shots if (s.cell.trial, s.cell.weight) == (trial, weight)]
        kept = _rows(own)
        if len(series) > 1:
            parts.append(element("p", f"{trial}, weight {weight:g}", class_="soft"))
        if len(kept) < len(own):
            parts.append(element("p", f"{len(kept)} of {len(own)} pictures; the others are in `grid/`.", class_="soft"))
        if cell.prompt.calls_nobody:
            parts += leak_table(own, _alone(cell, evidence))
        adopted = evidence.choice if evidence.choice and evidence.choice.trial == trial else None
        parts.append(contact_sheet(kept, sorted({s.cell.seed for s in kept}), adopted, layout))
    return parts


def _alone(cell: Cell, evidence: Evidence) -> list[Shot]:
    """The same words as the base draws them by itself."""
    same = (cell.prompt.text, cell.prompt.negative, cell.drawing)
    found = [s for s in evidence.beside if not s.cell.adapter]
    return [s for s in found if (s.cell.prompt.text, s.cell.prompt.negative, s.cell.drawing) == same]


def _rows(shots: Sequence[Shot]) -> list[Shot]:
    """Those of at most MOST_ROWS epochs, spread evenly from the first to the last."""
    epochs = sorted({s.cell.epoch for s in shots})
    if len(epochs) > MOST_ROWS:
        step = (len(epochs) - 1) / (MOST_ROWS - 1)
        epochs = [epochs[round(step * row)] for row in range(MOST_ROWS)]
    return [s for s in shots if s.cell.epoch in epochs]
