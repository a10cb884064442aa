"""A study's figures by name, once as the page draws them: for PNG files beside the page, and for W&B.

`study_figures` gives the bytes; `write_figures` puts them into the study's `figures/`. The tracker logs the same bytes
under `figures/NAME` when an epoch is adopted (`orchestrator/tracking`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.report.breaks import groups, kind_chart, who_chart
from orchestrator.report.charts import loss_chart, nearness_chart, rate_chart
from orchestrator.report.evidence import Evidence, gather
from orchestrator.report.frame import WIDE
from orchestrator.report.heat import heat_chart, prompt_rows, weight_rows
from orchestrator.report.markup import Markup
from orchestrator.report.raster import png

if TYPE_CHECKING:
    from orchestrator.planning.config import StudyConfig
    from orchestrator.planning.wanted import Target
    from orchestrator.record.state import StudyState


def charts(evidence: Evidence) -> dict[str, Markup]:
    """Every chart there is something to draw for, by name."""
    lead = evidence.lead
    if lead is None:
        return {}
    found: dict[str, Markup | None] = {"rate": rate_chart(evidence, WIDE), "plateau": nearness_chart(evidence, WIDE)}
    if trained := [c for c in evidence.checkpoints if c.trial == lead.trial and isfinite(c.loss)]:
        found["loss"] = loss_chart(trained, evidence, WIDE)
    analysis = evidence.outlook.trials.get(lead.trial)
    adopted = evidence.choice.epoch if evidence.choice else None
    if analysis is not None and any(c.about == "character" for c in analysis.signs):
        epochs = [int(e) for e in analysis.table.epochs]
        found["who-breaks-first"] = who_chart(analysis.signs, epochs, adopted, WIDE)
    by_kind = groups(evidence.lead_shots)
    if any(group.kinds for group in by_kind):
        found["failures"] = kind_chart(by_kind, [by_kind[0].first, by_kind[-1].last], WIDE)
    if len(weights := weight_rows(evidence)) > 1:
        found["weights"] = heat_chart(weights, "Rate by weight and epoch", WIDE)
    if len(prompts := prompt_rows(evidence)) > 1:
        found["prompts"] = heat_chart(prompts, "Rate by prompt and epoch", WIDE)
    return {name: chart for name, chart in found.items() if chart is not None}


def study_figures(state: StudyState, config: StudyConfig, target: Target) -> Mapping[str, bytes]:
    """The study's charts as PNG bytes, by name."""
    return {name: png(chart) for name, chart in charts(gather(state, config, target)).items()}


def write_figures(evidence: Evidence, layout: Layout) -> list[Path]:
    """Write the charts as `figures/NAME.png`; returns the paths."""
    paths = []
    for name, chart in charts(evidence).items():
        paths.append(layout.figures / f"{name}.png")
        write_whole(paths[-1], png(chart))
    return paths
