"""Draw the cast's dataset in the pocket world: solos, pairs and trios with captions that never describe hair or eyes.

The caption policy is the one that worked for real: trigger, head-count, shirt and background; where several stand
together only their positions are told. What is never written is what the trigger has to learn.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from anima.pocket.captions import Clause, positional_form, tags_form
from anima.pocket.cast import CAST, dressed
from anima.pocket.world import Scene, render, scene
from orchestrator.core.errors import DatasetError
from trainer.config import DrawnDataset

_MARK = ".complete"


def ensure_drawn_dataset(root: Path, config: DrawnDataset) -> None:
    """Write the dataset unless this very one is already there; an unfinished or different one is drawn anew.

    Raises DatasetError if `root` holds files that were not drawn by this function.
    """
    mark = root / _MARK
    wanted = config.model_dump_json()
    if mark.exists() and mark.read_text() == wanted:
        return
    aside = root.with_name(root.name + ".drawing")
    shutil.rmtree(aside, ignore_errors=True)
    if root.exists() and not mark.exists() and any(root.iterdir()):
        raise DatasetError("folder holds files that were not drawn here", where=str(root), fix="choose another root")
    aside.mkdir(parents=True)
    for name, picture, caption in _pictures(config):
        render(picture).image.save(aside / f"{name}.png")
        (aside / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")
    (aside / _MARK).write_text(wanted)
    shutil.rmtree(root, ignore_errors=True)
    aside.rename(root)


def _pictures(config: DrawnDataset) -> Iterator[tuple[str, Scene, str]]:
    """(file stem, scene, caption) of every picture, each a function of the seed and its own name."""
    groups = [*_groups(1, config.solo), *_groups(2, config.pair), *_groups(3, config.trio)]
    for names, number in groups:
        stem = f"{'-'.join(sorted(names))}-{number:03d}"
        rng = Random(f"{config.seed}/{stem}")
        order = list(names)
        rng.shuffle(order)
        figures = [dressed(CAST[name], rng) for name in order]
        picture = scene(figures, rng)
        clauses = [Clause(f, n, ("shirt",) if len(order) == 1 else ()) for n, f in zip(order, figures, strict=True)]
        form = tags_form if len(order) == 1 else positional_form
        yield stem, picture, form(clauses, picture, rng)


def _groups(size: int, count: int) -> Iterator[tuple[Sequence[str], int]]:
    for names in itertools.combinations(CAST, size):
        for number in range(1, count + 1):
            yield names, number
