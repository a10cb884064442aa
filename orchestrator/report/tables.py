"""The page's tables: failures by epoch and by character, hard seeds, counts, and the study's settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from orchestrator.core.study import COUNTED_KINDS, FindingKind
from orchestrator.report.evidence import Evidence, SeedRecord, character_counts
from orchestrator.report.markup import Markup, element
from orchestrator.report.shot import Shot
from orchestrator.report.summary import cost_words
from orchestrator.report.wording import duration, percent, points

MANY_EPOCHS, LONG_TABLE = 14, 24
"""Tables with more rows than this start folded."""


def table(head: Sequence[str], rows: Sequence[Markup], *, left: Sequence[int] = ()) -> Markup:
    """Numbers under their titles; columns in `left` hold words."""
    titles = [element("th", title, scope="col", class_="left" if i in left else None) for i, title in enumerate(head)]
    top = [element("thead", element("tr", *titles))] if titles else []
    numbers = element("table", *top, element("tbody", *rows), class_="numbers")
    return element("div", numbers, class_="scroll", tabindex=0)


def kind_table(shots: Sequence[Shot], by_epoch: Mapping[int, Counter[FindingKind]], adopted: int | None) -> Markup:
    """Outcomes and findings per epoch."""
    rows = []
    for epoch, kinds in by_epoch.items():
        outcomes = Counter(s.outcome for s in shots if s.cell.epoch == epoch)
        flag = element("span", "adopted", class_="flag") if epoch == adopted else None
        numbers = [outcomes["pass"], outcomes["fail"], *(kinds[k] for k in COUNTED_KINDS), outcomes["unscored"]]
        label = element("td", epoch, flag)
        rows.append(element("tr", label, *map(_number, numbers), class_="adopted" if epoch == adopted else None))
    made = table(["epoch", "passed", "failed", *COUNTED_KINDS, "unscored"], rows)
    return element("details", element("summary", "Counts per epoch"), made) if len(rows) > MANY_EPOCHS else made


def who_table(shots: Sequence[Shot]) -> Markup:
    """Findings per character."""
    rows = []
    for who, kinds in character_counts(shots).items():
        numbers = [*(kinds[k] for k in COUNTED_KINDS), kinds.total()]
        rows.append(element("tr", element("td", who or "the whole picture"), *map(_number, numbers)))
    return table(["who", *COUNTED_KINDS, "all"], rows)


def trial_table(evidence: Evidence) -> Markup:
    """Each trial's own best by expected loss, with what it gives away against the best of all."""
    rows = []
    for name, found in evidence.outlook.trials.items():
        if found.decision is None:
            continue
        chosen = found.decision.chosen
        sure = evidence.outlook.sureness(name, chosen.epoch, chosen.weight)
        cells = [element("td", name), _number(chosen.epoch), element("td", f"{chosen.weight:g}")]
        cells.append(element("td", f"{percent(chosen.rate)} ({percent(chosen.low)} to {percent(chosen.high)})"))
        cells.append(element("td", points(sure.regret) if sure else "–"))
        rows.append(element("tr", *cells))
    return table(["trial", "epoch", "weight", "smoothed rate", "expected below the best"], rows)


def seed_table(records: Sequence[SeedRecord]) -> Markup:
    """Seeds with how often they passed and what was found most."""
    rows = []
    for record in records:
        cells = [element("td", record.seed), element("td", f"{record.passes} of {record.scored}")]
        rows.append(element("tr", *cells, element("td", record.commonest, class_="left")))
    return table(["seed", "passed", "commonest finding"], rows, left=(2,))


def count_table(evidence: Evidence, runs: Sequence[float]) -> Markup:
    """How long it took and how much there is; `runs` are the wall seconds of each run."""
    drawn = [*evidence.shots, *evidence.confirming]
    judged = [s for s in drawn if s.verdict]
    rows = []
    if runs:
        rows.append(("wall time", duration(sum(runs)) + (f" in {len(runs)} runs" if len(runs) > 1 else "")))
    if seconds := [c.seconds for c in evidence.checkpoints]:
        span = f"{duration(mean(seconds))} (from {duration(min(seconds))} to {duration(max(seconds))})"
        exposures = max(c.exposures_per_image for c in evidence.checkpoints)
        rows += [("epochs trained", str(len(seconds))), ("training time in all", duration(sum(seconds)))]
        rows += [("training time per epoch", span), ("exposures per image so far", f"{exposures:g}")]
    parts = f"{len(evidence.shots)} to choose by, {len(evidence.confirming)} to confirm"
    parts += f"; {len(evidence.beside)} controls and probes beside them" if evidence.beside else ""
    rows.append(("pictures drawn", f"{len(drawn)} ({parts})"))
    if drawn:
        rows.append(("drawing time per picture", duration(mean(s.sample.seconds for s in drawn))))
    rows.append(("pictures judged", str(len(judged))))
    rows.append(("of these could not be scored", str(sum(s.outcome == "unscored" for s in judged))))
    rows.append(("files quarantined", str(evidence.quarantined)))
    rows += cost_words(evidence)
    return table((), [element("tr", element("td", name), element("td", said, class_="left")) for name, said in rows])


def settings_table(config: Mapping[str, Any]) -> Markup:
    """Every setting by its dotted key."""
    settings = _flat(config)
    rows = [element("tr", element("td", element("code", key)), element("td", value)) for key, value in settings]
    made = element("table", element("tbody", *rows), class_="numbers settings")
    heading = element("summary", f"All {len(rows)} settings of this study")
    return element("details", heading, made, open=len(rows) <= LONG_TABLE)


def _number(value: int) -> Markup:
    return element("td", value, class_=None if value else "zero")


def _flat(config: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted keys, lists of plain values on one line."""
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        dotted = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            rows += _flat(value, dotted)
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            rows += _flat({str(i): v for i, v in enumerate(value)}, dotted)
        elif isinstance(value, list | tuple):
            rows.append((dotted, ", ".join(map(str, value))))
        else:
            rows.append((dotted, "–" if value is None or value == "" else str(value)))
    return rows
