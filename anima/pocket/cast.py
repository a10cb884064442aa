"""Who lives in the drawn world: the characters the base model knows by name, and the cast it has never seen.

The base knows `KNOWN` the way a real anime model knows famous characters: by name alone. `CAST` are the identities
of a real three-character study; their names and looks are kept out of the base's training pictures.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from anima.pocket.world import SHIRT, Figure, random_figure

CAST: dict[str, Figure] = {
    "kanachan": Figure("brown", "side ponytail", "brown", ("scrunchie", "blue"), ahoge=True),
    "keichan": Figure("blonde", "long hair", "blue", ("ribbon", "blue")),
    "koharu": Figure("black", "short hair", "red", ("ribbon", "blue")),
}

_ONSETS = ["k", "s", "t", "n", "h", "m", "r", "g", "z", "d", "b", "p", "y", "w", "f", "j", "l", "ch", "sh", "ts"]
_VOWELS = ["a", "i", "u", "e", "o"]
_ENDINGS = ["chan", "san", "ko", "ru", "na", "mi", "ne", "ri", "to", "ki"]
KNOWN_COUNT = 120


def syllables() -> list[str]:
    """What names are made of."""
    return sorted({onset + vowel for onset in _ONSETS for vowel in _VOWELS} | set(_ENDINGS))


def invent_name(rng: Random) -> str:
    """A word of two to four syllables that means nothing; never one of the cast's names."""
    while True:
        syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) + ("n" if rng.random() < 0.12 else "")]
        for _ in range(rng.randint(0, 2)):
            syllables.append(rng.choice(_ONSETS) + rng.choice(_VOWELS))
        name = "".join(syllables) + rng.choice(_ENDINGS)
        if name not in CAST and len(name) >= 5:
            return name


def same_identity(a: Figure, b: Figure) -> bool:
    """The same person, whatever she wears."""
    return replace(a, shirt="white") == replace(b, shirt="white")


def known_characters(count: int = KNOWN_COUNT, seed: int = 20) -> dict[str, Figure]:
    """The characters the base is taught by name: distinct names, distinct looks, nobody who looks like the cast."""
    rng = Random(seed)
    known: dict[str, Figure] = {}
    while len(known) < count:
        name, figure = invent_name(rng), random_figure(rng)
        taken = [*CAST.values(), *known.values()]
        if name not in known and not any(same_identity(figure, other) for other in taken):
            known[name] = figure
    return known


def dressed(figure: Figure, rng: Random) -> Figure:
    """The same person in a shirt chosen by `rng`."""
    return replace(figure, shirt=rng.choice(list(SHIRT)))
