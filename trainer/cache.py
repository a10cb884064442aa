"""Latents and conditionings of a dataset, computed once and kept on disk under the hash of what they were made from.

The key of a latent holds the picture's bytes, the target size and the base; the key of a conditioning the caption and
the base. Nothing is ever invalid: a changed input simply has another key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from anima.load import Base
from orchestrator.core.files import write_whole
from orchestrator.core.identity import digest
from trainer.dataset import Dataset

_TENSOR = "value"


@dataclass(frozen=True, slots=True)
class Cached:
    """The training data as tensors: `latents` (N, C, 1, h, w) fp32 in item order; one conditioning per caption."""

    latents: Tensor
    conditions: Mapping[str, Tensor]


def cache_dataset(dataset: Dataset, size: tuple[int, int], base: Base, base_sha256: str, folder: Path) -> Cached:
    """Encode what is not on disk yet, read the rest. `size` is (width, height) in pixels."""
    latents = []
    for item in dataset.items:
        key = digest({"picture": item.sha256, "size": list(size), "base": base_sha256}, length=32)

        def encode(file: str = item.file) -> Tensor:
            return base.codec.encode(read_pixels(dataset.root / file, size).unsqueeze(0))[0].cpu()

        latents.append(_once(folder / "latents" / f"{key}.safetensors", encode))
    conditions = {}
    for caption in sorted({"", *(item.caption for item in dataset.items)}):
        key = digest({"caption": caption, "base": base_sha256}, length=32)

        def condition(caption: str = caption) -> Tensor:
            return base.text.condition(caption).float().cpu()

        conditions[caption] = _once(folder / "text" / f"{key}.safetensors", condition)
    return Cached(torch.stack(latents), conditions)


def read_pixels(path: Path, size: tuple[int, int]) -> Tensor:
    """A picture as (3, H, W) in [-1, 1]: upright, alpha on white, resized to cover `size` and cropped to its centre."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        image = image.convert("RGB")
        if image.size != size:
            image = ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)
        array = np.asarray(image, dtype=np.float32)
    return torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1).contiguous()


def _once(path: Path, make: Callable[[], Tensor]) -> Tensor:
    if path.exists():
        try:
            return load_file(path)[_TENSOR]
        except (SafetensorError, KeyError):
            # A damaged cache entry is not worth stopping for: it is made again from its source.
            path.unlink()
    value = make().clone().contiguous()
    write_whole(path, save({_TENSOR: value}))
    return value
