"""An order, carried out: the base loaded, adapters merged, every picture drawn and written with its sidecar.

A picture and the JSON of the same name hold everything needed to draw it again, and are written whole or not at all,
the JSON first. The name ends in the hash of what decides the pixels: another setting is another file.
"""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anima.adapter_files import Adapter, read_adapter
from anima.base import base_sha256
from anima.draw import Halves, Request, draw
from anima.flow import schedule_sigmas
from anima.load import Base, load_base
from anima.lora import Merger, Weighted
from anima.order import Order
from anima.png import parameters_text, png_bytes
from orchestrator.core.errors import ConfigError, MissingError
from orchestrator.core.files import write_whole
from orchestrator.core.identity import digest
from orchestrator.core.study import ENGINE_NUMERICS
from orchestrator.core.version import VERSION

_JOINED_UP_TO = 2
"""Pictures in a batch up to which both halves of guidance share a forward pass; see `anima.draw.Halves`."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is on disk."""

    path: Path
    seconds: float


@dataclass(frozen=True, slots=True)
class Studio:
    """One device with the base and the order's adapters on it."""

    order: Order
    base: Base
    adapters: tuple[Adapter, ...]
    base_identity: Future[str]

    def warnings(self) -> list[str]:
        """What would make the pictures other than expected, in plain words."""
        order, text = self.order, self.base.text
        found = []
        for prompt in (*order.prompts, *([order.negative] if order.drawing.cfg != 1 else [])):
            if unknown := text.unknown_words(prompt):
                words = ", ".join(repr(word) for word in unknown)
                found.append(f"the text conditioner cannot see {words}: T5 has no token for it; use plain letters")
        for use, adapter in zip(order.adapters, self.adapters, strict=True):
            triggers = adapter.metadata.trigger_words if adapter.metadata else ()
            if triggers and not any(trigger in prompt for trigger in triggers for prompt in order.prompts):
                found.append(f"no prompt names a trigger of {use.name}: {', '.join(map(repr, triggers))}")
        if order.base_sha256 not in (None, self.base_identity.result()):
            found.append(f"base {order.base} is not the one that picture was drawn with")
        return list(dict.fromkeys(found))

    def draw(self, on_step: Callable[[], None]) -> Iterator[list[Picture]]:
        """Draw batch by batch; `on_step` is called after every step of the sampler.

        Raises ConfigError if a batch does not fit into the GPU's memory.
        """
        order = self.order
        requests = [Request(prompt, seed, order.negative) for prompt in order.prompts for seed in order.seeds]
        for start in range(0, len(requests), order.batch):
            yield self._draw_batch(requests[start : start + order.batch], on_step)

    def _draw_batch(self, requests: Sequence[Request], on_step: Callable[[], None]) -> list[Picture]:
        began = time.monotonic()
        padded = [*requests, *([requests[-1]] * (self.order.batch - len(requests)))]
        try:
            pixels = draw(
                self.base, padded, self.order.drawing, halves=self._halves, on_step=lambda _number, _guess: on_step()
            )
        except torch.OutOfMemoryError as error:
            size = f"{self.order.drawing.width}x{self.order.drawing.height}"
            raise ConfigError(
                f"{len(padded)} pictures of {size} at once do not fit into the GPU's memory",
                where="--batch",
                fix="lower it, or --size",
            ) from error
        seconds = round((time.monotonic() - began) / len(requests), 4)
        return [self._write(r, picture, seconds) for r, picture in zip(requests, pixels, strict=False)]

    @property
    def _merged(self) -> list[tuple[str, float]]:
        uses = zip(self.order.adapters, self.adapters, strict=True)
        return [(adapter.file.sha256, use.weight) for use, adapter in uses]

    @property
    def _halves(self) -> Halves:
        return "joined" if self.order.batch <= _JOINED_UP_TO else "apart"

    def _write(self, request: Request, pixels: Tensor, seconds: float) -> Picture:
        picture = png_bytes(pixels, {"parameters": self._parameters(request)})
        facts = self._facts(request)
        name = f"{_slug(request.prompt)}-{request.seed}-{digest(facts | {'adapters': self._merged}, length=8)}"
        path = self.order.out / f"{name}.png"
        sidecar = facts | self._circumstances(sha256(picture).hexdigest(), seconds)
        write_whole(path.with_suffix(".json"), json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n")
        write_whole(path, picture)
        return Picture(path, seconds)

    def _facts(self, request: Request) -> dict[str, Any]:
        """What decides the pixels on one kind of device."""
        order, drawing = self.order, self.order.drawing
        return {
            "prompt": request.prompt,
            "negative": request.negative,
            "seed": request.seed,
            "drawing": drawing.to_json(),
            "adapters": [
                {"path": str(use.path.resolve()), "weight": use.weight, "sha256": adapter.file.sha256}
                for use, adapter in zip(order.adapters, self.adapters, strict=True)
            ],
            "base": order.base,
            "base_sha256": self.base_identity.result(),
            "batch": order.batch,
            "halves": self._halves if drawing.cfg != 1 else None,
            "numerics": ENGINE_NUMERICS,
        }

    def _circumstances(self, image_sha256: str, seconds: float) -> dict[str, Any]:
        drawing = self.order.drawing
        return {
            "sigmas": [round(s, 8) for s in schedule_sigmas(drawing.schedule, drawing.steps, drawing.shift)],
            "device": torch.cuda.get_device_name() if self.base.device.type == "cuda" else platform.machine(),
            "dtype": str(self.base.dtype).removeprefix("torch."),
            "threads": self.order.threads,
            "versions": {"epochsweep": VERSION} | {p: version(p) for p in ("torch", "diffusers", "transformers")},
            "image_sha256": image_sha256,
            "seconds": seconds,
        }

    def _parameters(self, request: Request) -> str:
        order = self.order
        more: dict[str, object] = {"Shift": order.drawing.shift, "Noise": order.drawing.noise}
        more |= {"Model": re.sub(r"\.ya?ml$", "", Path(order.base).name)}
        more |= {"Model hash": self.base_identity.result()[:10]}
        if order.adapters:
            pairs = list(zip(order.adapters, self.adapters, strict=True))
            more["Lora weights"] = ", ".join(f"{use.name}: {use.weight:g}" for use, _ in pairs)
            more["Lora hashes"] = ", ".join(f"{use.name}: {adapter.file.sha256[:10]}" for use, adapter in pairs)
        return parameters_text(
            request.prompt, request.negative, request.seed, order.drawing, more | {"Version": f"epochsweep {VERSION}"}
        )


def open_studio(order: Order) -> Studio:
    """Load the base and merge the order's adapters into it.

    Raises MissingError for a device or part that is not there, AdapterError for a file that is unsound or does not fit.
    """
    if order.device == "cuda" and not torch.cuda.is_available():
        raise MissingError("torch finds no GPU here", where="--device", fix="write --device cpu")
    if order.threads:
        torch.set_num_threads(order.threads)
    torch.set_flush_denormal(True)
    device = "cuda" if order.device != "cpu" and torch.cuda.is_available() else "cpu"
    adapters = tuple(read_adapter(use.path, sha256=use.sha256) for use in order.adapters)
    # Hashing the real base takes seconds; nothing needs the hash before the first picture is drawn.
    with_hash = ThreadPoolExecutor(max_workers=1)
    identity = with_hash.submit(base_sha256, order.folder)
    with_hash.shutdown(wait=False)
    base = load_base(order.folder, device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    _merge(base, order, adapters)
    return Studio(order, base, adapters, identity)


def _merge(base: Base, order: Order, adapters: Sequence[Adapter]) -> None:
    """Put the adapters into the base's weights, each with its own strength."""
    uses = zip(order.adapters, adapters, strict=True)
    Merger(base.transformer, base.text).merge_all([Weighted(a.state, use.weight, str(use.path)) for use, a in uses])


def _slug(prompt: str) -> str:
    """The first words of a prompt as they can stand in a file name anywhere."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:32].rstrip("-") or "picture"
