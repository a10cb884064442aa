"""What a grid came to, on disk: verdicts as they are given, and one table of them for people and for `analyse`.

    grid/verdicts.jsonl    one verdict a line, appended; the latest on a cell and judge counts
    grid/verdicts.csv      one picture a row, in the order of the grid; written anew from all that is known

Without a judge the column `pass` is left to people: what is written there is kept when the table is written again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.errors import DamagedError
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Sample, Verdict

COLUMNS = (
    *("trial", "epoch", "weight", "prompt", "layout", "role", "seed", "pass", "signs"),
    *("seen", "reason", "judge", "judge_version", "image", "cell_key"),
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A drawn cell and what was said of it; None while nobody has looked."""

    cell: Cell
    sample: Sample
    verdict: Verdict | None = None


class VerdictTable:
    """The two files of one study's grid."""

    def __init__(self, layout: Layout) -> None:
        self.csv = layout.root / "grid" / "verdicts.csv"
        self._log = layout.root / "grid" / "verdicts.jsonl"

    def read(self, judge: tuple[str, int] | None) -> dict[str, Verdict]:
        """The latest verdict of this judge on each cell; a line cut short by a crash is left out."""
        if judge is None or not self._log.exists():
            return {}
        verdicts: dict[str, Verdict] = {}
        lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                break
            try:
                verdict = Verdict.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedError(
                    f"not a verdict ({error})", where=f"{self._log}:{number}", fix="delete it"
                ) from error
            if (verdict.judge, verdict.judge_version) == judge:
                verdicts[verdict.cell_key] = verdict
        return verdicts

    def add(self, verdicts: Iterable[Verdict]) -> None:
        """Append what a judge said."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._end_cut_line()
        with self._log.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(verdict.to_json(), ensure_ascii=False) + "\n" for verdict in verdicts)

    def write(self, drawn: Sequence[Drawn]) -> None:
        """Write the table of these pictures. What people wrote into `pass` stays."""
        by_hand = self._by_hand()
        stream = io.StringIO()
        rows = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        rows.writeheader()
        rows.writerows(_row(one, by_hand) for one in drawn)
        write_whole(self.csv, stream.getvalue())

    def _by_hand(self) -> Mapping[str, str]:
        if not self.csv.exists():
            return {}
        with self.csv.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            return {
                r["cell_key"]: r["pass"] for r in rows if r.get("cell_key") and r.get("pass") and not r.get("judge")
            }

    def _end_cut_line(self) -> None:
        """A line that a crash cut short must not swallow the next one."""
        if self._log.exists() and (text := self._log.read_bytes()) and not text.endswith(b"\n"):
            write_whole(self._log, text[: text.rfind(b"\n") + 1])


def _row(one: Drawn, by_hand: Mapping[str, str]) -> dict[str, object]:
    cell, verdict = one.cell, one.verdict
    said = {"pass": by_hand.get(cell.key, ""), "judge": "", "judge_version": ""} if verdict is None else {}
    if verdict is not None:
        signs = dict.fromkeys(f"{f.kind}:{f.character}" if f.character else f.kind for f in verdict.findings)
        said = {
            "pass": verdict.outcome,
            "signs": "; ".join(signs),
            "seen": " | ".join(verdict.seen),
            "reason": verdict.reason,
            "judge": verdict.judge,
            "judge_version": str(verdict.judge_version),
        }
    return {
        "trial": cell.trial,
        "epoch": cell.epoch,
        "weight": f"{cell.weight:g}",
        "prompt": cell.prompt.name,
        "layout": f"{cell.drawing.width}x{cell.drawing.height}",
        "role": cell.prompt.role,
        "seed": cell.seed,
        "image": one.sample.image,
        "cell_key": cell.key,
        **said,
    }


def relative_to_table(image: str) -> str:
    """A picture's recorded path as seen from the folder of the table."""
    return Path(image).relative_to("grid").as_posix()
