"""Numbers and outcomes as a reader would say them."""

from __future__ import annotations

from orchestrator.core.study import FindingKind, Outcome

OUTCOME_WORDS: dict[Outcome | None, str] = {
    "pass": "passed",
    "fail": "failed",
    "unscored": "could not be judged",
    None: "not judged yet",
}
KIND_WORDS: dict[FindingKind, str] = {
    "missing": "something of hers is not there",
    "absorbed": "she is drawn as another of the cast",
    "migrated": "something of hers moved to another",
    "duplicated": "something of hers is on another as well",
    "drift": "a colour has changed",
    "count": "too many or too few people",
    "leak": "a stranger has something of hers",
}


def percent(rate: float) -> str:
    """A share as whole percent; number and sign stay on one line."""
    return f"{100 * rate:.0f}\u00a0%"


def times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if 3540 <= seconds < 3660:
        return "an hour"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def points(share: float) -> str:
    """A difference of rates in percentage points."""
    value = 100 * share
    number = f"{value:.1f}" if value < 9.95 and f"{value:.1f}"[-1] != "0" else f"{value:.0f}"
    return f"{number} point" if number == "1" else f"{number} points"


def dollars(amount: float) -> str:
    return f"${amount:,.2f}"
