"""The dashboard of a study, so that it is laid out on first sight: a saved view of the W&B project.

The definition is the JSON of W&B's workspaces (specification version 5, as their client library writes it). A view
that is there already is left as people arranged it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.core.identity import digest
from orchestrator.core.study import COUNTED_KINDS
from orchestrator.planning.config import StudyConfig
from orchestrator.tracking import service
from orchestrator.tracking.pictures import TABLE

COLUMNS = 3


def save_workspace(config: StudyConfig, owner: str) -> str:
    """Save the study's view with the service unless it has one; its address. Raises Unreachable."""
    return service.save_view(
        view_name(config), f"epochsweep: {config.study}", workspace(config), project=config.wandb.project, owner=owner
    )


def view_name(config: StudyConfig) -> str:
    """The same for every run of a study of this name."""
    return digest({"view of": config.study}, length=11)


def workspace(config: StudyConfig) -> dict[str, Any]:
    """The view: the rate first, then who breaks, how, in pictures, at what cost, and the training below."""
    weights = [""] if len(config.grid.weights) == 1 else [f"/weight {weight:g}" for weight in config.grid.weights]
    rates = [
        _lines(
            f"First-try rate by epoch{weight.replace('/', ', ')}",
            [f"eval/{name}{weight}" for name in ("rate", "low", "high")],
            share=True,
        )
        for weight in weights
    ]
    characters = [
        _lines(
            f"{name} is right",
            [f"characters/{name}/{what}{w}" for w in weights for what in ("rate", "low", "high")],
            share=True,
        )
        for name in config.cast
    ]
    kinds = [_lines(f"Findings: {kind}", [f"findings/{kind}{w}" for w in weights]) for kind in COUNTED_KINDS]
    training = [
        _lines("Loss", ["train/loss"], axis="train/step", smooth=True),
        _lines("Loss of saved epochs", ["epochs/loss"]),
        _lines("Learning rate", ["train/learning_rate"], axis="train/step"),
    ]
    cost = [_lines("Hours", [f"cost/{name}_hours" for name in ("wall", "training", "drawing")], axis="_step")]
    if config.cluster.dollars_per_hour is not None:
        cost.append(_lines("Dollars", ["cost/dollars"], axis="_step"))
    sections = [
        _section("First-try rate", rates, open_=True),
        _section("Who breaks", characters, open_=True),
        _section("How it breaks", kinds),
        _section("Pictures", [_panel("Media Browser", {"mediaKeys": [TABLE, "best_and_worst_cells"]})], open_=True),
        _section(
            "Figures of the report", [_panel("Media Browser", {"mediaKeys": ["figures/rate", "figures/plateau"]})]
        ),
        _section("Training", training),
        _section("Cost", cost),
    ]
    group = {"key": {"section": "run", "name": "group"}, "op": "=", "value": config.study, "disabled": False}
    return {
        "section": {
            "panelBankConfig": {
                "state": 1,
                "settings": {"autoOrganizePrefix": 2, "showEmptySections": False, "sortAlphabetically": False},
                "sections": sections,
            },
            "panelBankSectionConfig": {**_section("Report Panels", []), "type": "grid"},
            "customRunColors": {},
            "name": "",
            "runSets": [
                {
                    "id": "",
                    "runFeed": {
                        "version": 2,
                        "columnVisible": {},
                        "columnPinned": {},
                        "columnWidths": {},
                        "columnOrder": [],
                        "pageSize": 10,
                        "onlyShowSelected": False,
                    },
                    "enabled": True,
                    "name": "Run set",
                    "search": {"query": ""},
                    "filters": {"filterFormat": "filterV2", "filters": [group]},
                    "grouping": [],
                    "sort": {"keys": [{"key": {"section": "run", "name": "createdAt"}, "ascending": False}]},
                    "selections": {"root": 1, "bounds": [], "tree": []},
                    "expandedRowAddresses": [],
                }
            ],
            # Tables have no panel of their own in a definition: the workspace adds them by itself.
            "settings": {**_LOOKS, "maxRuns": 10, "shouldAutoGeneratePanels": True},
            "openRunSet": 0,
            "openViz": True,
        },
        "vizExpanded": False,
        "libraryExpanded": True,
    }


_LOOKS = {
    "smoothingWeight": 0,
    "smoothingType": "none",
    "xAxis": "_step",
    "ignoreOutliers": False,
    "useRunsTableGroupingInPanels": True,
    "smoothingActive": False,
    "xAxisActive": False,
}


def _section(name: str, panels: Iterable[dict[str, Any]], *, open_: bool = False) -> dict[str, Any]:
    placed = [{**panel, "__id__": digest({"section": name, "panel": at}, length=11)} for at, panel in enumerate(panels)]
    flow = {
        "snapToColumns": True,
        "columnsPerPage": COLUMNS,
        "rowsPerPage": 2,
        "gutterWidth": 16,
        "boxWidth": 460,
        "boxHeight": 300,
    }
    shown = {"name": name, "isOpen": open_, "type": "flow", "flowConfig": flow, "sorted": 0}
    return {**shown, "localPanelSettings": _LOOKS, "panels": placed, "pinned": False}


def _lines(
    title: str, metrics: list[str], *, axis: str = "epoch", share: bool = False, smooth: bool = False
) -> dict[str, Any]:
    config: dict[str, Any] = {"chartTitle": title, "xAxis": axis, "metrics": metrics}
    config |= {"yAxisMin": 0.0, "yAxisMax": 1.0} if share else {}
    config |= {"smoothingWeight": 0.9, "smoothingType": "exponentialTimeWeighted"} if smooth else {}
    return _panel("Run History Line Plot", config)


def _panel(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"layout": {"x": 0, "y": 0, "w": 8, "h": 6}, "viewType": kind, "config": config}
