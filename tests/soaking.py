"""How much of what is drawn at random `make soak` goes through: `ROUNDS=4 make soak` for four times the default."""

from __future__ import annotations

import os

ROUNDS = max(1, int(os.environ.get("ROUNDS") or 1))


def seeds(start: int, a_round: int) -> range:
    """So many seeds for each round, from `start` on; more rounds begin with the same ones."""
    return range(start, start + a_round * ROUNDS)
