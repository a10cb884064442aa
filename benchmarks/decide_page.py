"""The page of `python -m benchmarks.decide`: tables, and what was promised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.worlds import EPOCHS, SETTINGS

STRIDES = {102: 12, 144: 8, 252: 4}
"""Pictures of a coarse-to-fine protocol -> every how many epochs it draws first."""


@dataclass(frozen=True, slots=True)
class Line:
    """What the studies of one setting came to for one policy at one number of pictures."""

    setting: str
    policy: str
    pictures: int
    regrets: tuple[float, ...]
    expected: float
    covered: float
    covered_chosen: float

    @property
    def regret(self) -> float:
        return float(np.mean(self.regrets))

    @property
    def error(self) -> float:
        return float(np.std(self.regrets) / np.sqrt(len(self.regrets)))

    def ahead_of(self, other: Line) -> tuple[float, float]:
        """How much less regret than the other on the same studies, on average, and the standard error of that."""
        lead = np.subtract(other.regrets, self.regrets)
        return float(lead.mean()), float(lead.std() / np.sqrt(lead.size))


@dataclass(frozen=True, slots=True)
class Promise:
    """Something the statistics have to reach in the settings named in `SETTINGS`."""

    what: str
    found: str
    kept: bool


def promises(lines: Iterable[Line]) -> list[Promise]:
    """What is promised, and whether it was kept."""
    by = {(line.setting, line.policy, line.pictures): line for line in lines}
    found = [
        _regret(by[SETTINGS[at].name, "adaptive", pictures], bound)
        for at, pictures, bound in ((0, 102, 0.045), (0, 230, 0.030), (1, 230, 0.040))
    ]
    for setting in SETTINGS:
        for pictures in STRIDES:
            lead, error = by[setting.name, "adaptive", pictures].ahead_of(by[setting.name, "coarse to fine", pictures])
            what = f"{setting.name}, {pictures} pictures: adaptive is not worse than coarse to fine"
            found.append(Promise(what, f"ahead by {lead:.4f} ± {error:.4f}", lead >= 0))
    names = {setting.name for setting in SETTINGS}
    covered = [line for line in by.values() if line.setting in names and not np.isnan(line.covered)]
    least = min(covered, key=lambda line: line.covered)
    where = f"least: {least.covered:.3f} ({least.setting}, {least.policy}, {least.pictures} pictures)"
    what = "95 % intervals hold the true rates of at least 93 % of the epochs, whatever the policy"
    return [*found, Promise(what, where, least.covered >= 0.93)]


def _regret(line: Line, bound: float) -> Promise:
    what = f"{line.setting}, {line.policy}, {line.pictures} pictures: mean regret at most {bound:.3f}"
    return Promise(what, f"{line.regret:.4f} ± {line.error:.4f}", line.regret <= bound)


def report(
    about: str,
    lines: list[Line],
    stops: Mapping[str, list[tuple[int, float]]],
    large: Mapping[int, float],
    command: str,
    seconds: float,
) -> str:
    """The page in Markdown; `about` says what was done."""
    parts = [
        "# Choosing an epoch: regret, pictures, coverage",
        "",
        f"    {command}",
        "",
        f"{seconds / 60:.0f} minutes of CPU time in all. {about}",
        "",
        "Expected regret is what the posterior says of itself. Coverage is of 95 % intervals: of all 150 epochs, and",
        "of the chosen one. A judge that errs passes 95 % of good and fails 85 % of bad pictures; rates are corrected",
        "by 50 + 50 labels. In the stream epochs appear while training, verdicts are late and out of order, and one in",
        "25 never comes. ± is a standard error.",
        "",
        "## Promises",
        "",
        "| | found | |",
        "|---|---|---|",
        *(f"| {p.what} | {p.found} | {'kept' if p.kept else '**not kept**'} |" for p in promises(lines)),
        "",
    ]
    promised = {setting.name for setting in SETTINGS}
    for setting in dict.fromkeys(line.setting for line in lines):
        of_setting = [line for line in lines if line.setting == setting]
        studies = max(len(line.regrets) for line in of_setting)
        parts += [
            f"## {setting}",
            "",
            f"{studies} studies{'' if setting in promised else '; curves of another shape, nothing is promised'}",
            "",
            "| policy | pictures | mean regret | regret > 0.10 | expected regret | covered | chosen covered |",
            "|---|---|---|---|---|---|---|",
            *map(_table_line, of_setting),
            "",
        ]
    parts += ["## Stopping the training", ""]
    for name, found in stops.items():
        saved = [epochs for epochs, _ in found if epochs]
        lost = [points for _, points in found]
        parts.append(
            f"- {name}: {len(saved)} of {len(found)} trainings stopped, {np.mean(saved) if saved else 0:.0f} of"
            f" {EPOCHS} epochs saved in each; {100 * np.mean(lost):.2f} points of the best rate given up on average,"
            f" {100 * max(lost):.1f} at worst"
        )
    parts += ["", "## A large table", ""]
    parts += [f"- 1,000 epochs at 5 weights on {n} seeds: analysed in {s:.2f} s of CPU" for n, s in large.items()]
    return "\n".join(parts) + "\n"


def _table_line(line: Line) -> str:
    figures = (f"{value:.3f}" if np.isfinite(value) else "–" for value in (line.covered, line.covered_chosen))
    expected = f"{line.expected:.4f}" if np.isfinite(line.expected) else "–"
    far = float(np.mean([regret > 0.10 for regret in line.regrets]))
    return (
        f"| {line.policy} | {line.pictures} | {line.regret:.4f} ± {line.error:.4f} | {100 * far:.0f} % | {expected} | "
        + " | ".join(figures)
        + " |"
    )
