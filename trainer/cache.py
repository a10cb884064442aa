"""Latents and conditionings of a dataset, computed once and kept in the study's folder, whoever trains there.

The key of an entry holds everything it was made from: for a latent the picture's bytes, the size, whether it is
mirrored and the VAE; for a conditioning the caption and the text encoder. Nothing is ever invalid: what changed has
another key. An interrupted run loses nothing that was written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anima.base import content_sha256
from anima.load import Base
from orchestrator.core.errors import DatasetError
from orchestrator.core.identity import digest, folder_sha256
from trainer.buckets import Size
from trainer.dataset import Item
from trainer.memory import visiting
from trainer.pictures import decode, training_view
from trainer.tensor_files import TensorFiles

NUMERICS = 1
"""Raised whenever the same input would be encoded to other numbers on the same device."""
MEMORY_BYTES = 4 * 2**30
"""How much of the latents is kept in memory, and how much of the conditionings."""
GPU_BATCH = 8
"""Pictures encoded together on a GPU: always so many, for the numbers depend a little on the shape of a batch. A CPU is
no faster with several, and takes one."""
_TEXT_PARTS = ("text_encoder", "text_conditioner", "tokenizer", "t5_tokenizer")


@dataclass(frozen=True, slots=True)
class Identities:
    """Who made the entries: part of every key, and of every training state."""

    vae: str
    text: str


@dataclass(frozen=True, slots=True)
class View:
    """One way a picture is trained on: its size, mirrored or not."""

    item: Item
    size: Size
    flip: bool


def identities(base: Path, base_sha256: str) -> Identities:
    """By content of the parts concerned, so that another transformer finds the same entries."""
    if not all((base / part).is_dir() for part in ("vae", *_TEXT_PARTS)):
        return Identities(base_sha256, base_sha256)
    text = {part: folder_sha256(base / part, file_hash=content_sha256) for part in _TEXT_PARTS}
    return Identities(folder_sha256(base / "vae", file_hash=content_sha256), digest(text, length=64))


class LatentCache:
    """Latents (C, 1, h, w), fp32, of pictures."""

    def __init__(self, folder: Path, base: Base, vae: str, root: Path) -> None:
        self._files = TensorFiles(folder / "latents", memory_bytes=MEMORY_BYTES)
        self._base, self._vae, self._root = base, vae, root
        self._batch = 1 if base.device.type == "cpu" else GPU_BATCH

    def prepare(self, views: Iterable[View]) -> None:
        """Encode what is not on disk. Raises DatasetError for a picture that changed since it was looked at."""
        missing = sorted((v for v in views if self._key(v) not in self._files), key=lambda v: (v.size, v.item.file))
        for _, same_size in groupby(missing, key=lambda v: v.size):
            alike = list(same_size)
            with visiting(self._base.device, [self._base.codec.vae]):
                for start in range(0, len(alike), self._batch):
                    self._encode(alike[start : start + self._batch])

    def get(self, views: Sequence[View]) -> Tensor:
        """(B, C, 1, h, w) of views of one size."""
        return torch.stack([self._one(view) for view in views])

    def _one(self, view: View) -> Tensor:
        value = self._files.get(self._key(view))
        if value is None:
            self.prepare([view])
            value = self._files.get(self._key(view))
        assert value is not None
        return value

    def _key(self, view: View) -> str:
        facts = {
            "picture": view.item.sha256,
            "size": list(view.size),
            "flip": view.flip,
            "vae": self._vae,
            "dtype": str(self._base.dtype),
            "numerics": NUMERICS,
        }
        return digest(facts, length=32)

    def _encode(self, views: Sequence[View]) -> None:
        pixels = torch.stack([self._pixels(view) for view in views])
        filled = torch.cat([pixels, pixels[:1].expand(self._batch - len(views), -1, -1, -1)])
        for view, latent in zip(views, self._base.codec.encode(filled), strict=False):
            self._files.put(self._key(view), latent)

    def _pixels(self, view: View) -> Tensor:
        """(3, H, W) in [-1, 1]."""
        path = self._root / view.item.file
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != view.item.sha256:
            raise DatasetError("picture changed while it was being read", where=str(path), fix="start again")
        image = training_view(decode(content), view.size, flip=view.flip)
        array = np.asarray(image, dtype=np.float32)
        return torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1).contiguous()


@dataclass(frozen=True, slots=True)
class Encoder:
    """How captions become tensors (rows, dim): a function, the modules it runs, and where it runs them."""

    encode: Callable[[str], Tensor]
    modules: tuple[nn.Module, ...]
    device: torch.device


class TextCache:
    """What an encoder makes of captions, in its own numbers. `kind` and `identity` say which encoder and output.

    Captions are encoded one by one, as drawing does: the numbers must not depend on company.
    """

    def __init__(self, folder: Path, kind: str, identity: str, encoder: Encoder) -> None:
        self._files = TensorFiles(folder / "text", memory_bytes=MEMORY_BYTES)
        self._kind, self._identity, self._encoder = kind, identity, encoder
        self._passing: dict[str, tuple[Tensor, int]] = {}

    def prepare(self, captions: Iterable[str]) -> None:
        """Encode what is not on disk."""
        missing = [c for c in sorted(set(captions)) if self._key(c) not in self._files]
        for caption, value in self._encoded(missing):
            self._files.put(self._key(caption), value)

    def expect(self, captions: Iterable[str]) -> None:
        """Encode captions that will be asked for before the next call, and will hardly ever come again."""
        missing = [c for c in sorted(set(captions)) if self._key(c) not in self._files]
        # The zero rows below a conditioning are most of it.
        self._passing = {c: (_without_zero_rows(value.cpu()), len(value)) for c, value in self._encoded(missing)}

    def get(self, caption: str) -> Tensor:
        """(rows, dim), on the CPU. What was neither prepared nor expected is encoded and not kept."""
        if caption in self._passing:
            value, rows = self._passing[caption]
            return nn.functional.pad(value, (0, 0, 0, rows - len(value)))
        kept = self._files.get(self._key(caption))
        if kept is not None:
            return kept
        ((_, value),) = self._encoded([caption])
        return value.cpu()

    def _encoded(self, captions: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        if captions:
            with visiting(self._encoder.device, self._encoder.modules):
                for caption in captions:
                    yield caption, self._encoder.encode(caption)

    def _key(self, caption: str) -> str:
        facts: Mapping[str, object] = {
            "caption": caption,
            "kind": self._kind,
            "text": self._identity,
            "numerics": NUMERICS,
        }
        return digest(facts, length=32)


def _without_zero_rows(value: Tensor) -> Tensor:
    used = value.abs().amax(dim=1).nonzero()
    return value[: int(used[-1]) + 1 if len(used) else 0].clone()
