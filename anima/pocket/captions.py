"""Captions for the drawn world, in the three forms people write: tags, sentences, and one clause per position.

A `Caster` decides who is named and what is said; the three `*_form` functions decide how it is put.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from anima.pocket.world import Figure, Scene

POSITIONS = {1: ("",), 2: ("left side", "right side"), 3: ("left side", "center", "right side")}
COUNT_TAG = {1: "1girl", 2: "2girls", 3: "3girls"}
COUNT_WORDS = {1: "a girl", 2: "two girls", 3: "three girls"}
_HAIRDO = {
    "short hair": "short {colour} hair",
    "long hair": "long {colour} hair",
    "side ponytail": "{colour} hair in a side ponytail",
    "twintails": "{colour} hair in twintails",
}
ATTRIBUTES = ("hair", "style", "eyes", "accessory", "ahoge", "shirt")


@dataclass(frozen=True, slots=True)
class Clause:
    """What a caption says of one figure: a name or None, and the attributes it mentions."""

    figure: Figure
    name: str | None = None
    said: tuple[str, ...] = ATTRIBUTES

    def tags(self) -> list[str]:
        """The name first, then one tag per mentioned attribute."""
        f = self.figure
        words = {
            "hair": f"{f.hair} hair",
            "style": f.style,
            "eyes": f"{f.eyes} eyes",
            "accessory": f"{f.accessory[1]} {f.accessory[0]}" if f.accessory else "",
            "ahoge": "ahoge" if f.ahoge else "",
            "shirt": f"{f.shirt} shirt",
        }
        return [t for t in (self.name or "", *(words[a] for a in self.said)) if t]

    def phrase(self) -> str:
        """The same as a noun phrase: `a girl named X with brown hair and blue eyes, wearing a red shirt`."""
        f, said = self.figure, self.said
        who = f"a girl named {self.name}" if self.name else "a girl"
        traits = []
        if "hair" in said and "style" in said:
            traits.append(_HAIRDO[f.style].format(colour=f.hair))
        elif "hair" in said:
            traits.append(f"{f.hair} hair")
        elif "style" in said:
            traits.append(f.style)
        if "eyes" in said:
            traits.append(f"{f.eyes} eyes")
        if "ahoge" in said and f.ahoge:
            traits.append("ahoge")
        wears = [f"{f.shirt} shirt"] if "shirt" in said else []
        if "accessory" in said and f.accessory:
            wears.append(f"{f.accessory[1]} {f.accessory[0]}")
        if traits:
            who += " with " + " and ".join(traits)
        if wears:
            who += " wearing " + " and ".join(wears)
        return who


def tags_form(clauses: Sequence[Clause], scene: Scene, rng: Random) -> str:
    """`kanachan, 1girl, solo, brown hair, ...`; with several figures each one's tags stand together, left to right."""
    count = len(clauses)
    parts = [COUNT_TAG[count]]
    if count == 1:
        tags = clauses[0].tags()
        named, rest = (tags[:1], tags[1:]) if clauses[0].name else ([], tags)
        rng.shuffle(rest)
        parts = [*named, *parts, "solo", *rest]
    else:
        for clause in clauses:
            parts += clause.tags()
    return ", ".join([*parts, *_setting(scene, rng)])


def sentence_form(clauses: Sequence[Clause], scene: Scene, rng: Random) -> str:
    """`two girls, a girl with ... and a girl with ..., white background`."""
    phrases = " and ".join(c.phrase() for c in clauses)
    head = phrases if len(clauses) == 1 else f"{COUNT_WORDS[len(clauses)]}, {phrases}"
    return ", ".join([head, *_setting(scene, rng)])


def positional_form(clauses: Sequence[Clause], scene: Scene, rng: Random) -> str:
    """`3girls, left side: ..., center: ..., right side: ..., white background`."""
    count = len(clauses)
    if count == 1:
        return tags_form(clauses, scene, rng)
    placed = [f"{where}: {', '.join(c.tags()) or 'a girl'}" for where, c in zip(POSITIONS[count], clauses, strict=True)]
    return ", ".join([COUNT_TAG[count], *placed, *_setting(scene, rng)])


FORMS: dict[str, Callable[[Sequence[Clause], Scene, Random], str]] = {
    "tags": tags_form,
    "sentence": sentence_form,
    "positional": positional_form,
}


def _setting(scene: Scene, rng: Random) -> list[str]:
    if len(scene.figures) == 1:
        stance: list[str] = []
    elif scene.touching:
        stance = ["hugging"]
    else:
        stance = ["side by side"] if rng.random() < 0.5 else []
    return [*stance, f"{scene.background} background"]


def mention(rng: Random, *, share: float = 0.85) -> tuple[str, ...]:
    """The attributes a caption happens to mention; each with probability `share`, in their usual order."""
    return tuple(a for a in ATTRIBUTES if rng.random() < share)


def full_caption(scene: Scene, form: str, rng: Random) -> str:
    """Everything there is to say about a scene of unnamed figures."""
    return FORMS[form]([Clause(f) for f in scene.figures], scene, rng)
