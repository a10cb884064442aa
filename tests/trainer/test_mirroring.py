"""The side of a mark is learnt as the pictures show it, on the real miniature and against what its base is used to.

In the drawn world every side ponytail hangs on the viewer's left; the pictures here are its mirror images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from anima.adapter_files import read_adapter
from anima.base import POCKET, base_sha256
from anima.draw import Request, draw
from anima.load import load_base
from anima.lora import Merger
from anima.pocket.world import HAIR
from orchestrator.core.layout import Layout
from orchestrator.core.study import Drawing
from tests.trainer.small_datasets import read
from trainer.cache import LatentCache, View, identities
from trainer.config import DatasetConfig, DrawnDataset, TrainConfig
from trainer.drawn import ensure_drawn_dataset
from trainer.facts import CheckpointSaved
from trainer.trial import TrialJob, run_trial

TRAIN = TrainConfig(
    epochs=10, save_every=10, rank=16, learning_rate=6e-3, batch=8, grad_accum=1, resolution=(96, 64), dtype="fp32",
    threads=1,
)  # fmt: skip


def test_a_mark_is_drawn_on_the_side_where_the_pictures_have_it(tmp_path: Path) -> None:
    root, layout, base = tmp_path / "pictures", Layout(tmp_path / "study"), load_base(POCKET)
    ensure_drawn_dataset(root, DrawnDataset(solo=12, pair=0, trio=0))
    for file in sorted(root.glob("*.*")):
        if not file.name.startswith("kanachan"):
            file.unlink()
        elif file.suffix == ".png":
            mirrored = ImageOps.mirror(Image.open(file))
            mirrored.save(file)
    # Another trial of the same study has mirrored: its entries lie in the same cache.
    known = identities(POCKET, base_sha256(POCKET))
    cache = LatentCache(layout.cache, base, known.vae, root)
    cache.prepare(View(item, (96, 64), flip) for item in read(root).items for flip in (True, False))
    job = TrialJob(
        trial="main",
        study_root=str(layout.root),
        base="pocket",
        base_sha256=base_sha256(POCKET),
        dataset_root=str(root),
        dataset=DatasetConfig(repeats=2),
        train=TRAIN,
        triggers=("kanachan",),
    )
    (saved,) = [fact.checkpoint for fact in run_trial(job) if isinstance(fact, CheckpointSaved)]
    Merger(base.transformer).merge(read_adapter(layout.resolve(saved.adapter)).state)
    prompts = [Request("kanachan, 1girl, solo, white background", seed) for seed in range(6)]
    with torch.inference_mode():
        pictures = draw(base, prompts, Drawing("er_sde", 8, 1.0, 3.0, 96, 64))
    sides = [brown_on_each_side(picture) for picture in pictures]
    assert sum(right > 2 * left for left, right in sides) >= 5, sides


def brown_on_each_side(picture: torch.Tensor) -> tuple[int, int]:
    """Pixels of brown hair left and right of the head, which stands in the middle."""
    pixels = (picture.permute(1, 2, 0).numpy() + 1) * 127.5
    brown = np.abs(pixels - np.array(HAIR["brown"])).sum(axis=-1) < 90
    return int(brown[:, :40].sum()), int(brown[:, 56:].sum())
