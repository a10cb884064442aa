"""Numbers in words, alike wherever people read them."""

from __future__ import annotations


def percent(rate: float) -> str:
    """A rate or a probability, as a whole number of percent."""
    return f"{100 * rate:.0f} %"


def span(low: float, high: float) -> str:
    """An interval of a rate."""
    return f"{100 * low:.0f}–{100 * high:.0f} %"


def several(count: int, what: str) -> str:
    """So many of something."""
    return f"{count} {what}{'s' * (count != 1)}"
