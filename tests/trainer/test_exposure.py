"""What an epoch shows: every picture as often as it repeats, batches of one size, steps of several batches."""

from __future__ import annotations

from collections import Counter

import pytest

from trainer.exposure import Exposure, batches, epoch_generator, epoch_order, steps, steps_per_epoch


def order(shown: tuple[int, ...], epoch: int = 1) -> tuple[Exposure, ...]:
    return epoch_order(shown, epoch_generator(0, epoch))


def test_an_order_shows_everything_once_and_depends_on_seed_and_epoch_alone() -> None:
    shown = tuple(range(20)) * 2
    first = order(shown)
    assert [e.position for e in first] == list(range(40))
    assert Counter(e.item for e in first) == dict.fromkeys(range(20), 2)
    assert order(shown) == first
    assert order(shown, epoch=2) != first


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_one_size_fills_batches_in_order(batch: int) -> None:
    drawn = order(tuple(range(10)))
    full = batches(drawn, dict.fromkeys(range(10), "square"), batch, seed=0)
    assert [e for part in full for e in part] == list(drawn)
    assert {len(part) for part in full[:-1]} <= {batch}


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_batches_never_mix_sizes_and_lose_nothing(batch: int) -> None:
    sizes = {i: ("wide" if i % 3 else "tall") for i in range(20)}
    drawn = order(tuple(range(20)))
    full = batches(drawn, sizes, batch, seed=5)
    assert all(len({sizes[e.item] for e in part}) == 1 for part in full)
    assert sorted(e.position for part in full for e in part) == list(range(20))
    assert all(len(part) <= batch for part in full)
    assert len(steps(full, 2)) == steps_per_epoch(tuple(range(20)), sizes, batch, 2)


def test_small_batches_of_rare_sizes_are_not_all_last() -> None:
    sizes = {i: min(i // 19, 1) for i in range(20)}
    drawn = order(tuple(range(20)))
    places = [
        next(i for i, part in enumerate(batches(drawn, sizes, 4, seed=seed)) if sizes[part[0].item] == 1)
        for seed in range(20)
    ]
    assert min(places) == 0
    assert max(places) == 5


def test_the_last_step_takes_what_is_left() -> None:
    full = batches(order(tuple(range(7))), dict.fromkeys(range(7), 0), 2, seed=0)
    assert [[len(part) for part in step] for step in steps(full, 2)] == [[2, 2], [2, 1]]
    assert steps_per_epoch(tuple(range(7)), dict.fromkeys(range(7), 0), 2, 2) == 2
