"""Draw cells: the base stays loaded, adapters are merged in place, and nobody waits for anybody else's work.

A call's cells are grouped by what is merged into the weights, and each group is cut into passes of one fixed shape
(`evaluators/passes.py`). A pass goes through three stages, each with threads of its own:

    denoise    noise by seed, the sampler's loop over the transformer
    decode     latents to pixels, on a GPU in a stream of its own
    write      a PNG file and its sidecar for each picture

While a pass is decoded and written, the next is denoised; while a group is drawn, the next group's adapters are read.
On a CPU every denoising thread computes by itself, so the number of threads changes no bit. A cell's noise comes from
its seed alone and every pass is filled up to the same size, so on one kind of device a cell is the same file whoever
draws it, in whatever company. Each picture is written aside and renamed, its sidecar first: a picture that exists can
always be explained and redrawn.
"""

from __future__ import annotations

import json
import platform
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from anima.adapter_files import Adapter, read_adapter
from anima.base import base_folder
from anima.compiler import check_compiler
from anima.denoiser import Velocity, compiled
from anima.draw import draw_latents
from anima.flow import schedule_sigmas
from anima.load import load_base
from anima.lora import Merger, Weighted
from anima.png import png_bytes
from evaluators.passes import BATCH, Merged, Pass, by_merged, passes_of
from evaluators.sidecar import comfyui_text, is_whole, png_text, read_sample, sidecar_of
from orchestrator.core.fence import exclusively
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.core.study import ENGINE_NUMERICS, Cell, ConstantAdapter, Sample

_WRITERS = 4
"""Threads that encode and write files; at 1024 px each takes about 0.2 s a picture."""
_AHEAD = 2
"""Passes that may wait between stages, beside those being denoised: enough that nobody waits, and memory is bounded."""


@dataclass(frozen=True, slots=True)
class _Latents:
    """What a pass has come to: (B, C, 1, h, w); on a GPU, the event after which they are there."""

    latents: Tensor
    count: int
    """Pictures that are asked for; the others fill the pass up."""
    began: float
    there: torch.cuda.Event | None


@dataclass(frozen=True, slots=True)
class _Pixels:
    """A decoded pass: (B, 3, H, W) in [-1, 1] on the CPU, and seconds per picture."""

    pictures: Tensor
    seconds: float


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """What will come of a pass: a sample for each of its cells."""

    latents: Future[_Latents]
    samples: tuple[Future[Sample], ...]


class Engine:
    """One device with the base on it. `batch` is the fixed number of pictures per forward pass.

    `threads` is how many passes a CPU denoises side by side (0: one for each of torch's threads); a GPU takes one after
    the other. `adapters` says where adapters are that are not in the study's folder, by the sha256 of their content;
    `base_name` is what sidecars call the base.
    """

    def __init__(
        self,
        base: str,
        study_root: str,
        *,
        threads: int = 0,
        batch: int = BATCH,
        adapters: Mapping[str, str] | None = None,
        base_name: str = "",
    ) -> None:
        cuda = torch.cuda.is_available()
        lanes = 1 if cuda else threads or torch.get_num_threads()
        if not cuda:
            torch.set_num_threads(1)
        device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
        self._base = load_base(base_folder(base), device=device, dtype=dtype)
        self._merger = Merger(self._base.transformer, self._base.text)
        self._merged: Merged | None = None
        self._compiled: Velocity | None = None
        self._layout, self._batch, self._lanes = Layout(Path(study_root)), batch, lanes
        self._elsewhere, self._base_name = dict(adapters or {}), base_name or Path(base).name
        self._side = torch.cuda.Stream() if cuda else None
        self._denoisers = ThreadPoolExecutor(lanes, "denoise", _begin_thread, (cuda,))
        self._decoders = ThreadPoolExecutor(lanes, "decode", _begin_thread, (cuda,))
        self._writers = ThreadPoolExecutor(_WRITERS, "write")
        self._readers = ThreadPoolExecutor(1, "read")
        self._read: dict[str, Future[Adapter]] = {}
        self._weights, self._publishing = Lock(), Lock()

    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        """Draw cells, those with the same adapters and weights together; one Sample per cell, in order.

        Several threads may call: the files of one call are then written while the next is denoised. What is drawn
        before an error is on the volume. Raises AdapterError if an adapter file is not the recorded one, corrupt or
        unfit, before anything is drawn with it; VolumeError when files cannot be written; MissingError where passes
        are to be compiled and no compiler is there.
        """
        if any(cell.drawing.compile for cell in cells):
            check_compiler(self._base.device.type)
        groups = by_merged(cells)
        under_way: deque[_UnderWay] = deque()
        drawn: dict[str, Sample] = {}
        try:
            with self._weights:
                if self._compiled is None and any(cell.drawing.compile for cell in cells):
                    self._compiled = compiled()
                for merged, after in zip(groups, [*groups, ()][1:], strict=True):
                    self._merge(merged, after)
                    self._denoise_all(groups[merged], under_way, drawn)
            while under_way:
                self._collect(under_way, drawn)
        finally:
            wait([sample for one in under_way for sample in one.samples])
        return [drawn[cell.key] for cell in cells]

    def _merge(self, merged: Merged, after: Merged) -> None:
        """Make the weights those of `merged`, and begin to read what comes `after`."""
        needed = () if merged == self._merged else merged
        wanted = {used.sha256: used for used in (*needed, *after)}
        self._read = {key: self._read.get(key) or self._readers.submit(self._reading, u) for key, u in wanted.items()}
        if merged == self._merged:
            return
        adapters = [Weighted(self._read[u.sha256].result().state, u.weight, str(self._path(u))) for u in merged]
        # Half-merged weights must never draw: whatever happens now, what was merged before is gone.
        self._merged = None
        self._merger.merge_all(adapters)
        self._merged = merged

    def _reading(self, used: ConstantAdapter) -> Adapter:
        return read_adapter(self._path(used), sha256=used.sha256)

    def _path(self, used: ConstantAdapter) -> Path:
        elsewhere = self._elsewhere.get(used.sha256)
        return Path(elsewhere) if elsewhere else self._layout.resolve(used.name)

    def _denoise_all(self, cells: Sequence[Cell], under_way: deque[_UnderWay], drawn: dict[str, Sample]) -> None:
        """Send every pass on its way; gives back when the weights are needed no more."""
        for one in passes_of(cells, self._base.text.rows, self._batch):
            while len(under_way) >= self._lanes + _AHEAD:
                self._collect(under_way, drawn)
            latents = self._denoisers.submit(self._denoise, one)
            pixels = self._decoders.submit(self._decode, latents)
            places = enumerate(one.cells)
            samples = tuple(self._writers.submit(self._write, cell, pixels, place) for place, cell in places)
            under_way.append(_UnderWay(latents, samples))
        wait([one.latents for one in under_way])

    @staticmethod
    def _collect(under_way: deque[_UnderWay], drawn: dict[str, Sample]) -> None:
        """Wait for the oldest pass. It stays under way if it fails, so that its other pictures are waited for."""
        samples = [sample.result() for sample in under_way[0].samples]
        drawn.update((sample.cell_key, sample) for sample in samples)
        under_way.popleft()

    def _denoise(self, one: Pass) -> _Latents:
        began = time.monotonic()
        latents = draw_latents(
            self._base, one.requests, one.drawing, run=self._compiled if one.drawing.compile else None
        )
        there = torch.cuda.current_stream().record_event() if self._side else None
        return _Latents(latents[: len(one.cells)] if self._side else latents, len(one.cells), began, there)

    def _decode(self, future: Future[_Latents]) -> _Pixels:
        done = future.result()
        with torch.cuda.stream(self._side):
            if self._side is not None and done.there is not None:
                self._side.wait_event(done.there)
                done.latents.record_stream(self._side)
                # One by one: the last pass of a group is shorter, and another shape may be other kernels and last bits.
                pictures = torch.cat([self._base.codec.decode(one).cpu() for one in done.latents.split(1)])
            else:
                pictures = self._base.codec.decode(done.latents)
        return _Pixels(pictures, round((time.monotonic() - done.began) / done.count, 4))

    def _write(self, cell: Cell, future: Future[_Pixels], place: int) -> Sample:
        pixels = future.result()
        path = self._layout.image(cell.trial, cell.epoch, cell.key)
        text = png_text(cell, self._base_name) | comfyui_text(cell, self._base_name)
        picture = png_bytes(pixels.pictures[place], text)
        digest = sha256(picture).hexdigest()
        sidecar = json.dumps(self._sidecar(cell, digest, pixels.seconds), indent=2) + "\n"
        # Threads of one process take turns before they ask for the lock between processes, which is polled for.
        with self._publishing, exclusively(path.with_name(".lock")):
            # Whoever was given up and drew on, on a device with other rounding, must not replace what is recorded.
            if (there := read_sample(self._layout, cell)) and is_whole(self._layout, there):
                return there
            write_whole(path.with_suffix(".json"), sidecar)
            write_whole(path, picture)
        return Sample(cell.key, self._layout.relative(path), digest, pixels.seconds)

    def _sidecar(self, cell: Cell, digest: str, seconds: float) -> dict[str, Any]:
        """Everything needed to draw the picture again, and what it came to."""
        drawing, cuda = cell.drawing, self._side is not None
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
                "compiled": drawing.compile,
                "threads": torch.get_num_threads(),
                "numerics": ENGINE_NUMERICS,
                "device": torch.cuda.get_device_name() if cuda else platform.machine(),
                "dtype": str(self._base.dtype).removeprefix("torch."),
                "attention": "sdpa",
                "versions": dict(_versions()),
            },
        )


def _begin_thread(cuda: bool) -> None:
    """OpenMP's number of threads, which convolutions go by, and whether tiny numbers count as zero are settings of
    each thread."""
    if not cuda:
        torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    return tuple((name, version(name)) for name in ("torch", "diffusers", "transformers"))
