"""Pictures as W&B tables: one that grows by increments, so that nothing is sent twice, and whole ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.tracking.messages import Picture, Pictures
from orchestrator.tracking.told import Told
from trainer.sampled import Sampled

if TYPE_CHECKING:
    import wandb

TABLE = "pictures"
THUMBNAIL = 512
"""Longest side, in pixels, of a picture in a table."""
VISIBLE = 100
"""Increments of a table that W&B's workspace shows: earlier ones are kept there, but need not be listed again."""


def add_pictures(run: wandb.Run, told: Told, message: Pictures) -> None:
    """Send new rows alone, as the next increment of the run's table.

    Which increments there are is remembered beside the run: the client itself would begin at 0 in every segment.
    """
    table = picture_table(message.pictures, incremental=True)
    number, before = json.loads(str(told.marks.get(f"table {TABLE}", "[0, []]")))
    table._increment_num, table._previous_increments_paths = number, list(before)
    run.log({TABLE: table, "epoch": max(p.epoch for p in message.pictures)})
    here = table._get_artifact_entry_ref_url()
    told.add(f"table {TABLE}", json.dumps([number + 1, [*before, here][-VISIBLE:]]))


def picture_table(pictures: Iterable[Picture], *, incremental: bool = False) -> wandb.Table:
    """The pictures with what is said of them, a row each."""
    import wandb

    described = [name for name in Picture.__slots__ if name not in ("image", "group" if incremental else "")]
    table = wandb.Table(columns=["image", *described], log_mode="INCREMENTAL" if incremental else "IMMUTABLE")
    for picture in pictures:
        table.add_data(_image(picture.image), *(getattr(picture, name) for name in described))
    return table


def samples_by_prompt(samples: Iterable[Sampled]) -> dict[str, list[wandb.Image]]:
    """Values of a row: the pictures of each prompt, those of its seeds side by side."""
    values: dict[str, list[wandb.Image]] = {}
    for one in samples:
        image = _image(one.path, f"seed {one.seed}: {one.prompt}")
        if image is not None:
            values.setdefault(f"samples/{one.slug}", []).append(image)
    return values


def chart(content: bytes) -> wandb.Image:
    """A chart as it is in the report."""
    import wandb
    from PIL import Image

    with Image.open(BytesIO(content)) as opened:
        return wandb.Image(opened.convert("RGB"), file_type="png")


def _image(path: Path, caption: str | None = None) -> wandb.Image | None:
    """The picture, large ones as a smaller JPEG; None where its file is gone."""
    import wandb
    from PIL import Image

    if not path.is_file():
        return None
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    as_is = max(picture.size) <= THUMBNAIL
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return wandb.Image(picture, file_type="png" if as_is else "jpg", caption=caption)
