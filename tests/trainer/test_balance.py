"""Exposures are counted as they happen, and balanced ones come out equal to the last one."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.core.errors import DatasetError
from tests.trainer.small_datasets import dataset, item
from trainer.balance import deficits, exposures_after, showings

UNEVEN = dataset(
    *(item(f"k{i}", "kanachan") for i in range(5)),
    *(item(f"e{i}", "keichan", repeats=2) for i in range(4)),
    item("o0", "koharu"),
    item("o1", "koharu"),
    item("pair", "kanachan and keichan"),
    item("street", "nobody", regularisation=True),
    repeats=2,
)


def characters(shown: tuple[int, ...]) -> Counter[str]:
    return Counter(trigger for i in shown for trigger in UNEVEN.items[i].triggers)


def test_repeats_take_turns() -> None:
    once, thrice = item("a", "kanachan"), item("b", "kanachan", repeats=3)
    assert showings(dataset(once, thrice), "none", 1) == (0, 1, 1, 1)
    assert showings(dataset(once, item("b", "kanachan"), repeats=2), "none", 1) == (0, 1, 0, 1)


def test_without_balance_every_picture_is_shown_as_it_repeats() -> None:
    counts = Counter(showings(UNEVEN, "none", 1))
    assert counts == {i: UNEVEN.items[i].repeats * 2 for i in range(len(UNEVEN))}
    assert characters(showings(UNEVEN, "none", 1)) == {"kanachan": 12, "keichan": 18, "koharu": 4}


@pytest.mark.parametrize("epoch", [1, 2, 7])
def test_balanced_every_character_is_shown_equally_often(epoch: int) -> None:
    shown = showings(UNEVEN, "per_character", epoch)
    assert characters(shown) == {"kanachan": 18, "keichan": 18, "koharu": 18}
    assert len(shown) == len(showings(UNEVEN, "per_character", 1))
    plain = Counter(showings(UNEVEN, "none", 1))
    added = Counter(shown) - plain
    assert all(len(UNEVEN.items[i].triggers) == 1 for i in added), "only solo pictures make up"


def test_what_makes_up_takes_turns_over_the_epochs() -> None:
    """Of one character's pictures none gets ahead of another by more than one showing."""
    counts = exposures_after(UNEVEN, "per_character", 10)
    assert set(counts.characters.values()) == {180}
    for name, base in (("k", 2), ("o", 2)):
        own = [n for picture, n in zip(UNEVEN.items, counts.items, strict=True) if picture.file.startswith(name)]
        assert max(own) - min(own) <= 1
        assert min(own) > 10 * base


def test_counts_add_up() -> None:
    counts = exposures_after(UNEVEN, "none", 3)
    assert counts.characters == {"kanachan": 36, "keichan": 54, "koharu": 12}
    assert counts.per_image == pytest.approx(3 * len(showings(UNEVEN, "none", 1)) / len(UNEVEN))


def test_a_character_that_cannot_be_made_up_for_is_named() -> None:
    lonely = dataset(item("a", "kanachan"), item("b", "kanachan"), item("c", "kanachan and koharu"))
    with pytest.raises(DatasetError, match="koharu is shown less often than others and has no solo picture"):
        showings(lonely, "per_character", 1)


def test_deficits_are_to_the_one_with_most() -> None:
    assert deficits({"a": 3, "b": 5, "c": 5}) == {"a": 2}
    assert deficits({}) == {}
