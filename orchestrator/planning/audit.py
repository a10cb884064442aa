"""What is cheap to see before training and costly to learn after it: uneven counts, uneven captions, leaking prompts.

An attribute that captions write binds to its own words; one that they never write is learned into the trigger. When one
character is described and the others are not, her trigger stays hollow and the others take her place.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from evaluators.config import PromptConfig

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
    described = _described(captions)
    shares = {t: sum(described[t]) / len(described[t]) for t in triggers if described[t]}
    if not shares or max(shares.values()) - min(shares.values()) <= UNEVEN_CAPTIONS:
        return []
    listed = ", ".join(f"{t} {sum(described[t])} of {len(described[t])}" for t in shares)
    return [
        f"solo captions that describe hair or eyes: {listed}. Who is described keeps a hollow trigger;"
        " describe everybody, or better nobody"
    ]


def described_characters(captions: Iterable[tuple[tuple[str, ...], str]]) -> frozenset[str]:
    """Whose solo captions describe hair or eyes more often than not: their triggers do not hold their looks."""
    return frozenset(who for who, said in _described(captions).items() if 2 * sum(said) > len(said))


def _described(captions: Iterable[tuple[tuple[str, ...], str]]) -> defaultdict[str, list[bool]]:
    described: defaultdict[str, list[bool]] = defaultdict(list)
    for who, text in captions:
        if len(who) == 1:
            described[who[0]].append(LOOK_WORDS.search(text) is not None)
    return described


def group(captions: Iterable[tuple[tuple[str, ...], str]]) -> Groups:
    """Pictures per set of triggers."""
    return Counter(tuple(sorted(who)) for who, _ in captions)
