"""How far the pixel judge can be trusted: its readings against what was drawn, and its verdicts on known defects.

`python -m evaluators.judges.validate` prints the numbers; the tests hold them to their bounds.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from anima.pocket.cast import CAST, dressed
from anima.pocket.world import (
    ACCESSORY,
    EYES,
    HAIR,
    LOST_IN_HAIR,
    SHIRT,
    Figure,
    Place,
    Scene,
    random_figure,
    render,
    scene,
)
from evaluators.judges.casting import SLOTS, expected_value
from evaluators.judges.look import CharacterLook
from evaluators.judges.pixel import PixelJudge
from evaluators.judges.reading import read
from orchestrator.core.study import COUNTED_KINDS, FindingKind, Prompt

TRIO = tuple(CAST)
KANACHAN, KEICHAN, KOHARU = range(3)


def look_of(figure: Figure) -> CharacterLook:
    """How a figure of the drawn world is written in a study's YAML."""
    accessory = f"{figure.accessory[1]} {figure.accessory[0]}" if figure.accessory else None
    return CharacterLook(
        hair=figure.hair, style=figure.style, eyes=figure.eyes, accessory=accessory, ahoge=figure.ahoge
    )


def looks() -> dict[str, CharacterLook]:
    """The cast of the drawn world, as the judge wants it."""
    return {name: look_of(figure) for name, figure in CAST.items()}


def degrade(image: Image.Image, seed: int) -> Image.Image:
    """What a small diffusion model's decoder does, made worse: blur, noise, colour blotches of 8 pixels, JPEG."""
    rng = np.random.default_rng(seed)
    levels = gaussian_filter(np.asarray(image, dtype=np.float64), (0.6, 0.6, 0)) + rng.normal(0, 8, (64, 96, 3))
    levels += np.kron(rng.normal(0, 5, (8, 12, 3)), np.ones((8, 8, 1)))
    packed = io.BytesIO()
    Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(packed, "JPEG", quality=75)
    return Image.open(packed).convert("RGB")


def misplaced(drawn: Scene, rng: Random) -> Scene:
    """The same people up to 3 pixels off and up to 10 % larger or smaller than the world would draw them."""
    places = [
        Place(p.x + rng.uniform(-2, 2), p.y + rng.uniform(-2.5, 2.5), rng.uniform(0.9, 1.1)) for p in drawn.places
    ]
    return replace(drawn, places=tuple(places))


def passers_by(count: int, seed: int) -> Iterator[Scene]:
    """`count` scenes of one to three random people each."""
    for index in range(count):
        rng = Random(f"{seed}/passers-by/{index}")
        yield scene([random_figure(rng) for _ in range(1 + index % 3)], rng)


@dataclass(slots=True)
class Tally:
    """Readings against the truth. `confusions` counts (slot, drawn, read) of sure readings that are wrong."""

    pictures: int = 0
    miscounted: int = 0
    right: int = 0
    unsure: int = 0
    confusions: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    @property
    def attributes(self) -> int:
        """How many attributes there were to read."""
        return self.right + self.unsure + self.confusions.total()

    def __str__(self) -> str:
        worst = ", ".join(f"{s} {a} -> {b} x{n}" for (s, a, b), n in self.confusions.most_common(6))
        return (
            f"{self.pictures} pictures, {self.miscounted} miscounted; {self.attributes} attributes: "
            f"{self.right / max(self.attributes, 1):.2%} right, {self.unsure} unsure, "
            f"{self.confusions.total()} wrong{': ' + worst if worst else ''}"
        )


def tally_readings(scenes: Iterator[Scene], *, degraded: bool = False) -> Tally:
    """Read pictures of known scenes. Right is a sure reading of what was drawn; a wrong count has no attributes."""
    tally = Tally()
    for index, drawn in enumerate(scenes):
        image = render(drawn).image
        figures = read(degrade(image, index) if degraded else image)
        tally.pictures += 1
        if len(figures) != len(drawn.figures):
            tally.miscounted += 1
            continue
        for figure, truth in zip(figures, drawn.figures, strict=True):
            for slot in SLOTS:
                trait, value = getattr(figure, slot), expected_value(look_of(truth), slot)
                if not trait.sure:
                    tally.unsure += 1
                elif trait.value == value:
                    tally.right += 1
                else:
                    tally.confusions[slot, value, trait.value] += 1
    return tally


Defect = Callable[[list[Figure], Random], list[Figure]]
"""Takes the dressed trio from left to right and gives what was drawn instead."""


Changes = Mapping[int, Mapping[str, object]]
"""Place -> the fields of its figure that are drawn otherwise."""


def _changed(people: Sequence[Figure], changes: Changes) -> list[Figure]:
    return [replace(f, **changes.get(i, {})) for i, f in enumerate(people)]  # type: ignore[arg-type]


def _missing(people: list[Figure], rng: Random) -> list[Figure]:
    bare: list[Changes] = [{place: {"accessory": None}} for place in range(3)]
    return _changed(people, rng.choice([{KANACHAN: {"ahoge": False}}, *bare]))


def _absorbed(people: list[Figure], rng: Random) -> list[Figure]:
    place, other = rng.sample(range(3), 2)
    return [replace(people[other], shirt=f.shirt) if i == place else f for i, f in enumerate(people)]


def _migrated(people: list[Figure], rng: Random) -> list[Figure]:
    to = rng.choice([KEICHAN, KOHARU])
    ahoge: Changes = {KANACHAN: {"ahoge": False}, to: {"ahoge": True}}
    scrunchie: Changes = {KANACHAN: {"accessory": None}, to: {"accessory": people[KANACHAN].accessory}}
    style: Changes = {KANACHAN: {"style": people[to].style}, to: {"style": people[KANACHAN].style}}
    eyes: Changes = {KANACHAN: {"eyes": people[to].eyes}, to: {"eyes": people[KANACHAN].eyes}}
    return _changed(people, rng.choice([ahoge, scrunchie, style, eyes]))


def _duplicated(people: list[Figure], rng: Random) -> list[Figure]:
    to = rng.choice([KEICHAN, KOHARU])
    scrunchie = people[KANACHAN].accessory
    marks: list[Changes] = [{to: {"ahoge": True}}, {to: {"style": "side ponytail"}}, {to: {"accessory": scrunchie}}]
    return _changed(people, rng.choice(marks))


def _drift(people: list[Figure], rng: Random) -> list[Figure]:
    place, what = rng.randrange(3), rng.choice(["hair", "eyes", "accessory"])
    figure = people[place]
    if what == "accessory":
        kind, worn = figure.accessory or ("ribbon", "blue")
        possible = [c for c in ACCESSORY if c != worn and (figure.hair, c) not in LOST_IN_HAIR]
        return _changed(people, {place: {"accessory": (kind, rng.choice(possible))}})
    if what == "hair":
        return _changed(people, {place: {"hair": rng.choice([c for c in HAIR if c != figure.hair])}})
    return _changed(people, {place: {"eyes": rng.choice([c for c in EYES if c != figure.eyes])}})


def _count(people: list[Figure], rng: Random) -> list[Figure]:
    gone = rng.randrange(3)
    fewer = [f for i, f in enumerate(people) if i != gone]
    return rng.choice([fewer, [*people, rng.choice([*people, random_figure(rng)])]])


DEFECTS: dict[FindingKind, Defect] = dict(
    zip(COUNTED_KINDS, (_missing, _absorbed, _migrated, _duplicated, _drift, _count), strict=True)
)


def trio(rng: Random) -> list[Figure]:
    """The cast from left to right, each in a shirt by chance."""
    return [dressed(figure, rng) for figure in CAST.values()]


def staged(people: Sequence[Figure], rng: Random) -> Scene:
    """People side by side as the world does it; four stand closer so that they fit."""
    if len(people) <= 3:
        return scene(people, rng)
    places = tuple(Place(13.5 + 23 * i + rng.uniform(-0.5, 0.5), 25 + rng.uniform(-1, 1)) for i in range(len(people)))
    return Scene(tuple(people), places, rng.choice(["white", "blue", "grey"]), touching=True)


@dataclass(frozen=True, slots=True)
class Recall:
    """Of drawings with one kind of defect: how many failed, and how many with a finding of that kind."""

    drawings: int
    failed: int
    named: int


def recall(kind: FindingKind, drawings: int, *, degraded: bool = False) -> Recall:
    """Judge drawings of the trio with a known defect."""
    judge, failed, named = PixelJudge(looks()), 0, 0
    for index in range(drawings):
        rng = Random(f"defect/{kind}/{index}")
        image = render(staged(DEFECTS[kind](trio(rng), rng), rng)).image
        verdict = judge.judge(degrade(image, index) if degraded else image, Prompt("trio", "", TRIO), str(index))
        failed += verdict.outcome == "fail"
        named += kind in {finding.kind for finding in verdict.findings}
    return Recall(drawings, failed, named)


def outcomes(names: Sequence[str], drawings: int, *, cast: bool = True, degraded: bool = False) -> Counter[str]:
    """Verdicts on faultless drawings of `names`, or, without `cast`, of as many strangers in their places."""
    judge, counted = PixelJudge(looks()), Counter[str]()
    for index in range(drawings):
        rng = Random(f"outcomes/{names}/{index}")
        people = [dressed(CAST[n], rng) for n in names] if cast else [_stranger(rng) for _ in names]
        image = render(scene(people, rng)).image
        verdict = judge.judge(degrade(image, index) if degraded else image, Prompt("p", "", tuple(names)), str(index))
        counted[verdict.outcome] += 1
    return counted


def _stranger(rng: Random) -> Figure:
    while True:
        figure = random_figure(rng)
        if not any(replace(figure, shirt=c.shirt) == c for c in CAST.values()):
            return replace(figure, shirt=rng.choice(list(SHIRT)))


def main() -> None:
    """Print every number."""
    print("clean      ", tally_readings(passers_by(500, seed=1)))
    print("misplaced  ", tally_readings(misplaced(s, Random(i)) for i, s in enumerate(passers_by(300, seed=2))))
    print("degraded   ", tally_readings(passers_by(300, seed=3), degraded=True))
    for degraded in (False, True):
        label = "degraded" if degraded else "clean"
        for names in (TRIO, TRIO[:2], TRIO[1:], TRIO[:1], TRIO[1:2], TRIO[2:]):
            print(f"{label} cast of {', '.join(names)}:", dict(outcomes(names, 100, degraded=degraded)))
        print(f"{label} strangers:", dict(outcomes(TRIO, 100, cast=False, degraded=degraded)))
        for kind in COUNTED_KINDS:
            print(f"{label} {kind}:", recall(kind, 40, degraded=degraded))


if __name__ == "__main__":
    main()
