"""A comparison on shared seeds for people, as a sentence or in full."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from evaluators.decide.paired import Comparison
from evaluators.decide.wording import percent, several


def comparison_line(first: str, second: str, said: Comparison) -> str:
    """A paired comparison in a sentence or two."""
    pairs = said.pairs
    alone = f"{pairs.first} passed with the first alone, {pairs.second} with the second alone"
    return (
        f"{_sentence(first)} against {second}, on {several(pairs.n, 'shared seed')}: {alone};"
        f" {_better(first, second, said)}. {_sentence(_settled(said))}"
    )


def render_comparison(first: str, second: str, said: Comparison, margin: float) -> RenderableType:
    """A paired comparison with all it rests on."""
    pairs = said.pairs
    grid = Grid(box=None, padding=(0, 2, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    interval = f"{100 * said.low:+.0f} to {100 * said.high:+.0f}"
    rows = {
        "both pass": f"{pairs.both}",
        f"only {first}": f"{pairs.first}",
        f"only {second}": f"{pairs.second}",
        "neither passes": f"{pairs.neither}",
        "passed": f"{percent(said.first_rate)} and {percent(said.second_rate)}",
        "difference": f"{100 * said.difference:+.0f} points (95 % interval {interval})",
        "which is better": _better(first, second, said),
        "as good as equal": f"within {100 * margin:g} points with a probability of {percent(said.equal_enough)}",
        "McNemar, exact": f"p = {said.p_value:.2g}; counts only if the number of seeds was fixed beforehand",
        "e-value": f"{said.e_value:.2g}; 20 settles it, however often one has looked",
    }
    for name, value in rows.items():
        grid.add_row(name, value)
    title = Text(f"{first} against {second}, on {several(pairs.n, 'seed')} drawn with both\n", style="bold")
    return Group(title, grid, Text(f"\n{_sentence(_settled(said))}"))


def _better(first: str, second: str, said: Comparison) -> str:
    if abs(said.first_better - 0.5) < 1e-6:
        return "nothing speaks for either"
    name, chance = (first, said.first_better) if said.first_better > 0.5 else (second, 1 - said.first_better)
    return f"{name} is better with a probability of {percent(chance)}"


def _settled(said: Comparison) -> str:
    if said.settled:
        return "that is settled."
    if said.more_seeds is None:
        return "no sensible number of seeds would settle it."
    return f"about {several(said.more_seeds, 'more seed')} would settle it."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
