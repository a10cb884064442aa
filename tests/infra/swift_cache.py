"""What memcached is to Swift, in the proxy's own process: without it each request asks for account and container anew.

Swift loads this by name; nothing here imports from the project.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Memory:
    """The part of a memcached client that Swift's proxy uses; values travel as JSON, as they do there."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, str]] = {}

    def get(self, key: str, **_: Any) -> Any:
        until, value = self._kept.get(key, (0.0, "null"))
        return json.loads(value) if time.monotonic() < until else None

    def set(self, key: str, value: Any, time: float = 0, **_: Any) -> None:
        self._kept[key] = (_now() + (time or 3600.0), json.dumps(value))

    def delete(self, key: str, **_: Any) -> None:
        self._kept.pop(key, None)

    def incr(self, key: str, delta: int = 1, time: float = 0, **_: Any) -> int:
        number = int(self.get(key) or 0) + delta
        self.set(key, number, time)
        return number


def _now() -> float:
    return time.monotonic()


def filter_factory(_global: dict[str, str], **_: str) -> Callable[[App], App]:
    """A paste filter."""
    memory = Memory()

    def around(app: App) -> App:
        def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            environ["swift.cache"] = memory
            return app(environ, start)

        return answer

    return around
