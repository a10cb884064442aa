"""What the base model is trained on: scenes of passers-by and known characters, and freshly worded captions for them.

Item `i` of a corpus is a pure function of (seed, i), and its wording of (seed, i, round): the corpus is never stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from anima.pocket.captions import ATTRIBUTES, FORMS, Clause, mention
from anima.pocket.cast import CAST, dressed, invent_name, known_characters, same_identity
from anima.pocket.world import Figure, Scene, random_figure, scene

COUNT_SHARES = ((1, 0.34), (2, 0.30), (3, 0.36))
KNOWN_SHARE = 0.45
MEANINGLESS_NAME_SHARE = 0.25
EMPTY_CAPTION_SHARE = 0.08


@dataclass(frozen=True, slots=True)
class Item:
    """A scene and, for each figure, the name the base shall know her by (None for a passer-by)."""

    scene: Scene
    names: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Wording:
    """A caption and what it says of each figure; the empty caption says nothing of anyone."""

    caption: str
    clauses: tuple[Clause, ...]


class Corpus:
    """An endless, repeatable album of the drawn world without the cast."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._known = known_characters()

    def item(self, index: int) -> Item:
        """The `index`-th picture of the album."""
        rng = Random(f"{self._seed}/scene/{index}")
        count = rng.choices([c for c, _ in COUNT_SHARES], [s for _, s in COUNT_SHARES])[0]
        people: list[tuple[str | None, Figure]] = []
        for _ in range(count):
            if rng.random() < KNOWN_SHARE:
                name = rng.choice(list(self._known))
                people.append((name, dressed(self._known[name], rng)))
            else:
                people.append((None, _passer_by(rng)))
        return Item(scene([f for _, f in people], rng), tuple(n for n, _ in people))

    def wording(self, index: int, round: int) -> Wording:
        """One way to word picture `index`: known names often stand for their looks, unknown ones never do."""
        rng = Random(f"{self._seed}/caption/{index}/{round}")
        if rng.random() < EMPTY_CAPTION_SHARE:
            return Wording("", ())
        item = self.item(index)
        clauses = []
        for figure, name in zip(item.scene.figures, item.names, strict=True):
            if name is not None and rng.random() < 0.7:
                said = mention(rng, share=0.25) if rng.random() < 0.4 else ("shirt",) if rng.random() < 0.6 else ()
                clauses.append(Clause(figure, name, said))
            elif rng.random() < MEANINGLESS_NAME_SHARE:
                clauses.append(Clause(figure, invent_name(rng), mention(rng)))
            else:
                clauses.append(Clause(figure, None, ATTRIBUTES if rng.random() < 0.5 else mention(rng)))
        form = rng.choices(list(FORMS), [0.3, 0.25, 0.45])[0]
        return Wording(FORMS[form](clauses, item.scene, rng), tuple(clauses))

    def caption(self, index: int, round: int) -> str:
        """The text of `wording`."""
        return self.wording(index, round).caption

    def knows(self, name: str | None) -> bool:
        """Whether a name alone tells someone's looks."""
        return name in self._known


def _passer_by(rng: Random) -> Figure:
    while True:
        figure = random_figure(rng)
        if not any(same_identity(figure, known) for known in CAST.values()):
            return figure
