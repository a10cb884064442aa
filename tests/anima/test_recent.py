"""The cache of tensors keeps what was used last, and no more bytes than it was given."""

from __future__ import annotations

import torch
from torch import Tensor

from anima.recent import Recent


def ten_bytes() -> Tensor:
    return torch.zeros(10, dtype=torch.uint8)


def test_what_was_used_longest_ago_makes_room() -> None:
    cache: Recent[str] = Recent(limit_bytes=30)
    made: list[str] = []

    def get(key: str) -> None:
        def make() -> Tensor:
            made.append(key)
            return ten_bytes()

        cache.get(key, make)
        assert cache.size_bytes <= 30

    for key in ("a", "b", "c", "a", "d", "a", "c", "b"):
        get(key)
    assert made == ["a", "b", "c", "d", "b"], "b made room for d: a had been used since"
    assert (len(cache), cache.size_bytes) == (3, 30)


def test_the_same_tensor_is_given_again() -> None:
    cache: Recent[str] = Recent(limit_bytes=10)
    assert cache.get("a", ten_bytes) is cache.get("a", ten_bytes)


def test_a_tensor_larger_than_the_cache_is_made_but_not_kept() -> None:
    cache: Recent[str] = Recent(limit_bytes=15)
    first = cache.get("a", ten_bytes)
    large = cache.get("b", lambda: torch.zeros(16, dtype=torch.uint8))
    assert large.nbytes == 16
    assert cache.get("a", ten_bytes) is first
    assert len(cache) == 1


def test_clearing_gives_the_room_back() -> None:
    cache: Recent[str] = Recent(limit_bytes=10)
    cache.get("a", ten_bytes)
    cache.clear()
    assert (len(cache), cache.size_bytes) == (0, 0)
