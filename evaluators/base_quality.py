"""How well a base of the drawn world follows captions it has never seen, read off its pictures by the pixel judge.

Every held-out caption describes each figure fully and names nobody. A trait is right when the judge surely reads what
the caption asked for at that place; in a picture with the wrong head-count every trait of every figure counts as wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch

from anima.draw import Request, draw
from anima.load import Base, load_base
from anima.pocket.captions import FORMS, full_caption
from anima.pocket.corpus import Corpus
from anima.pocket.pictures import to_image
from anima.pocket.world import HEIGHT, WIDTH, Figure
from evaluators.judges.reading import FigureReading, read
from orchestrator.core.study import Drawing

HELD_OUT_SEED = 900_001
"""Of the captions; the training corpus has another."""
TRAITS = ("hair", "style", "eyes", "ribbon", "scrunchie", "ahoge")
BATCH = 20


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares of right readings. `count` is over pictures, the traits are over asked-for figures."""

    captions: int
    figures: int
    drawing: Drawing
    count: float
    traits: Mapping[str, float]
    by_form: Mapping[str, float]
    """Share of pictures of each caption form with count, hair and style all right."""

    def to_json(self) -> str:
        """Readable JSON."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True, slots=True)
class Asked:
    """One held-out caption and who should stand there, from left to right."""

    caption: str
    form: str
    figures: tuple[Figure, ...]


def held_out(count: int, seed: int = HELD_OUT_SEED) -> list[Asked]:
    """`count` captions in turn of every form, about scenes of a corpus the base was not trained on."""
    corpus, forms = Corpus(seed), list(FORMS)
    asked = []
    for index in range(count):
        scene, form = corpus.item(index).scene, forms[index % len(forms)]
        asked.append(Asked(full_caption(scene, form, Random(f"{seed}/{index}")), form, scene.figures))
    return asked


def measure(base: Base, asked: Sequence[Asked], drawing: Drawing, *, folder: Path | None = None) -> Quality:
    """Draw every caption once and read the pictures; with `folder`, keep them there."""
    right, figures, whole, per_form = Counter[str](), 0, Counter[str](), Counter[str]()
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        padded = [*part, *([part[-1]] * (BATCH - len(part)))]
        requests = [Request(a.caption, start + i) for i, a in enumerate(padded)]
        pictures = [to_image(p) for p in draw(base, requests, drawing)[: len(part)]]
        for number, (a, picture) in enumerate(zip(part, pictures, strict=True), start):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                picture.save(folder / f"{number:04d}.png")
            seen = read(picture)
            hits = _hits(a.figures, seen)
            figures += len(a.figures)
            per_form[a.form] += 1
            right["count"] += len(seen) == len(a.figures)
            for trait in TRAITS:
                right[trait] += sum(trait in hit for hit in hits)
            whole[a.form] += len(hits) == len(a.figures) and all({"hair", "style"} <= hit for hit in hits)
    return Quality(
        len(asked),
        figures,
        drawing,
        round(right["count"] / len(asked), 4),
        {trait: round(right[trait] / figures, 4) for trait in TRAITS},
        {form: round(whole[form] / n, 4) for form, n in per_form.items()},
    )


def _hits(wanted: Sequence[Figure], seen: Sequence[FigureReading]) -> list[set[str]]:
    """For each figure the traits that are surely as asked for; empty when the head-count is wrong."""
    if len(wanted) != len(seen):
        return []
    hits = []
    for figure, reading in zip(wanted, seen, strict=True):
        kind, colour = figure.accessory or ("", "")
        expected = {
            "hair": figure.hair,
            "style": figure.style,
            "eyes": figure.eyes,
            "ribbon": colour if kind == "ribbon" else "none",
            "scrunchie": colour if kind == "scrunchie" else "none",
            "ahoge": "yes" if figure.ahoge else "none",
        }
        traits = {name: getattr(reading, name) for name in TRAITS}
        hits.append({name for name, trait in traits.items() if trait.sure and trait.value == expected[name]})
    return hits


def measure_base(folder: Path, captions: int, *, steps: int, cfg: float, threads: int, keep: Path | None) -> Quality:
    """Load a base and measure it on held-out captions."""
    if threads:
        torch.set_num_threads(threads)
    drawing = Drawing(steps=steps, cfg=cfg, width=WIDTH, height=HEIGHT)
    return measure(load_base(folder), held_out(captions), drawing, folder=keep)
