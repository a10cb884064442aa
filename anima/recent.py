"""A cache of tensors with a size: what was used longest ago makes room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


class Recent(Generic[Key]):
    """Tensors by key, at most `limit_bytes` of them together; a single larger one is made but not kept.

    Threads may share it: one that asks for what another is making waits for it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes, self._size_bytes = limit_bytes, 0
        self._kept: OrderedDict[Key, Tensor] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """Bytes held now."""
        return self._size_bytes

    def get(self, key: Key, make: Callable[[], Tensor]) -> Tensor:
        """The tensor kept under `key`, or what `make` gives, kept from now on. Callers must not write into it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            made = make()
            if made.nbytes <= self._limit_bytes:
                self._kept[key] = made
                self._size_bytes += made.nbytes
                while self._size_bytes > self._limit_bytes:
                    self._size_bytes -= self._kept.popitem(last=False)[1].nbytes
            return made

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._kept.clear()
            self._size_bytes = 0
