"""From verdicts to the epoch to adopt: pass rates with their intervals, the flat band, and its right edge.

Three steps, all pure. `epoch_rates` counts passes per (trial, epoch, weight). `smoothed` lets every saved epoch borrow
half a vote from each saved neighbour, because among many epochs some are perfect by luck alone, but a run of them is
not. `select` finds the plateau (the run of epochs around the best whose smoothed rate is within a margin of it) and
adopts its right edge: resistance to hard seeds still grows inside the band, and overtraining begins after it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from statistics import NormalDist

from orchestrator.core.errors import StudyError
from orchestrator.core.study import Cell, EpochRate, Outcome, Verdict

NEIGHBOUR_VOTE = 0.5
"""What a picture of the saved epoch before or after counts, where the epoch's own picture counts 1."""

_ROUNDING = 1e-9
"""Rates exactly `margin` below the best are within the margin, whatever floating point makes of them."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The epoch chosen for adoption, and why: `plateau` is the first and last epoch of the flat band."""

    chosen: EpochRate
    plateau: tuple[int, int]
    runner_up: EpochRate | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Band:
    """One (trial, weight): its rates by epoch, their smoothed rates, and where the plateau lies among them."""

    rates: list[EpochRate]
    smooth: list[float]
    best: int
    first: int
    last: int

    @property
    def rank(self) -> tuple[float, int, float]:
        """The higher the better: the best smoothed rate, then a longer plateau, then a weight nearer to 1."""
        return self.smooth[self.best], self.last - self.first, -abs(self.rates[0].weight - 1)


def wilson(passes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share of `passes` in `n` (Wilson 1927); (0, 1) when nothing was tried."""
    if not 0 <= passes <= n:
        raise ValueError(f"{passes} passes of {n}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, shrink = passes / n, 1 + z * z / n
    middle = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if passes == 0 else (middle - half) / shrink
    high = 1.0 if passes == n else (middle + half) / shrink
    return low, high


def epoch_rate(trial: str, epoch: int, weight: float, verdicts: Iterable[Verdict]) -> EpochRate:
    """Passes over scored images. With nothing scored the rate is not a number and the interval is all of [0, 1]."""
    return counted_rate(trial, epoch, weight, Counter(v.outcome for v in verdicts))


def counted_rate(trial: str, epoch: int, weight: float, outcomes: Mapping[Outcome, int]) -> EpochRate:
    """The same from how many verdicts there are of each outcome."""
    passes, unscored = outcomes.get("pass", 0), outcomes.get("unscored", 0)
    scored = passes + outcomes.get("fail", 0)
    low, high = wilson(passes, scored)
    rate = passes / scored if scored else nan
    return EpochRate(trial, epoch, weight, passes, scored, unscored, rate, low, high)


def epoch_rates(cells: Iterable[Cell], verdicts: Mapping[str, Verdict]) -> list[EpochRate]:
    """Rates of the judged `select` cells, in order of trial, weight and epoch. `verdicts` is by cell key.

    Cells without a verdict yet do not count, and `confirm` cells never do: they must not choose what they confirm.
    """
    groups: dict[tuple[str, float, int], list[Verdict]] = defaultdict(list)
    for cell in cells:
        if cell.purpose == "select" and (verdict := verdicts.get(cell.key)) is not None:
            groups[cell.trial, cell.weight, cell.epoch].append(verdict)
    return [epoch_rate(trial, epoch, weight, groups[trial, weight, epoch]) for trial, weight, epoch in sorted(groups)]


def smoothed(rates: Sequence[EpochRate]) -> list[float]:
    """Each epoch's rate with its saved neighbours' pictures counted at `NEIGHBOUR_VOTE`.

    `rates` are one trial's at one weight, by epoch, all scored. Pictures are pooled, so an epoch with more of them
    says more. Neighbours are the saved epochs before and after, however far apart they were saved.
    """
    pooled = []
    for i, own in enumerate(rates):
        beside = [rates[j] for j in (i - 1, i + 1) if 0 <= j < len(rates)]
        passes = own.passes + NEIGHBOUR_VOTE * sum(r.passes for r in beside)
        scored = own.scored + NEIGHBOUR_VOTE * sum(r.scored for r in beside)
        pooled.append(passes / scored)
    return pooled


def plateau(rates: Iterable[EpochRate], margin: float) -> tuple[int, int]:
    """First and last epoch of the flat band of one trial at one weight.

    The best epoch has the highest smoothed rate among those whose own rate bears it out (is at most `margin` below
    it). The plateau is the unbroken run of saved epochs around it with a smoothed rate at most `margin` below the
    best; of several equally good runs the longest, then the earliest.
    """
    band = _one_band(rates, margin)
    return band.rates[band.first].epoch, band.rates[band.last].epoch


def select(rates: Iterable[EpochRate], margin: float) -> Selection:
    """The right edge of the best plateau: its last epoch whose own rate is at most `margin` below the best.

    Several trials or weights compete by their best smoothed rate, then by the length of their plateau, then by
    nearness of the weight to 1. Nothing scored at all is a StudyError.
    """
    by_series: dict[tuple[str, float], list[EpochRate]] = defaultdict(list)
    for rate in rates:
        if rate.scored:
            by_series[rate.trial, rate.weight].append(rate)
    if not by_series:
        raise StudyError(
            "no image could be scored, so there is no rate to choose an epoch by",
            fix="see the reasons of the unscored images in the report, and the judge's settings",
        )
    bands = [_one_band(by_series[key], margin) for key in sorted(by_series)]
    won = max(bands, key=lambda band: band.rank)
    floor = won.smooth[won.best] - margin - _ROUNDING
    at = max(i for i in range(won.first, won.last + 1) if won.rates[i].rate >= floor)
    return Selection(
        chosen=won.rates[at],
        plateau=(won.rates[won.first].epoch, won.rates[won.last].epoch),
        runner_up=_runner_up(bands, won.rates[at]),
        reason=_reason(won, at, margin, several=len(bands) > 1),
    )


def _one_band(rates: Iterable[EpochRate], margin: float) -> _Band:
    scored = sorted((r for r in rates if r.scored), key=lambda r: r.epoch)
    if not scored:
        raise StudyError("no image could be scored, so there is no plateau")
    if len({(r.trial, r.weight) for r in scored}) > 1:
        raise ValueError("a plateau belongs to one trial at one weight")
    smooth = smoothed(scored)
    borne_out = [i for i, r in enumerate(scored) if r.rate >= smooth[i] - margin - _ROUNDING]
    peak = max(smooth[i] for i in borne_out)
    runs = [_run(smooth, i, peak - margin) for i in borne_out if smooth[i] >= peak - _ROUNDING]
    best, first, last = max(runs, key=lambda run: run[2] - run[1])
    return _Band(scored, smooth, best, first, last)


def _run(smooth: Sequence[float], at: int, floor: float) -> tuple[int, int, int]:
    """(at, first, last): the unbroken run of indices around `at` that do not fall below `floor`."""
    first = last = at
    while first > 0 and smooth[first - 1] >= floor - _ROUNDING:
        first -= 1
    while last < len(smooth) - 1 and smooth[last + 1] >= floor - _ROUNDING:
        last += 1
    return at, first, last


def _runner_up(bands: Sequence[_Band], chosen: EpochRate) -> EpochRate | None:
    """The next best by smoothed rate, then by own rate, then the one saved nearest to the chosen epoch."""
    others = [
        (smooth, rate.rate, -abs(rate.epoch - chosen.epoch), rate)
        for band in bands
        for rate, smooth in zip(band.rates, band.smooth, strict=True)
        if rate != chosen
    ]
    return max(others, key=lambda other: other[:3])[3] if others else None


def _reason(band: _Band, at: int, margin: float, *, several: bool) -> str:
    chosen, best = band.rates[at], band.rates[band.best]
    where = f" of {chosen.trial} at weight {chosen.weight:g}" if several else ""
    if not best.passes:
        return f"No image of any epoch passed, so nothing speaks for an epoch; the last one, {chosen.epoch}, stands in."
    passed = f"Epoch {chosen.epoch}{where} passed {chosen.passes} of {chosen.scored}"
    first, last = band.rates[band.first], band.rates[band.last]
    if len(band.rates) == 1:
        return f"{passed} and is the only epoch that was judged."
    peak = f"{_percent(band.smooth[band.best])} at epoch {best.epoch}"
    if first == last:
        return f"{passed}; no other epoch comes within {_points(margin)} of the best smoothed rate, {peak}."
    edge = "is the right edge of" if at == band.last else "is, by its own rate too, the last good epoch of"
    flat = f"the plateau, epochs {first.epoch} to {last.epoch}, where the smoothed rate stays within {_points(margin)}"
    if band.last + 1 < len(band.rates):
        after = f"at epoch {band.rates[band.last + 1].epoch} it is {_percent(band.smooth[band.last + 1])}"
    else:
        after = "it had not fallen when training ended"
    return f"{passed} and {edge} {flat} of its best, {peak}; {after}."


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f} %"


def _points(margin: float) -> str:
    return f"{100 * margin:g} points"
