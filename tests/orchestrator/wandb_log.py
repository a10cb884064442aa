"""Reads W&B's `.wandb` files: a 7-byte header, then records of protobuf in LevelDB's log format.

The log is cut into blocks of 32 KiB. A record is one or more fragments, each with a checksum (4 bytes), a length (2)
and a type (1: whole, 2: first, 3: middle, 4: last), little-endian; fewer than 7 bytes at a block's end are padding.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER, FRAGMENT = 32768, 7, 7


def records(path: Path) -> Iterator[Any]:
    """All whole records of the file; a torn tail is left out."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = HEADER, b""
    while at + FRAGMENT <= len(data):
        left = BLOCK - at % BLOCK
        if left < FRAGMENT:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0 or at + FRAGMENT + length > len(data):
            return
        parts = (b"" if kind in (1, 2) else parts) + data[at + FRAGMENT : at + FRAGMENT + length]
        at += FRAGMENT + length
        if kind in (1, 4):
            record = _new_record()
            record.ParseFromString(parts)
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
