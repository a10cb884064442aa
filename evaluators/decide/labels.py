"""How well a judge reads, from pictures a person has judged as well: the labels are a table like any other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import isclose
from pathlib import Path

from evaluators.decide.intervals import Calibration
from evaluators.decide.table import Row
from orchestrator.core.errors import StudyError


def calibration_of(rows: Iterable[Row], labels: Iterable[Row], where: Path | str) -> Calibration:
    """What the judge (`rows`) said of the pictures a person passed or failed (`labels`).

    A label belongs to the picture of its epoch, weight and seed; trial, prompt and layout are compared where the label
    names them. Raises StudyError when a label names no seed or fits several pictures, when none is of a judged picture,
    and when the person passed all of them or none: half a calibration corrects nothing.
    """
    judged: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in {(r.trial, r.epoch, r.weight, r.context, r.seed): r for r in rows}.values():
        judged[row.epoch, row.seed].append(row)
    said = {"pass": {"pass": 0, "fail": 0}, "fail": {"pass": 0, "fail": 0}}
    for label in labels:
        if not label.seed:
            raise StudyError(f"a label of epoch {label.epoch} names no seed", where=str(where))
        fitting = [row for row in judged[label.epoch, label.seed] if _fits(label, row)]
        if len(fitting) > 1:
            raise StudyError(
                f"the label of epoch {label.epoch}, seed {label.seed} fits {len(fitting)} pictures",
                where=str(where),
                fix="add the columns trial, prompt or layout",
            )
        if fitting and label.outcome != "unscored" and fitting[0].outcome != "unscored":
            said[label.outcome][fitting[0].outcome] += 1
    good, bad = (sum(said[outcome].values()) for outcome in ("pass", "fail"))
    if not good or not bad:
        raise StudyError(
            f"{good} labelled pictures are good and {bad} are bad, of those the judge scored",
            where=str(where),
            fix="label some of both kinds, of pictures in the table",
        )
    return Calibration(good, said["pass"]["pass"], bad, said["fail"]["fail"])


def _fits(label: Row, row: Row) -> bool:
    named = ((label.trial, row.trial), *zip(label.context, row.context, strict=True))
    return isclose(label.weight, row.weight) and all(not asked or asked == there for asked, there in named)
