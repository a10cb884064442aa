"""How commands speak: lines for people, JSON for machines. Nothing here colours or guesses what a line means."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def terminal() -> Console:
    """Where lines for people go. Paths and words are left as they are, whatever the width."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def tell(lines: Iterable[str]) -> None:
    """Print lines, folded between words where a terminal shows them."""
    from orchestrator.watching.lines import say

    say(terminal(), lines)


def document(data: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def json_line(data: Any) -> None:
    """Print one JSON document on a line of its own, at once."""
    print(json.dumps(data, ensure_ascii=False, allow_nan=False), flush=True)
