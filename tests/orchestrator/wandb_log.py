"""Reads W&B's `.wandb` files: the protobuf that each record holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from orchestrator.tracking.segments import records as segment_records


def records(path: Path) -> Iterator[Any]:
    """All whole records of the file; a torn tail is left out."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    for raw in segment_records(data):
        record = _new_record()
        record.ParseFromString(raw)
        yield record


def segments(folder: Path) -> list[Path]:
    """The `.wandb` files below a study's folder, oldest first."""
    return sorted((folder / "wandb").glob("*run-*/*.wandb"))


def history(path: Path) -> list[dict[str, Any]]:
    """Rows in the order they were logged."""
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            rows.append({_key(item): json.loads(item.value_json) for item in record.history.item})
    return rows


def summary(path: Path) -> dict[str, Any]:
    """The summary as its updates leave it."""
    values: dict[str, Any] = {}
    for record in records(path):
        if record.WhichOneof("record_type") == "summary":
            values |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
    return values


def run_record(path: Path) -> Any:
    """The record that opens the run."""
    return next(r.run for r in records(path) if r.WhichOneof("record_type") == "run")


def metrics(path: Path) -> dict[str, str]:
    """Metric name or pattern -> the metric it is plotted over."""
    found = [r.metric for r in records(path) if r.WhichOneof("record_type") == "metric"]
    return {m.name or m.glob_name: m.step_metric for m in found}


def table(path: Path, name: str) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """The latest version of a logged table: its rows by column name, and the files it shows by the rows' paths."""
    artifacts = [r.artifact for r in records(path) if r.WhichOneof("record_type") == "artifact"]
    artifact = [a for a in artifacts if a.name.endswith(f"-{name}")][-1]
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    data = json.loads(files[f"{name}.table.json"].read_text())
    return [dict(zip(data["columns"], values, strict=True)) for values in data["data"]], files


def _new_record() -> Any:
    """An empty record; the classes of generated modules are made at import time, unseen by type checkers."""
    return getattr(wandb_internal_pb2, "Record")()  # noqa: B009


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)
