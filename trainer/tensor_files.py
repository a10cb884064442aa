"""Tensors on disk by key: written whole, verified when they are read, the latest used kept in memory."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from orchestrator.core.files import write_whole

log = logging.getLogger(__name__)

_TENSOR = "value"
_ABOUT = "about"


class TensorFiles:
    """One file per key. An entry that does not bear out its own checksum and key is as if it were not there."""

    def __init__(self, folder: Path, *, memory_bytes: int) -> None:
        self._folder, self._memory_bytes = folder, memory_bytes
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self.held_bytes = 0
        """Bytes in memory now."""

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def get(self, key: str) -> Tensor | None:
        """The tensor of `key`, on the CPU. Not to be written into."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value = self._read(key)
        if value is not None:
            self._keep(key, value)
        return value

    def put(self, key: str, value: Tensor) -> None:
        """Write a tensor for good, whatever its device."""
        value = value.detach().cpu().clone().contiguous()
        write_whole(self._path(key), save({_TENSOR: value}, {_ABOUT: _about(key, value)}))
        self._keep(key, value)

    def _path(self, key: str) -> Path:
        # Two levels: some file systems are slow with many files in one folder.
        return self._folder / key[:2] / f"{key}.safetensors"

    def _read(self, key: str) -> Tensor | None:
        path = self._path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about, value = file.metadata() or {}, file.get_tensor(_TENSOR)
        except (SafetensorError, OSError) as error:
            log.warning("cache entry unusable, made again | %s | %s", path, error)
            return None
        if about.get(_ABOUT) != _about(key, value):
            log.warning("cache entry damaged, made again | %s", path)
            return None
        return value

    def _keep(self, key: str, value: Tensor) -> None:
        if key not in self._kept:
            self.held_bytes += value.nbytes
        self._kept[key] = value
        while self.held_bytes > self._memory_bytes and len(self._kept) > 1:
            self.held_bytes -= self._kept.popitem(last=False)[1].nbytes


def _about(key: str, value: Tensor) -> str:
    """Key and checksum as one text: the library writes several in a different order each time."""
    content = hashlib.sha256(value.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
    return f"{key} {value.dtype} {tuple(value.shape)} {content}"
