"""Whose marks are on people whom nobody called: what the judge says of controls without triggers. Pure.

A mark is what one of the cast is told by at a glance: her hair colour together with her style, a tied style even in
another colour, what she wears in her hair in its colour, or her ahoge. What the prompt itself asks for is no mark. A
base draws such things by chance too, so the share of pictures with a leak is to be held against that of the base alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from evaluators.judges.casting import (
    IDENTITY,
    TIED,
    WORN,
    attribute_of,
    differs,
    distance,
    expected_value,
    identity_words,
    say,
    shows_identity,
)
from evaluators.judges.look import CharacterLook
from evaluators.judges.reading import NONE, FigureReading
from orchestrator.core.study import Finding

MOST_HIDDEN = 1
"""Marks of one figure that may be uncertain in a picture that passes: what cannot be seen is no leak."""
MARKS = ("style", *WORN, "ahoge")
"""Slots that are a mark by themselves."""


def leaks(figures: Sequence[FigureReading], text: str, cast: Mapping[str, CharacterLook]) -> tuple[Finding, ...]:
    """Marks of the cast on figures that the prompt's `text` called for without a trigger; none of them is hers to wear.

    A mark that several of the cast have counts once, as that of whom the figure resembles most.
    """
    return tuple(found for place in range(len(figures)) for found in _on(figures, place, text, cast))


def _on(
    figures: Sequence[FigureReading], place: int, text: str, cast: Mapping[str, CharacterLook]
) -> Iterator[Finding]:
    figure, who = figures[place], _stranger(place, len(figures))
    nearest = sorted(cast, key=lambda name: distance(figure, cast[name]))
    alike = next((n for n in nearest if shows_identity(figure, cast[n]) and not _asks_for_looks(text, cast[n])), "")
    if alike:
        look, confidence = identity_words(cast[alike]), min(figure.hair.confidence, figure.style.confidence)
        yield Finding("leak", alike, IDENTITY, look, look, who, place, confidence)
    for slot in MARKS:
        trait = getattr(figure, slot)
        if not trait.sure or trait.value == NONE:
            continue
        if slot == "style" and (alike or trait.value not in TIED):
            continue
        if _asks_for(text, trait.value if slot == "style" else slot):
            continue
        owner = next((name for name in nearest if expected_value(cast[name], slot) == trait.value), "")
        if owner:
            words = say(slot, trait.value)
            yield Finding("leak", owner, attribute_of(slot), words, words, who, place, trait.confidence)


def unsettled(figure: FigureReading, cast: Mapping[str, CharacterLook]) -> tuple[str, ...]:
    """What hides whether a figure without a leak has one: her hair or style where she may still look like somebody,
    and of the other marks, if more than MOST_HIDDEN of those that anybody has cannot be seen, these."""
    open_to = [
        look for look in cast.values() if not any(differs(figure, s, getattr(look, s)) for s in ("hair", "style"))
    ]
    looks = [slot for slot in ("hair", "style") if not getattr(figure, slot).sure]
    if looks and (open_to or "style" in looks):
        return tuple(looks)
    known = [s for s in MARKS if any(expected_value(look, s) != NONE for look in cast.values())]
    hidden = tuple(slot for slot in known if not getattr(figure, slot).sure)
    return hidden if len(hidden) > MOST_HIDDEN else ()


def _stranger(place: int, count: int) -> str:
    return "the stranger" if count == 1 else f"stranger {place + 1} of {count}"


def _asks_for(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}s?\b", text, re.I) is not None


def _asks_for_looks(text: str, look: CharacterLook) -> bool:
    """Whether a prompt writes her hair colour or her style."""
    colour = re.search(rf"\b{re.escape(look.hair)}(?:[ -]\w+){{0,2}}[ -]hair", text, re.I)
    return colour is not None or _asks_for(text, look.style)
