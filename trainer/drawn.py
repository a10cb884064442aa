"""Draw the cast's dataset in the pocket world: solos, pairs and trios with captions that never describe hair or eyes.

The caption policy is the one that worked for real: trigger, head-count, shirt and background; where several stand
together only their positions are told. What is never written is what the trigger has to learn.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from random import Random

from anima.pocket.captions import Clause, positional_form, tags_form
from anima.pocket.cast import CAST, dressed
from anima.pocket.world import Scene, render, scene
from orchestrator.core.errors import DatasetError
from trainer.config import DrawnDataset

_MARK = ".complete"


def ensure_drawn_dataset(root: Path, config: DrawnDataset, cast: Collection[str] = tuple(CAST)) -> None:
    """Write the dataset unless this very one is already there; an unfinished or different one is drawn anew.

    Of the drawn world's characters those in `cast` are shown. Raises DatasetError if it names others, or if `root`
    holds files that were not drawn by this function.
    """
    if strangers := [name for name in cast if name not in CAST]:
        raise DatasetError(
            f"the drawn world has {', '.join(CAST)}, and nobody named {strangers[0]!r}",
            where="cast",
            fix="name one of them, or put pictures of your own into dataset.root and leave out dataset.drawn",
        )
    mark = root / _MARK
    names = [name for name in CAST if name in cast]
    wanted = config.model_dump_json() + ("" if len(names) == len(CAST) else f" of {', '.join(names)}")
    if mark.exists() and mark.read_text() == wanted:
        return
    aside = root.with_name(root.name + ".drawing")
    shutil.rmtree(aside, ignore_errors=True)
    if root.exists() and not mark.exists() and any(root.iterdir()):
        raise DatasetError("folder holds files that were not drawn here", where=str(root), fix="choose another root")
    aside.mkdir(parents=True)
    for name, picture, caption in _pictures(config, names):
        render(picture).image.save(aside / f"{name}.png")
        (aside / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")
    (aside / _MARK).write_text(wanted)
    shutil.rmtree(root, ignore_errors=True)
    aside.rename(root)


def _pictures(config: DrawnDataset, cast: Sequence[str]) -> Iterator[tuple[str, Scene, str]]:
    """(file stem, scene, caption) of every picture, each a function of the seed and its own name."""
    groups = [*_groups(cast, 1, config.solo), *_groups(cast, 2, config.pair), *_groups(cast, 3, config.trio)]
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


def _groups(cast: Sequence[str], size: int, count: int) -> Iterator[tuple[Sequence[str], int]]:
    for names in itertools.combinations(cast, size):
        for number in range(1, count + 1):
            yield names, number
