"""Leaks by epoch: how often the cast's marks are on the strangers of a control that calls nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from orchestrator.report.markup import Markup, element
from orchestrator.report.shot import Shot
from orchestrator.report.tables import table
from orchestrator.report.wording import percent


def leak_table(shots: Sequence[Shot], alone: Sequence[Shot]) -> list[Markup]:
    """Of one control, one trial and one weight: the share of judged pictures with a leak, by epoch, and whose marks.

    `alone` are pictures of the same words by the base alone: what comes by chance. Nothing while none is judged.
    """
    rows = [row for row in [_row("base alone", alone), *_by_epoch(shots)] if row is not None]
    if not rows:
        return []
    return [table(["epoch", "with a leak", "judged", "share", "whose", "most often"], rows, left=(4, 5))]


def _by_epoch(shots: Sequence[Shot]) -> list[Markup | None]:
    return [_row(epoch, [s for s in shots if s.cell.epoch == epoch]) for epoch in sorted({s.cell.epoch for s in shots})]


def _row(label: str | int, shots: Sequence[Shot]) -> Markup | None:
    judged = [s for s in shots if s.outcome in ("pass", "fail")]
    if not judged:
        return None
    leaking = [s for s in judged if "leak" in s.kinds]
    owners = Counter(who for s in leaking if s.verdict for who in {f.character for f in s.verdict.findings})
    whose = ", ".join(f"{who} {count}" for who, count in sorted(owners.items(), key=lambda one: (-one[1], one[0])))
    marks = Counter(f.leaked() for s in leaking if s.verdict for f in s.verdict.findings).most_common(1)
    numbers = [
        element("td", len(leaking)),
        element("td", len(judged)),
        element("td", percent(len(leaking) / len(judged))),
    ]
    words = [element("td", whose or "–", class_="left"), element("td", marks[0][0] if marks else "–", class_="left")]
    return element("tr", element("td", label), *numbers, *words)
