"""Draw finished cells again, into a folder of their own, and compare: the same pixels, the same verdict?

The cells are spread over the grid by their keys, so the same are taken every time. Where device, precision, versions
and batch are the same, a picture is to come out the same to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluators.sweep.run import Artist, Judging
from evaluators.sweep.table import Drawn
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Sample, Verdict

MUST_AGREE = ("backend", "device", "dtype", "attention", "batch", "compiled", "threads", "numerics", "versions")
"""What of a sidecar must be the same for the pixels to be."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One cell, drawn twice."""

    cell: Cell
    same_file: bool
    largest: int
    """Largest difference of any pixel's colour, of 255; 255 where the sizes differ."""
    mean: float
    first: Verdict | None
    again: Verdict | None
    changed: tuple[str, ...]
    """What of `MUST_AGREE` is another than it was, in words."""

    @property
    def same_verdict(self) -> bool | None:
        """Whether both were judged alike; None without a verdict."""
        if self.first is None or self.again is None:
            return None
        return self.first.outcome == self.again.outcome

    @property
    def broken(self) -> bool:
        """Whether what is promised does not hold: other pixels though nothing changed, or another verdict."""
        return self.same_verdict is False or (self.largest > 0 and not self.changed)


def spread(finished: Sequence[Drawn], count: int) -> list[Drawn]:
    """`count` of them, spread by key, in the order they were given."""
    chosen = {one.cell.key for one in sorted(finished, key=lambda one: one.cell.key[::-1])[:count]}
    return [one for one in finished if one.cell.key in chosen]


def verify(
    finished: Sequence[Drawn], layout: Layout, again: Layout, artist: Artist, judging: Judging | None
) -> Iterator[Comparison]:
    """Draw these cells again below `again` and compare each with what is in `layout`. `artist` writes below `again`."""
    for _, group in groupby(sorted(finished, key=_request), key=_request):
        together = list(group)
        cells = [one.cell for one in together]
        samples = artist.draw(cells)
        verdicts = _judge(judging, cells, samples)
        for one, sample, verdict in zip(together, samples, verdicts, strict=True):
            yield _compare(one, layout.resolve(one.sample.image), sample, again.resolve(sample.image), verdict)


def _request(one: Drawn) -> tuple[str, float, str]:
    return one.cell.adapter_sha256, one.cell.weight, one.cell.prompt.name


def _judge(judging: Judging | None, cells: Sequence[Cell], samples: Sequence[Sample]) -> Sequence[Verdict | None]:
    return [None] * len(cells) if judging is None else judging.critic.judge(cells, samples)


def _compare(one: Drawn, before: Path, sample: Sample, after: Path, verdict: Verdict | None) -> Comparison:
    old, new = _levels(before), _levels(after)
    difference = np.abs(old - new) if old.shape == new.shape else np.full(1, 255)
    return Comparison(
        one.cell,
        one.sample.sha256 == sample.sha256,
        int(difference.max()),
        float(difference.mean()),
        one.verdict,
        verdict,
        _changes(before.with_suffix(".json"), after.with_suffix(".json")),
    )


def _levels(path: Path) -> np.ndarray[Any, np.dtype[np.int16]]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def _changes(before: Path, after: Path) -> tuple[str, ...]:
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    other = [name for name in MUST_AGREE if old.get(name) != new.get(name)]
    return tuple(f"{name}: {old.get(name)} then, {new.get(name)} now" for name in other)
