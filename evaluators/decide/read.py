"""Rows from where people keep them: a CSV file, or the ledger of a study that ran.

A CSV needs the columns `epoch` and `pass`; `seed`, `weight`, `prompt`, `layout`, `trial` and `signs` are optional,
others are left alone. `pass` is pass or fail, yes or no, true or false, 1 or 0; empty, `unscored`, `?` and `nan` mean
that nobody could say. `signs` lists what was seen, like `drift:kanachan;count`. Lines that begin with # are remarks.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaluators.decide.table import Context, Row, Sign, row_of
from orchestrator.core.errors import MissingError, StudyError
from orchestrator.core.study import Cell, Outcome, Verdict

OUTCOMES: Mapping[str, Outcome] = {
    **dict.fromkeys(("pass", "passed", "yes", "y", "true", "t", "1", "1.0", "ok"), "pass"),
    **dict.fromkeys(("fail", "failed", "no", "n", "false", "f", "0", "0.0"), "fail"),
    **dict.fromkeys(("", "unscored", "?", "nan", "none", "null", "na", "-"), "unscored"),
}
SHOWN_ONLY = ("control", "probe")
"""Roles of pictures that count in no rate."""
ALSO_CALLED = {"passed": "pass", "outcome": "pass", "verdict": "pass", "result": "pass", "step": "epoch"}
LARGEST_FILE = 256 * 2**20
RUNS = Path("runs")
"""Where studies are looked for by name."""


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV file or of a study: its folder, its name under runs/, its YAML, or its ledger.

    A folder without ledger is one that `grid` drew: its table is read. Raises StudyError on bad input.
    """
    path = _table(path)
    if path.stat().st_size > LARGEST_FILE:
        raise StudyError(f"larger than {LARGEST_FILE >> 20} MiB", where=str(path), fix="keep one study in one table")
    try:
        return list(_ledger_rows(path) if path.suffix == ".jsonl" else _csv_rows(path))
    except UnicodeDecodeError as error:
        raise StudyError("not a text file in UTF-8", where=str(path)) from error


def _table(path: Path) -> Path:
    """The file that holds the rows of what a person named."""
    named = path
    if path.suffix in (".yaml", ".yml") and path.is_file():
        from evaluators.sweep.study import load_sweep

        path = load_sweep(path, []).layout().root
    elif not path.exists() and len(path.parts) == 1:
        path = RUNS / path
    if path.is_dir():
        tables = [path / name for name in ("ledger.jsonl", "grid/verdicts.csv")]
        path = next((table for table in tables if table.is_file()), tables[0])
    if not path.is_file():
        fix = "give a CSV file, or a study's folder, YAML or name under runs/"
        raise MissingError("there is no such table or study", where=str(named), fix=fix)
    return path


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        lines = [(number, line) for number, line in enumerate(stream, 1) if line.strip() and not line.startswith("#")]
    if not lines:
        return
    head = lines[0][1]
    reader = csv.reader((line for _, line in lines), delimiter=max(",;\t", key=head.count))
    try:
        names = [ALSO_CALLED.get(name.strip().lower(), name.strip().lower()) for name in next(reader)]
        for needed in ("epoch", "pass"):
            if needed not in names:
                raise StudyError(
                    f"there is no column {needed!r}", where=str(path), fix=f"columns found: {', '.join(names)}"
                )
        for (number, _), cells in zip(lines[1:], reader, strict=False):
            values = {name: cell.strip() for name, cell in zip(names, cells, strict=False)}
            if values.get("role", "").lower() not in SHOWN_ONLY:
                yield _row(values, f"{path}:{number}")
    except csv.Error as error:
        raise StudyError(f"not readable as CSV: {error}", where=str(path)) from error


def _row(values: Mapping[str, str], where: str) -> Row:
    said = values.get("pass", "").lower()
    if said not in OUTCOMES:
        raise StudyError(f"cannot read {said!r} as an outcome", where=where, fix="write pass, fail or unscored")
    epoch = _number(values.get("epoch", ""), "epoch", where)
    if epoch != int(epoch) or epoch < 0:
        raise StudyError(f"an epoch is a whole number, not {values['epoch']!r}", where=where)
    weight = _number(values.get("weight") or "1", "weight", where)
    return Row(
        epoch=int(epoch),
        outcome=OUTCOMES[said],
        seed=values.get("seed", ""),
        weight=weight,
        context=Context(values.get("prompt", ""), values.get("layout", "")),
        trial=values.get("trial", ""),
        signs=tuple(dict.fromkeys(_sign(text) for text in values.get("signs", "").split(";") if text.strip())),
    )


def _number(text: str, what: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or abs(number) > 1e9:
        raise StudyError(f"cannot read {text!r} as {what}", where=where)
    return number


def _sign(text: str) -> Sign:
    kind, _, character = text.strip().partition(":")
    return Sign(kind.strip(), character.strip())


def _ledger_rows(path: Path) -> Iterator[Row]:
    """Pictures that take part in choosing, with the latest verdict on each; files set apart are forgotten."""
    cells: dict[str, Cell] = {}
    verdicts: dict[str, Verdict] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            event = json.loads(line)
            _take_in(event, cells, verdicts)
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(f"damaged ledger line ({error})", where=f"{path}:{number}") from error
    for key, cell in cells.items():
        if cell.purpose == "select" and key in verdicts:
            yield row_of(cell, verdicts[key])


def _take_in(event: Mapping[str, Any], cells: dict[str, Cell], verdicts: dict[str, Verdict]) -> None:
    match event["kind"]:
        case "sample_drawn":
            cell = Cell.from_json(event["cell"])
            cells[cell.key] = cell
        case "verdict_given":
            verdict = Verdict.from_json(event["verdict"])
            verdicts[verdict.cell_key] = verdict
        case "file_quarantined" if "cell_key" in event:
            verdicts.pop(event["cell_key"], None)
