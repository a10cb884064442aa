"""Forty steps of training on pocket Anima, and the losses they gave when they were last looked at.

`python -m tests.trainer.golden` writes `golden_losses.json` anew: after the base was trained again, or after a change
that is meant to change numbers. Any other difference is a defect.
"""

from __future__ import annotations

import json
import tempfile
from itertools import islice
from pathlib import Path

from anima.base import POCKET, base_sha256
from tests.trainer.pocket_trials import make_job
from trainer.config import DrawnDataset, TrainConfig
from trainer.drawn import ensure_drawn_dataset
from trainer.facts import StepLogged
from trainer.trial import run_trial

GOLDEN = Path(__file__).with_name("golden_losses.json")
STEPS = 40
TRAIN = TrainConfig(
    epochs=4,
    save_every=4,
    rank=8,
    learning_rate=2e-3,
    warmup_steps=4,
    batch=1,
    grad_accum=2,
    caption_dropout=0.1,
    shuffle_caption=True,
    tag_dropout=0.1,
    resolution=(96, 64),
    dtype="fp32",
    threads=1,
)
DRAWN = DrawnDataset(solo=6, pair=1, trio=2)


def losses(folder: Path) -> list[float]:
    """The losses of the forty steps."""
    ensure_drawn_dataset(folder / "dataset", DRAWN)
    facts = run_trial(make_job(folder / "study", folder / "dataset", TRAIN))
    return list(islice((fact.loss for fact in facts if isinstance(fact, StepLogged)), STEPS))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = losses(Path(folder))
    record = {"base_sha256": base_sha256(POCKET), "losses": [round(loss, 9) for loss in found]}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {len(found)} losses, from {found[0]:.4f} to {found[-1]:.4f}, to {GOLDEN}")
