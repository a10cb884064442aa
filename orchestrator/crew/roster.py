"""Who is there to work, what they were given, and who is late: the bookkeeping of a crew, without Ray.

Nothing here waits or asks for the time: whoever calls says what time it is, so a test can let it pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.deciding.decisions import Role, Work

Selector = dict[str, str]

NODE = "ray.io/node-id"
"""The label by which Ray itself tells machines apart."""


@dataclass(slots=True, eq=False)
class Call:
    """A request under way. It counts as begun when those before it are answered."""

    work: Work
    ref: Any
    begun_at: float


@dataclass(slots=True, eq=False)
class Hand:
    """One actor: what it was given, oldest first, and when it was heard."""

    role: Role
    actor: Any
    hired_at: float
    heard_at: float
    node: str = ""
    """The machine it lives on, as it said itself; empty until it answered for the first time."""
    calls: deque[Call] = field(default_factory=deque)
    beat: Any = None
    """The question whether it lives that it has not answered yet."""
    asked_at: float = float("-inf")
    avoids: bool = False
    """Whether it may not live on some machine that is suspected."""

    @property
    def is_ready(self) -> bool:
        return bool(self.node)

    @property
    def asks_for(self) -> str:
        """What it is hired for, in words."""
        return {"train": "a trainer", "draw": "an inference actor", "judge": "a judge"}[self.role]


@dataclass(frozen=True, slots=True)
class Late:
    """A hand that is not waited for any longer. `blames_work` is False when its machine is to blame."""

    hand: Hand
    reason: str
    blames_work: bool


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds; the words are those of `cluster:` in the YAML."""

    heartbeat_s: float
    missed_s: float
    silence_s: float
    placement_s: float


class Roster:
    """All hands of a crew."""

    def __init__(self, patience: Patience, *, depth: int) -> None:
        self.patience, self.depth = patience, depth
        self.hands: list[Hand] = []
        self._looked_at = float("-inf")

    def hire(self, role: Role, actor: Any, now: float) -> Hand:
        """A new hand."""
        hand = Hand(role, actor, hired_at=now, heard_at=now)
        self.hands.append(hand)
        return hand

    def of(self, role: Role) -> list[Hand]:
        return [hand for hand in self.hands if hand.role == role]

    def ready(self, role: Role) -> list[Hand]:
        return [hand for hand in self.of(role) if hand.is_ready]

    def free(self, role: Role) -> Hand | None:
        """The hand with the least to do that may be given more; one that is not there yet only if nobody else is."""
        depth = 1 if role == "train" else self.depth
        able = [hand for hand in self.of(role) if len(hand.calls) < depth]
        return min(able, key=lambda hand: (not hand.is_ready, len(hand.calls)), default=None)

    def give(self, hand: Hand, work: Work, ref: Any, now: float) -> None:
        hand.calls.append(Call(work, ref, now))

    def answered(self, hand: Hand, ref: Any, now: float) -> Call:
        """Take an answered call off; the next one begins."""
        call = next(call for call in hand.calls if call.ref == ref)
        hand.calls.remove(call)
        if hand.calls:
            hand.calls[0].begun_at = now
        return call

    def heard(self, hand: Hand, node: str, now: float) -> None:
        """It answered that it lives, and where. Its first call begins when it is there to begin it."""
        if not hand.is_ready and hand.calls:
            hand.calls[0].begun_at = now
        hand.node, hand.heard_at, hand.beat = node, now, None

    def due(self, now: float) -> Iterator[Hand]:
        """Those to ask whether they live."""
        return (h for h in self.hands if h.beat is None and now - h.asked_at >= self.patience.heartbeat_s)

    def dismiss(self, hand: Hand) -> list[Call]:
        """Take a hand off the roster; returns what it was given and did not answer, what it was at first."""
        self.hands.remove(hand)
        left, hand.calls = list(hand.calls), deque()
        return left

    def late(self, now: float) -> list[Late]:
        """Hands to give up waiting for. Time in which nobody looked, as on a suspended laptop, is nobody's fault."""
        away = now - self._looked_at
        if away > max(2 * self.patience.heartbeat_s, 10.0):
            for hand in self.hands:
                hand.heard_at, hand.hired_at = now, now
                for call in hand.calls:
                    call.begun_at = now
        self._looked_at = now
        return [late for hand in self.hands if (late := self._late(hand, now)) is not None]

    def _late(self, hand: Hand, now: float) -> Late | None:
        patience = self.patience
        if not hand.is_ready:
            if hand.calls and now - hand.hired_at > patience.placement_s:
                return Late(hand, f"no machine could take {hand.asks_for} for {patience.placement_s:g} s", False)
            return None
        if now - hand.heard_at > patience.missed_s:
            return Late(hand, f"its actor gave no sign of life for {patience.missed_s:g} s", False)
        if hand.calls and now - hand.calls[0].begun_at > patience.silence_s:
            return Late(hand, f"its actor said nothing for {patience.silence_s:g} s", True)
        return None


class Suspects:
    """Machines on which an actor was lost: nothing new is placed there for a while that doubles each time."""

    def __init__(self, first_s: float = 60.0) -> None:
        self._first_s = first_s
        self._until: dict[str, float] = {}
        self._strikes: dict[str, int] = {}

    def add(self, node: str, now: float) -> None:
        if node:
            strikes = self._strikes[node] = self._strikes.get(node, 0) + 1
            self._until[node] = now + self._first_s * 2 ** min(strikes - 1, 6)

    def to_avoid(self, alive: Collection[str], now: float) -> list[str]:
        """Those of the machines `alive` to place nothing on; none when there would be no machine left."""
        avoid = sorted(node for node in alive if self._until.get(node, now) > now)
        return avoid if len(avoid) < len(alive) else []


def placement(preferred: Collection[Mapping[str, str]], avoid: Collection[str]) -> tuple[Selector, list[Selector]]:
    """Which labels a machine must have, and the next best in order; empty when any will do."""
    but = {NODE: f"!in({','.join(avoid)})"} if avoid else {}
    first, *others = [{**labels, **but} for labels in preferred] or [dict(but)]
    return first, others
