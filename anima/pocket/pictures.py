"""Pictures of a corpus as tensors, drawn once by a few processes and kept in memory."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anima.pocket.corpus import Corpus
from anima.pocket.world import render


def to_image(pixels: Tensor) -> Image.Image:
    """Float (3, H, W) in [-1, 1] as an RGB picture."""
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


class Album:
    """The first `count` pictures of a corpus: uint8 (N, H, W, 3) and their detail masks, uint8 (N, H, W)."""

    def __init__(self, seed: int, count: int, *, workers: int = 2) -> None:
        chunks = [(seed, range(start, min(start + 500, count))) for start in range(0, count, 500)]
        with ProcessPoolExecutor(workers) as pool:
            parts = list(pool.map(_draw, chunks))
        self._pictures = torch.from_numpy(np.concatenate([p for p, _ in parts]))
        self._details = torch.from_numpy(np.concatenate([d for _, d in parts]))

    def __len__(self) -> int:
        return len(self._pictures)

    def pixels(self, rows: Tensor) -> Tensor:
        """Float32 (B, 3, H, W) in [-1, 1]."""
        return self._pictures[rows].permute(0, 3, 1, 2).float() / 127.5 - 1

    def detail(self, rows: Tensor) -> Tensor:
        """Float32 (B, H, W) in [0, 1]: how much of a pixel is a small coloured mark."""
        return self._details[rows].float() / 255


def _draw(chunk: tuple[int, range]) -> tuple[np.ndarray, np.ndarray]:
    seed, indices = chunk
    corpus = Corpus(seed)
    drawings = [render(corpus.item(i).scene) for i in indices]
    pictures = np.stack([np.asarray(d.image) for d in drawings])
    details = np.stack([(d.detail * 255).astype(np.uint8) for d in drawings])
    return pictures, details
