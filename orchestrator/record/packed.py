"""A dictionary for a process that runs for days: what was put in lately is at hand, the rest is packed into bytes.

A picture that is drawn and judged is hardly ever asked for again while a study runs, and there may be a hundred
thousand of them. Packed, one takes a fifth of the memory of its objects; unpacked it is equal to what was put in.
"""

from __future__ import annotations

import pickle
import re
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, MutableMapping
from itertools import islice
from typing import TypeVar

PACK = 256
"""Values in a pack. A pack is read as a whole, in some tenths of a millisecond."""
AT_HAND = 8
"""Packs that were asked for last and are kept unpacked."""
LONGEST_RUN = 2**17
"""Merging two runs takes 40 bytes a number for a moment; longer ones are left apart."""
_HEX = re.compile(r"[0-9a-f]{16}")

K = TypeVar("K", bound="str | tuple[str, Hashable, Hashable]")
V = TypeVar("V")


class Packed(MutableMapping[K, V]):
    """A dictionary by keys of cells, or by tuples that begin with one. Iteration is in the order of packing.

    Values must not change, and can be pickled. Keys that are not 16 hexadecimal digits are taken, and never packed.
    """

    def __init__(self, pack: int = PACK) -> None:
        self._pack = pack
        self._recent: dict[K, V] = {}
        self._odd: dict[K, V] = {}
        self._packs: list[bytes] = []
        self._at_hand: dict[int, dict[K, V]] = {}
        self._places: dict[Hashable, _Places] = {}
        """Where keys are packed, by what follows the cell's key in them."""

    def __getitem__(self, key: K) -> V:
        if key in self._recent:
            return self._recent[key]
        place = self._place(key)
        return self._odd[key] if place is None else self._read(place)[key]

    def __contains__(self, key: object) -> bool:
        return key in self._recent or key in self._odd or self._place(key) is not None

    def __setitem__(self, key: K, value: V) -> None:
        if key not in self._recent:
            if key in self:
                del self[key]
            if len(self._recent) >= 2 * self._pack:
                self._pack_oldest()
        self._recent[key] = value

    def __delitem__(self, key: K) -> None:
        place = None if key in self._recent else self._place(key)
        if place is None:
            del (self._odd if key in self._odd else self._recent)[key]
            return
        left = {other: value for other, value in self._read(place).items() if other != key}
        self._write(place, left)
        family, number = _code(key)  # type: ignore[misc]
        self._places[family].discard(number)

    def __iter__(self) -> Iterator[K]:
        for place in range(len(self._packs)):
            yield from list(self._read(place))
        yield from self._odd
        yield from self._recent

    def __len__(self) -> int:
        return len(self._recent) + len(self._odd) + sum(map(len, self._places.values()))

    def _place(self, key: object) -> int | None:
        code = _code(key)
        family = None if code is None else self._places.get(code[0])
        return None if code is None or family is None else family.get(code[1])

    def _pack_oldest(self) -> None:
        oldest = dict(islice(self._recent.items(), self._pack))
        self._recent = dict(islice(self._recent.items(), self._pack, None))
        codes: dict[Hashable, list[int]] = {}
        packed: dict[K, V] = {}
        for key, value in oldest.items():
            code = _code(key)
            if code is None:
                self._odd[key] = value
            else:
                packed[key] = value
                codes.setdefault(code[0], []).append(code[1])
        for family, numbers in codes.items():
            self._places.setdefault(family, _Places()).add(numbers, len(self._packs))
        self._packs.append(b"")
        self._write(len(self._packs) - 1, packed)

    def _write(self, place: int, content: dict[K, V]) -> None:
        self._packs[place] = zlib.compress(pickle.dumps(content, pickle.HIGHEST_PROTOCOL), 1)
        self._at_hand.pop(place, None)

    def _read(self, place: int) -> dict[K, V]:
        content = self._at_hand.pop(place, None)
        if content is None:
            # Only bytes of this very process are read.
            content = pickle.loads(zlib.decompress(self._packs[place]))
            while len(self._at_hand) >= AT_HAND:
                del self._at_hand[next(iter(self._at_hand))]
        self._at_hand[place] = content
        return content


def _code(key: object) -> tuple[Hashable, int] | None:
    """What follows the cell's key, and that key as a number; None for a key of another form."""
    name, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
    return (rest, int(name, 16)) if isinstance(name, str) and _HEX.fullmatch(name) else None


class _Places:
    """Which pack each of many 64-bit numbers is in, at 12 bytes a number: sorted runs, each at least twice the next."""

    def __init__(self) -> None:
        self._runs: list[tuple[array[int], array[int]]] = []

    def __len__(self) -> int:
        return sum(len(numbers) for numbers, _ in self._runs)

    def get(self, number: int) -> int | None:
        for numbers, places in self._runs:
            at = bisect_left(numbers, number)
            if at < len(numbers) and numbers[at] == number:
                return places[at]
        return None

    def add(self, numbers: Iterable[int], place: int) -> None:
        """Numbers that are not there yet."""
        run = array("Q", sorted(numbers))
        self._runs.append((run, array("I", [place]) * len(run)))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < min(2 * len(self._runs[-1][0]), LONGEST_RUN):
            self._merge()

    def _merge(self) -> None:
        (later, its_places), (earlier, other_places) = self._runs.pop(), self._runs.pop()
        numbers, places = earlier + later, other_places + its_places
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        self._runs.append((array("Q", (numbers[n] for n in order)), array("I", (places[n] for n in order))))

    def discard(self, number: int) -> None:
        for numbers, places in self._runs:
            at = bisect_left(numbers, number)
            if at < len(numbers) and numbers[at] == number:
                del numbers[at], places[at]
                return
