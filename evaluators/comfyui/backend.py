"""ComfyUI as the one who draws a grid: cells become workflows, pictures come back and get our sidecars.

A few workflows are in its queue at once, so it never waits for us; pictures are taken in the order of the cells. What
the grid does not set, such as the models, is the workflow's: its content stands for the base in the keys of cells.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image, UnidentifiedImageError

from anima.png import image_bytes
from evaluators.comfyui.client import ComfyUI
from evaluators.comfyui.config import ComfyUIConfig
from evaluators.comfyui.workflow import Workflow, read_workflow
from evaluators.config import PromptConfig
from evaluators.sidecar import adapters_of, png_text, sidecar_of
from orchestrator.core.errors import AdapterError, DrawingError, MissingError, StudyError
from orchestrator.core.files import write_whole
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Sample

FOLDER = "epochsweep"
"""Below ComfyUI's models/loras: where adapters are linked, each named by its content."""


@dataclass(frozen=True, slots=True)
class ComfyUIBackend:
    """A configuration with its workflow read, and the adapters that are drawn along by sha256."""

    config: ComfyUIConfig
    workflow: Workflow
    beside: Mapping[str, Path]

    @classmethod
    def of(cls, config: ComfyUIConfig, beside: Mapping[str, Path]) -> ComfyUIBackend:
        """Read the workflow; nothing is asked of ComfyUI yet. Raises ConfigError."""
        return cls(config, read_workflow(config), beside)

    @property
    def identity(self) -> str:
        """Of the workflow."""
        return self.workflow.identity

    @property
    def constants(self) -> tuple[str, ...]:
        return tuple(self.beside)

    def warnings(self, prompts: Sequence[PromptConfig]) -> list[str]:  # noqa: ARG002 - its tokenizers are elsewhere
        """None: what its models cannot see is not known here."""
        return []

    def open(self, root: Path, adapters: Mapping[str, Path]) -> ComfyUIArtist:
        """Look whether ComfyUI is there and has the nodes. Raises MissingError naming what it lacks."""
        comfyui = ComfyUI(self.config.url)
        stats = comfyui.stats()
        for kind, node in self.workflow.classes.items():
            if comfyui.node(kind) is None:
                raise MissingError(
                    f"it has no node {kind!r} (node {node} of {self.workflow.name})",
                    where=self.config.url,
                    fix="install the extension it comes from, or update ComfyUI",
                )
        comfyui.forget_results()
        return ComfyUIArtist(self, comfyui, stats, Layout(root), {**adapters, **self.beside})


class ComfyUIArtist:
    """Draws cells through a ComfyUI that answers."""

    def __init__(
        self,
        backend: ComfyUIBackend,
        comfyui: ComfyUI,
        stats: Mapping[str, Any],
        layout: Layout,
        files: Mapping[str, Path],
    ) -> None:
        self._config, self._workflow = backend.config, backend.workflow
        self._comfyui, self._layout, self._files = comfyui, layout, files
        self._drawn_by = _facts(stats, self._workflow)
        self._names: dict[str, str] = {}
        self._turn = Lock()

    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        """Write each cell's picture and sidecar; samples in the order of the cells.

        Raises ConfigError for a cell the workflow has no slots for, AdapterError for an adapter that ComfyUI does not
        have or whose file has another content, DrawingError for what goes wrong there.
        """
        for cell in cells:
            self._workflow.fits(cell)
        with self._turn:
            return self._draw(cells)

    def _draw(self, cells: Sequence[Cell]) -> list[Sample]:
        waiting: deque[tuple[Cell, dict[str, Any], str]] = deque()
        samples: list[Sample] = []
        left = deque(cells)
        try:
            while left or waiting:
                while left and len(waiting) < self._config.ahead:
                    cell = left.popleft()
                    graph = self._workflow.filled(cell, self._adapters(cell))
                    waiting.append((cell, graph, self._comfyui.submit(graph)))
                cell, graph, prompt_id = waiting[0]
                began = time.monotonic()
                outputs = self._comfyui.wait(prompt_id, self._config.timeout_s)
                waiting.popleft()
                samples.append(self._write(cell, graph, outputs, time.monotonic() - began))
        except BaseException:
            # What nobody waits for any more would keep it busy.
            for _, _, prompt_id in waiting:
                with suppress(StudyError):
                    self._comfyui.cancel(prompt_id)
            raise
        return samples

    def _adapters(self, cell: Cell) -> list[tuple[str, float]]:
        return [(self._name(used.sha256), used.weight) for used in adapters_of(cell)]

    def _name(self, sha256_: str) -> str:
        """What ComfyUI calls an adapter, after linking it into its folder or finding it there by its file's name."""
        if sha256_ not in self._names:
            file = self._files[sha256_]
            if self._config.loras:
                self._link(file, Path(self._config.loras).expanduser(), sha256_)
            wanted = f"{sha256_[:16]}.safetensors" if self._config.loras else file.name
            self._names[sha256_] = self._known(wanted)
        return self._names[sha256_]

    def _link(self, file: Path, loras: Path, sha256_: str) -> None:
        if not loras.is_dir():
            raise MissingError("there is no such folder", where=f"comfyui.loras: {loras}", fix="give its models/loras")
        place = loras / FOLDER / f"{sha256_[:16]}.safetensors"
        if not place.exists():
            place.parent.mkdir(exist_ok=True)
            aside = place.with_name(f".{place.name}.{os.getpid()}.part")
            aside.unlink(missing_ok=True)
            try:
                aside.hardlink_to(file)
            except OSError:
                shutil.copyfile(file, aside)
            aside.replace(place)
        if file_sha256(place) != sha256_:
            place.unlink()
            raise AdapterError("is not the file that was recorded", where=str(file), fix="run again: it is read anew")

    def _known(self, wanted: str) -> str:
        """The name among those ComfyUI lists for the input of the slot; Windows writes folders with backslashes."""
        ((node, key), *_) = self._workflow.slots["adapter"]
        kind = self._workflow.graph[node]["class_type"]
        names = self._comfyui.choices(kind, key)
        if names is None:
            return wanted
        found = [name for name in names if name.replace("\\", "/").rpartition("/")[2] == wanted]
        if not found:
            fix = "put the file into its models/loras, or set comfyui.loras to that folder"
            raise AdapterError(f"it has no adapter {wanted!r}", where=self._config.url, fix=fix)
        return found[0]

    def _write(self, cell: Cell, graph: Mapping[str, Any], outputs: Mapping[str, Any], seconds: float) -> Sample:
        picture = self._png(cell, self._comfyui.picture(_only_picture(outputs, self._config.url)))
        path = self._layout.image(cell.trial, cell.epoch, cell.key)
        found, took = sha256(picture).hexdigest(), round(seconds, 4)
        facts = {**self._drawn_by, "workflow": graph}
        sidecar = sidecar_of(cell, image_sha256=found, seconds=took, drawn_by=facts)
        write_whole(path.with_suffix(".json"), json.dumps(sidecar, indent=2) + "\n")
        write_whole(path, picture)
        return Sample(cell.key, self._layout.relative(path), found, took)

    def _png(self, cell: Cell, data: bytes) -> bytes:
        """The picture with our text beside ComfyUI's own. Raises DrawingError for another kind or size."""
        try:
            with Image.open(io.BytesIO(data)) as image:
                kind, size, text = image.format, image.size, dict(getattr(image, "text", {}))
                pixels = image.convert("RGB") if kind == "PNG" else None
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            raise DrawingError("sent a picture that cannot be read", where=self._config.url) from error
        if pixels is None:
            raise DrawingError(
                f"sent a {kind}, not a PNG",
                where=self._workflow.name,
                fix="end it in SaveImage or PreviewImage",
            )
        asked = (cell.drawing.width, cell.drawing.height)
        if size != asked:
            raise DrawingError(
                f"drew {size[0]}x{size[1]} instead of {asked[0]}x{asked[1]}",
                where=self._workflow.name,
                fix="give it slots $width and $height, or set the grid's size to its own",
            )
        kept = {name: value for name, value in text.items() if isinstance(value, str)}
        return image_bytes(pixels, {**kept, **png_text(cell, str(self._drawn_by["base"]))})


def _only_picture(outputs: Mapping[str, Any], url: str) -> Mapping[str, Any]:
    """The one picture of a workflow. A node that saves wins over one that only previews."""
    shown = [file for about in outputs.values() for file in about.get("images", ()) if isinstance(file, Mapping)]
    saved = [file for file in shown if file.get("type", "output") == "output"] or shown
    if len(saved) != 1:
        raise DrawingError(f"made {len(saved)} pictures of a workflow that should make one", where=url)
    return saved[0]


def _facts(stats: Mapping[str, Any], workflow: Workflow) -> dict[str, Any]:
    """What a sidecar says of who drew it."""
    system = stats.get("system", {})
    devices: list[Mapping[str, Any]] = list(stats.get("devices", ()))
    versions = {"comfyui": system.get("comfyui_version"), "torch": system.get("pytorch_version")}
    return {
        "backend": "comfyui",
        "base": workflow.name.rpartition("/")[2],
        "noise": "comfyui, one picture at a time",
        "batch": 1,
        "device": str(devices[0].get("name", "")) if devices else "",
        "own_settings": list(workflow.own_settings),
        "versions": {name: str(value) for name, value in versions.items() if value},
    }
