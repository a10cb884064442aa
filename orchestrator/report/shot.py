"""A picture as the page sees it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.study import Cell, FindingKind, Outcome, Sample, Verdict


@dataclass(frozen=True, slots=True)
class Shot:
    """A drawn picture and what was said of it; None while nobody has looked."""

    cell: Cell
    sample: Sample
    verdict: Verdict | None

    @property
    def outcome(self) -> Outcome | None:
        return self.verdict.outcome if self.verdict else None

    @property
    def kinds(self) -> tuple[FindingKind, ...]:
        """Kinds of its findings, each once, in the order they were found."""
        return tuple(dict.fromkeys(f.kind for f in self.verdict.findings)) if self.verdict else ()
