"""Draw cells: the base stays loaded, an adapter is merged in place, seeds are drawn in batches of one fixed shape.

A cell's noise comes from its seed alone and every batch is padded to the same size, so on one kind of device a cell is
the same file whoever draws it, in whatever company. Each picture is written aside and renamed, its sidecar first: a
picture that exists can always be explained and redrawn.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
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
from anima.lora import Merger, Weighted
from anima.png import png_bytes
from evaluators.sidecar import is_whole, png_text, read_sample, sidecar_of
from orchestrator.core.fence import exclusively
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.core.study import ENGINE_NUMERICS, Cell, ConstantAdapter, Sample


@dataclass(frozen=True, slots=True)
class _Merged:
    """What is in the weights now."""

    sha256: str
    weight: float
    beside: tuple[ConstantAdapter, ...]


class Engine:
    """One device with the base on it. `batch` is the fixed number of pictures per forward pass.

    `adapters` says where adapters are that are not in the study's folder, by the sha256 of their content; `base_name`
    is what sidecars call the base.
    """

    def __init__(
        self,
        base: str,
        study_root: str,
        *,
        threads: int = 0,
        batch: int = 8,
        adapters: Mapping[str, str] | None = None,
        base_name: str = "",
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self._base = load_base(base_folder(base), device=device, dtype=dtype)
        self._merger = Merger(self._base.transformer, self._base.text)
        self._merged: _Merged | None = None
        self._layout, self._batch = Layout(Path(study_root)), batch
        self._elsewhere, self._base_name = dict(adapters or {}), base_name or Path(base).name

    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        """Draw cells that share adapter, weight and drawing; one Sample per cell, in order.

        Raises AdapterError, before anything is drawn, if the adapter file is not the recorded one, corrupt or unfit.
        """
        if not cells:
            return []
        shared = {(c.adapter_sha256, c.weight, c.with_adapters, c.drawing) for c in cells}
        if len(shared) > 1:
            raise ValueError(f"cells of one call must share adapter, weight and drawing, not {len(shared)} of them")
        self._merge(cells[0])
        samples: list[Sample] = []
        for start in range(0, len(cells), self._batch):
            samples += self._draw_batch(cells[start : start + self._batch])
        return samples

    def _merge(self, cell: Cell) -> None:
        wanted = _Merged(cell.adapter_sha256, cell.weight, cell.with_adapters)
        if self._merged == wanted:
            return
        adapters = [self._adapter(cell.adapter, cell.adapter_sha256, cell.weight)] if cell.adapter else []
        adapters += [self._adapter(used.name, used.sha256, used.weight) for used in cell.with_adapters]
        # Half-merged weights must never draw: whatever happens now, what was merged before is gone.
        self._merged = None
        self._merger.merge_all(adapters)
        self._merged = wanted

    def _adapter(self, name: str, sha256: str, weight: float) -> Weighted:
        elsewhere = self._elsewhere.get(sha256)
        path = Path(elsewhere) if elsewhere else self._layout.resolve(name)
        return Weighted(read_adapter(path, sha256=sha256).state, weight, str(path))

    def _draw_batch(self, cells: Sequence[Cell]) -> list[Sample]:
        began = time.monotonic()
        padded = [*cells, *([cells[-1]] * (self._batch - len(cells)))]
        requests = [Request(c.prompt.text, c.seed, c.prompt.negative) for c in padded]
        pixels = draw(self._base, requests, cells[0].drawing)[: len(cells)]
        seconds = round((time.monotonic() - began) / len(cells), 4)
        return [self._write(cell, picture, seconds) for cell, picture in zip(cells, pixels, strict=True)]

    def _write(self, cell: Cell, pixels: Tensor, seconds: float) -> Sample:
        path = self._layout.image(cell.trial, cell.epoch, cell.key)
        picture = png_bytes(pixels, png_text(cell, self._base_name))
        digest = sha256(picture).hexdigest()
        sample = Sample(cell.key, self._layout.relative(path), digest, seconds)
        with exclusively(path.with_name(".lock")):
            # Whoever was given up and drew on, on a device with other rounding, must not replace what is recorded.
            if (there := read_sample(self._layout, cell)) and is_whole(self._layout, there):
                return there
            write_whole(path.with_suffix(".json"), json.dumps(self._sidecar(cell, digest, seconds), indent=2) + "\n")
            write_whole(path, picture)
        return sample

    def _sidecar(self, cell: Cell, digest: str, seconds: float) -> dict[str, Any]:
        """Everything needed to draw the picture again, and what it came to."""
        drawing, cuda = cell.drawing, self._base.device.type == "cuda"
        return sidecar_of(
            cell,
            image_sha256=digest,
            seconds=seconds,
            drawn_by={
                "backend": "engine",
                "base": self._base_name,
                "sigmas": [round(s, 8) for s in schedule_sigmas(drawing.schedule, drawing.steps, drawing.shift)],
                "noise": f"per sample, {drawing.noise}, fp32",
                "batch": self._batch,
                "threads": torch.get_num_threads(),
                "numerics": ENGINE_NUMERICS,
                "device": torch.cuda.get_device_name() if cuda else platform.machine(),
                "dtype": str(self._base.dtype).removeprefix("torch."),
                "attention": "sdpa",
                "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
            },
        )
