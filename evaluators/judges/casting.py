"""Compare who was read with who was asked for, and name what went wrong. Pure: readings in, findings out.

Figures and characters meet place by place, from left to right. What differs surely is then explained by where it went:
to a neighbour (migrated), onto one as well (duplicated), into another colour (drift), nowhere (missing); a place that
shows another of the cast is one finding (absorbed), and another number of people is one (count).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from evaluators.judges.look import CharacterLook
from evaluators.judges.reading import NONE, YES, FigureReading
from orchestrator.core.study import Finding, FindingKind

SLOTS = ("hair", "style", "eyes", "ribbon", "scrunchie", "ahoge")
"""What is compared: fields of a FigureReading."""
WORN = ("ribbon", "scrunchie")
TIED = ("side ponytail", "twintails")
"""Styles that are a mark of their own; loose hair is what is left when such a mark is lost."""
WEIGHT = {"hair": 2.0, "style": 2.0}
IDENTITY = "identity"


def expected_value(look: CharacterLook, slot: str) -> str:
    """What a slot should read for this character."""
    if slot in WORN:
        return look.wears(slot)
    if slot == "ahoge":
        return YES if look.ahoge else NONE
    return str(getattr(look, slot))


def differs(figure: FigureReading, slot: str, expected: str) -> bool:
    """Whether a slot surely reads something else: sure of a value, or torn between two of which neither is expected."""
    trait = getattr(figure, slot)
    if trait.value == expected:
        return False
    return trait.sure or (slot in ("hair", "eyes") and bool(trait.runner_up) and trait.runner_up != expected)


def distance(figure: FigureReading, look: CharacterLook) -> float:
    """How much of a figure is not this character; hair colour and style count double."""
    return sum(WEIGHT.get(slot, 1.0) for slot in SLOTS if differs(figure, slot, expected_value(look, slot)))


def shows_identity(figure: FigureReading, look: CharacterLook) -> bool:
    """Whether hair colour and style are surely this character's."""
    hair, style = figure.hair, figure.style
    return hair.sure and style.sure and (hair.value, style.value) == (look.hair, look.style)


def findings_of(
    figures: Sequence[FigureReading], names: Sequence[str], cast: Mapping[str, CharacterLook]
) -> tuple[Finding, ...]:
    """What speaks against a picture of `names` from left to right; `cast` holds these and all who could leak in."""
    if len(figures) != len(names):
        return tuple(_wrong_count(figures, names, cast))
    return tuple(_Comparison.of(figures, names, cast).findings())


def seated(
    figures: Sequence[FigureReading], names: Sequence[str], cast: Mapping[str, CharacterLook]
) -> tuple[str, ...]:
    """The names from left to right as the figures suggest them, where nobody has a place of her own."""
    if len(figures) != len(names):
        return tuple(names)
    cost = np.array([[distance(figure, cast[name]) for name in names] for figure in figures])
    return tuple(names[int(name)] for name in linear_sum_assignment(cost)[1])


def _wrong_count(
    figures: Sequence[FigureReading], names: Sequence[str], cast: Mapping[str, CharacterLook]
) -> list[Finding]:
    """The count, who is nowhere to be seen, and who is there more than once."""
    found = [Finding("count", expected=str(len(names)), seen=str(len(figures)))]
    cost = np.array([[distance(f, cast[n]) + 10 * (not shows_identity(f, cast[n])) for n in names] for f in figures])
    pairs = zip(*linear_sum_assignment(cost), strict=True) if figures else ()
    placed = {int(f): names[int(n)] for f, n in pairs if cost[f, n] < 10}
    for name in names:
        if name not in placed.values():
            found.append(Finding("missing", name, IDENTITY, identity_words(cast[name])))
    for place, figure in enumerate(figures):
        twin = next((n for n in names if place not in placed and shows_identity(figure, cast[n])), "")
        if twin:
            look = identity_words(cast[twin])
            found.append(Finding("duplicated", twin, IDENTITY, look, look, "an extra person", place))
    return found


def identity_words(look: CharacterLook) -> str:
    """Hair colour and style, like `brown hair, side ponytail`."""
    return f"{look.hair} hair, {look.style}"


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Figures and characters, place by place. `wrong` maps (place, slot) to what is surely seen there instead."""

    figures: Sequence[FigureReading]
    names: Sequence[str]
    cast: Mapping[str, CharacterLook]
    wrong: Mapping[tuple[int, str], str]

    @classmethod
    def of(
        cls, figures: Sequence[FigureReading], names: Sequence[str], cast: Mapping[str, CharacterLook]
    ) -> _Comparison:
        wrong = {
            (place, slot): str(getattr(figure, slot).value)
            for place, figure in enumerate(figures)
            for slot in SLOTS
            if differs(figure, slot, expected_value(cast[names[place]], slot))
        }
        return cls(figures, names, cast, wrong)

    def findings(self) -> list[Finding]:
        absorbed = {place: other for place in range(len(self.names)) if (other := self._absorbed_by(place))}
        found = [self._absorbed(place, other) for place, other in absorbed.items()]
        places = [place for place in range(len(self.names)) if place not in absorbed]
        moved = self._moves(places)
        for place in places:
            for slot in SLOTS:
                if (place, slot) in moved:
                    found.append(self._finding("migrated", place, slot, other=self.names[moved[place, slot]]))
                elif (place, slot) in self.wrong and not self._arrived(place, slot, moved):
                    found.append(self._stayed(place, slot))
        return found

    def _expected(self, place: int, slot: str) -> str:
        return expected_value(self.cast[self.names[place]], slot)

    def _absorbed_by(self, place: int) -> str:
        """Which other character this place shows, or nobody: her hair colour and style, and nearer to her in all."""
        figure, own = self.figures[place], self.cast[self.names[place]]
        if shows_identity(figure, own):
            return ""
        nearest = min(self.cast, key=lambda name: distance(figure, self.cast[name]))
        is_hers = shows_identity(figure, self.cast[nearest])
        return nearest if is_hers and distance(figure, self.cast[nearest]) < distance(figure, own) else ""

    def _absorbed(self, place: int, seen: str) -> Finding:
        figure, name = self.figures[place], self.names[place]
        elsewhere = [i for i, f in enumerate(self.figures) if i != place and shows_identity(f, self.cast[name])]
        other = self.names[elsewhere[0]] if elsewhere else ""
        confidence = min(figure.hair.confidence, figure.style.confidence)
        return Finding("absorbed", name, IDENTITY, identity_words(self.cast[name]), seen, other, place, confidence)

    def _moves(self, places: Sequence[int]) -> dict[tuple[int, str], int]:
        """Which lost attributes (place, slot) now sit at which other place; no arrival is counted twice."""
        moved: dict[tuple[int, str], int] = {}
        lost = [(p, s) for p, s in self.wrong if p in places and self._expected(p, s) != NONE]
        for alike in (True, False):
            for place, slot in lost:
                for other in range(len(self.names)):
                    taken = other in [to for (_, s), to in moved.items() if s == slot]
                    if other == place or (place, slot) in moved or taken:
                        continue
                    if self._took(place, other, slot, alike=alike):
                        moved[place, slot] = other
        return moved

    def _took(self, place: int, other: int, slot: str, *, alike: bool) -> bool:
        """Whether `other` shows what `place` lost; an accessory may change its colour on the way (not `alike`)."""
        arrived = self.wrong.get((other, slot), NONE)
        if alike:
            return arrived == self._expected(place, slot)
        gone = self.wrong[place, slot] == NONE and self._expected(other, slot) == NONE
        return slot in WORN and gone and arrived != NONE

    def _arrived(self, place: int, slot: str, moved: Mapping[tuple[int, str], int]) -> bool:
        """Whether what is seen too much here has been told already, as something another character lost."""
        extra = self._expected(place, slot) == NONE
        return extra and any(to == place and s == slot for (_, s), to in moved.items())

    def _stayed(self, place: int, slot: str) -> Finding:
        """A difference that is not another's loss."""
        expected, seen = self._expected(place, slot), self.wrong[place, slot]
        owner = self._owner(place, slot, seen)
        is_mark = expected == NONE or (slot == "style" and seen in TIED)
        if is_mark and owner:
            still_hers = owner in self.names and (self.names.index(owner), slot) not in self.wrong
            return self._leak("duplicated" if still_hers else "migrated", owner, place, slot)
        if seen == NONE or slot == "style":
            return self._finding("missing", place, slot)
        return self._finding("drift", place, slot)

    def _owner(self, place: int, slot: str, seen: str) -> str:
        """Who of the cast is known by what is seen here, those in the picture first; else by the kind of accessory."""
        others = [n for n in (*self.names, *self.cast) if n != self.names[place]]
        same = [n for n in others if expected_value(self.cast[n], slot) == seen]
        kind = [n for n in others if slot in WORN and expected_value(self.cast[n], slot) != NONE]
        return (same + kind + [""])[0]

    def _finding(self, kind: FindingKind, place: int, slot: str, other: str = "") -> Finding:
        trait = getattr(self.figures[place], slot)
        expected, seen = say(slot, self._expected(place, slot)), say(slot, self.wrong[place, slot])
        return Finding(kind, self.names[place], attribute_of(slot), expected, seen, other, place, trait.confidence)

    def _leak(self, kind: FindingKind, owner: str, place: int, slot: str) -> Finding:
        trait = getattr(self.figures[place], slot)
        expected = say(slot, expected_value(self.cast[owner], slot))
        seen, on = say(slot, self.wrong[place, slot]), self.names[place]
        return Finding(kind, owner, attribute_of(slot), expected, seen, on, place, trait.confidence)


def attribute_of(slot: str) -> str:
    """What findings call a slot: both kinds of accessory are one."""
    return "accessory" if slot in WORN else slot


def say(slot: str, value: str) -> str:
    """A value in words, like `blue ribbon`; empty where there is nothing."""
    if value == NONE:
        return ""
    return f"{value} {slot}" if slot in WORN else value
