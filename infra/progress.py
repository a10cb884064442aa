"""Whether files on their way somewhere move: a slow line is not a dead one."""

from __future__ import annotations

import threading
from collections.abc import Callable

Moved = Callable[[int], None]
"""Hears how many further bytes of a file have gone."""


def unheard(_size: int) -> None:
    """Nobody asks how far it is."""


class Furthest:
    """Of one piece that may be sent several times: passes on only what goes beyond the furthest place yet reached."""

    def __init__(self, moved: Moved) -> None:
        self._moved, self._at, self._furthest = moved, 0, 0

    def __call__(self, bytes_transferred: int) -> None:
        """The place in the piece has moved by so many bytes, backwards when it is sent again."""
        self._at += bytes_transferred
        if self._at > self._furthest:
            beyond, self._furthest = self._at - self._furthest, self._at
            self._moved(beyond)


class Progress:
    """How far each unfinished file has come, over all tries at it.

    A file that breaks off at the same place again and again makes no progress, however much is sent. Threads may share
    one.
    """

    def __init__(self, moved: Callable[[], None] = lambda: None) -> None:
        """`moved` is called whenever a file is further than it ever was; it must return soon."""
        self._moved, self._lock, self._furthest = moved, threading.Lock(), dict[str, int]()

    @property
    def size(self) -> int:
        """Bytes of unfinished files that have gone."""
        with self._lock:
            return sum(self._furthest.values())

    def begin(self, key: str) -> Moved:
        """A file is sent from its beginning; the result is to hear of its bytes as they go."""
        sent = 0

        def moved(size: int) -> None:
            nonlocal sent
            with self._lock:
                sent += size
                beyond = sent > self._furthest.get(key, 0)
                if beyond:
                    self._furthest[key] = sent
            if beyond:
                self._moved()

        return moved

    def end(self, key: str) -> None:
        """It is there, or is not wanted any more."""
        with self._lock:
            self._furthest.pop(key, None)
