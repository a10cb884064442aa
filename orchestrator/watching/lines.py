"""Lines for people: what they say of a curve and a choice, and how they are folded to a terminal's width.

A line is a word at the margin and what it says in a column of its own: `adopted  epoch 5 of main-1c66b8bd`. Without a
terminal lines are never broken.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.core.layout import Layout
    from orchestrator.core.study import Choice, EpochRate

_MARGIN = re.compile(r".{0,18}?  +(?=\S)")
_TOGETHER = re.compile(r"(?<=\d) (?=%|s\b|min\b|h\b|MB\b)|(?<=\d:) (?=\d)")
"""Spaces that no line ends at: between a figure and its unit, and between an epoch and its rate."""
_HELD = "\0"


def folded(line: str, width: int) -> str:
    """The line broken between words, its rest below its second column. One that holds a longer word, such as a path,
    stays as it is, so that it can be copied whole."""
    margin = _MARGIN.match(line)
    indent = margin.end() if margin else 2
    if len(line) <= width or max(map(len, line.split())) > width - indent:
        return line
    held = _TOGETHER.sub(_HELD, line)
    parts = textwrap.wrap(held, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(parts).replace(_HELD, " ")


def say(console: Console, lines: Iterable[str]) -> None:
    """Print lines, folded where a terminal shows them."""
    for line in lines:
        shown = folded(line, console.width) if console.is_terminal else line
        console.print(shown, markup=False, highlight=False, soft_wrap=True)


def curve_lines(curve: list[EpochRate]) -> Iterator[str]:
    """The rate of each epoch in figures: `passed of scored` by epoch, a line for each trial and weight."""
    series = sorted({(r.trial, r.weight) for r in curve})
    for trial, weight in series:
        figures = [f"{r.epoch}: {r.passes}/{r.scored}" for r in curve if (r.trial, r.weight) == (trial, weight)]
        head = "passed by epoch" if len(series) == 1 else f"{trial} at {weight:g}"
        yield f"{head}  " + "  ".join(figures)


def choice_lines(choice: Choice, layout: Layout) -> list[str]:
    """The adopted epoch, its rate with interval, and why, in words and figures."""
    low, high = choice.interval
    passed = round(choice.first_try_rate * choice.n)
    return [
        f"adopted  epoch {choice.epoch} of {choice.trial} at weight {choice.weight:g}",
        f"rate     {100 * choice.first_try_rate:.0f} % of fresh seeds pass at first try:"
        f" {passed} of {choice.n} (95 % interval {100 * low:.0f} to {100 * high:.0f} %)",
        f"why      {choice.reason}",
        f"adapter  {from_here(layout.resolve(choice.adapter))}",
    ]


def from_here(path: Path) -> str:
    """A path as short as it can be written from the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
