"""What is cheap to see before training and costly to learn after it: uneven counts, uneven captions, leaking prompts.

An attribute that captions write binds to its own words; one that they never write is learned into the trigger. When one
character is described and the others are not, her trigger stays hollow and the others take her place.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from anima.prompt import read_prompt
from anima.vocabulary import t5_tokenizer, unknown_words
from evaluators.config import PromptConfig
from evaluators.judges.look import CharacterLook

Groups = Mapping[tuple[str, ...], int]
"""Pictures per set of triggers (sorted)."""

LOOK_WORDS = re.compile(
    r"\b(hair(ed|style)?|eyes?|eyed|ponytail|pigtails?|twintails|braids?|bangs|bob cut|ahoge|hair intakes)\b", re.I
)
UNEVEN_COUNTS = 1.25
"""Most to fewest solo pictures. Three characters with 79, 81 and 80 pictures stayed apart."""
UNEVEN_CAPTIONS = 0.2
"""Difference between the characters' shares of captions that describe hair or eyes."""
MANY_TOGETHER = 0.3
"""Share of pictures with several characters; 24 % was still safe with three."""


def audit_counts(groups: Groups, prompts: Iterable[PromptConfig], triggers: Sequence[str]) -> list[str]:
    """Warnings about how many pictures show whom."""
    solo = {t: groups.get((t,), 0) for t in triggers}
    listed = ", ".join(f"{t} {n}" for t, n in solo.items())
    warnings = [f"{t} has no picture of her own" for t, n in solo.items() if n == 0]
    if min(solo.values()) and max(solo.values()) / min(solo.values()) > UNEVEN_COUNTS:
        warnings.append(f"solo pictures are uneven ({listed}): characters with fewer are absorbed by the others")
    total = sum(groups.values())
    together = sum(n for who, n in groups.items() if len(who) > 1)
    alone = any(len(prompt.cast) == 1 for prompt in prompts)
    if alone and total and together / total > MANY_TOGETHER:
        warnings.append(
            f"{together / total:.0%} of the pictures show several characters: a trigger alone may then draw company"
        )
    return warnings


def audit_captions(captions: Iterable[tuple[tuple[str, ...], str]], triggers: Sequence[str]) -> list[str]:
    """Warnings about whose looks the solo captions describe; `captions` are (triggers named, text)."""
    described: dict[str, list[bool]] = defaultdict(list)
    for who, text in captions:
        if len(who) == 1:
            described[who[0]].append(LOOK_WORDS.search(text) is not None)
    shares = {t: sum(described[t]) / len(described[t]) for t in triggers if described[t]}
    if not shares or max(shares.values()) - min(shares.values()) <= UNEVEN_CAPTIONS:
        return []
    listed = ", ".join(f"{t} {sum(described[t])} of {len(described[t])}" for t in shares)
    return [
        f"solo captions that describe hair or eyes: {listed}. Who is described keeps a hollow trigger;"
        " describe everybody, or better nobody"
    ]


def audit_prompts(prompts: Iterable[PromptConfig], cast: Mapping[str, CharacterLook]) -> list[str]:
    """Warnings about prompts that write what a trigger already means: written looks land on a neighbour."""
    warnings = []
    for prompt in prompts:
        text = prompt.text.lower()
        for who in prompt.cast:
            if said := [words for words in look_words(cast[who]) if words in text]:
                warnings.append(
                    f"prompt {prompt.name!r} writes {', '.join(repr(w) for w in said)}, the looks of {who}:"
                    " trigger and position alone keep characters apart"
                )
    return warnings


def audit_words(prompts: Iterable[PromptConfig], base: Path | None) -> list[str]:
    """Warnings about words of the prompts that the base's text conditioner cannot see; none without its tokenizer."""
    tokenizer = t5_tokenizer(base) if base else None
    if tokenizer is None:
        return []
    unseen = {p.name: unknown_words(read_prompt(f"{p.text} {p.negative}"), tokenizer) for p in prompts}
    return [
        f"prompt {name!r} has {', '.join(map(repr, words))}: T5 has no token for it, so it means what any unknown word"
        " means; write it in plain letters, in the captions too"
        for name, words in unseen.items()
        if words
    ]


def look_words(look: CharacterLook) -> list[str]:
    """A look as the tags a prompt would use."""
    words = [f"{look.hair} hair", look.style, f"{look.eyes} eyes", look.accessory or "", "ahoge" if look.ahoge else ""]
    return [w.lower() for w in words if w]


def group(captions: Iterable[tuple[tuple[str, ...], str]]) -> Groups:
    """Pictures per set of triggers."""
    return Counter(tuple(sorted(who)) for who, _ in captions)
