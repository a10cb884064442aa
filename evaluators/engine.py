"""Draw cells: the base stays loaded, an adapter is merged in place, seeds are drawn in batches of one fixed shape.

A cell's noise comes from its seed alone and every batch is padded to the same size, so on one kind of device a cell is
the same file whoever draws it, in whatever company. Each picture is written aside and renamed, its sidecar first: a
picture that exists can always be explained and redrawn.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anima.adapter_files import read_adapter
from anima.base import base_folder
from anima.draw import Request, draw
from anima.flow import schedule_sigmas
from anima.load import load_base
from anima.lora import Merger
from anima.png import parameters_text, png_bytes
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.core.study import ENGINE_NUMERICS, Cell, Sample


@dataclass(frozen=True, slots=True)
class _Merged:
    """What is in the weights now."""

    sha256: str
    weight: float


class Engine:
    """One device with the base on it. `batch` is the fixed number of pictures per forward pass."""

    def __init__(self, base: str, study_root: str, *, threads: int = 0, batch: int = 8) -> None:
        if threads:
            torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self._base = load_base(base_folder(base), device=device, dtype=dtype)
        self._merger = Merger(self._base.transformer, self._base.text)
        self._merged: _Merged | None = None
        self._layout, self._batch = Layout(Path(study_root)), batch

    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        """Draw cells that share adapter, weight and drawing; one Sample per cell, in order.

        Raises AdapterError, before anything is drawn, if the adapter file is not the recorded one, corrupt or unfit.
        """
        if not cells:
            return []
        shared = {(c.adapter_sha256, c.weight, c.drawing) for c in cells}
        if len(shared) > 1:
            raise ValueError(f"cells of one call must share adapter, weight and drawing, not {len(shared)} of them")
        self._merge(cells[0])
        samples: list[Sample] = []
        for start in range(0, len(cells), self._batch):
            samples += self._draw_batch(cells[start : start + self._batch])
        return samples

    def _merge(self, cell: Cell) -> None:
        wanted = _Merged(cell.adapter_sha256, cell.weight)
        if self._merged == wanted:
            return
        path = self._layout.resolve(cell.adapter)
        adapter = read_adapter(path, sha256=cell.adapter_sha256)
        # Half-merged weights must never draw: whatever happens now, what was merged before is gone.
        self._merged = None
        self._merger.merge(adapter.state, cell.weight, where=str(path))
        self._merged = wanted

    def _draw_batch(self, cells: Sequence[Cell]) -> list[Sample]:
        began = time.monotonic()
        padded = [*cells, *([cells[-1]] * (self._batch - len(cells)))]
        requests = [Request(c.prompt.text, c.seed, c.prompt.negative) for c in padded]
        pixels = draw(self._base, requests, cells[0].drawing)[: len(cells)]
        seconds = round((time.monotonic() - began) / len(cells), 4)
        return [self._write(cell, picture, seconds) for cell, picture in zip(cells, pixels, strict=True)]

    def _write(self, cell: Cell, pixels: Tensor, seconds: float) -> Sample:
        path = self._layout.image(cell.trial, cell.epoch, cell.key)
        picture = _png(cell, pixels)
        digest = sha256(picture).hexdigest()
        write_whole(path.with_suffix(".json"), json.dumps(self._sidecar(cell, digest, seconds), indent=2) + "\n")
        write_whole(path, picture)
        return Sample(cell.key, self._layout.relative(path), digest, seconds)

    def _sidecar(self, cell: Cell, digest: str, seconds: float) -> dict[str, Any]:
        """Everything needed to draw the picture again, and what it came to."""
        drawing = cell.drawing
        return {
            "cell_key": cell.key,
            **cell.to_json(),
            "sigmas": [round(s, 8) for s in schedule_sigmas(drawing.schedule, drawing.steps, drawing.shift)],
            "noise": f"per sample, {drawing.noise}, fp32",
            "batch": self._batch,
            "numerics": ENGINE_NUMERICS,
            "device": torch.cuda.get_device_name() if self._base.device.type == "cuda" else platform.machine(),
            "dtype": str(self._base.dtype).removeprefix("torch."),
            "attention": "sdpa",
            "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
            "image_sha256": digest,
            "seconds": seconds,
        }


def _png(cell: Cell, pixels: Tensor) -> bytes:
    """(3, H, W) in [-1, 1] as PNG bytes, with the cell's settings in its text."""
    adapter = {"Lora": Path(cell.adapter).parent.name, "Lora weight": cell.weight}
    text = parameters_text(cell.prompt.text, cell.prompt.negative, cell.seed, cell.drawing, adapter)
    return png_bytes(pixels, text)
