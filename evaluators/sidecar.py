"""What goes with a picture: the JSON file beside it, and the text inside it that image viewers show. No torch.

The JSON has everything needed to draw the picture again, and what it came to; sweeps repeat by it. The text is the same
in the form that A1111, image viewers and model sites read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from anima.png import parameters_text
from evaluators.comfyui.config import ComfyUIConfig
from evaluators.comfyui.workflow import Workflow, read_workflow
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, ConstantAdapter, Sample
from orchestrator.core.version import VERSION


def sidecar_of(cell: Cell, *, image_sha256: str, seconds: float, drawn_by: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a drawn cell. `drawn_by`: what drew it: backend, base, device, dtype, sigmas, versions ..."""
    facts = dict(drawn_by)
    return {
        "cell_key": cell.key,
        **cell.to_json(),
        "adapters": [used.to_json() for used in adapters_of(cell)],
        **facts,
        "versions": {"epochsweep": VERSION, **facts.get("versions", {})},
        "image_sha256": image_sha256,
        "seconds": seconds,
    }


def adapters_of(cell: Cell) -> tuple[ConstantAdapter, ...]:
    """Every adapter of a cell in the order they are added up: the judged one first, if there is one."""
    judged = ConstantAdapter(adapter_name(cell), cell.adapter_sha256, cell.weight)
    return (*((judged,) if cell.adapter else ()), *cell.with_adapters)


def adapter_name(cell: Cell) -> str:
    """What people call the judged adapter: its trial and epoch."""
    path = PurePosixPath(cell.adapter)
    return f"{cell.trial}-epoch{cell.epoch}" if path.stem == "adapter" else path.stem


def png_text(cell: Cell, base_name: str) -> dict[str, str]:
    """The text fields of a cell's picture."""
    used = adapters_of(cell)
    more: dict[str, object] = {"Model": base_name, "Shift": f"{cell.drawing.shift:g}"}
    if used:
        more["Lora hashes"] = ", ".join(f"{a.name}: {a.sha256[:12]}" for a in used)
        more["Lora weights"] = ", ".join(f"{a.name}: {a.weight:g}" for a in used)
    more |= {"Epoch": cell.epoch, "Version": f"epochsweep {VERSION}"}
    text = parameters_text(cell.prompt.text, cell.prompt.negative, cell.seed, cell.drawing, more)
    return {"parameters": text}


def comfyui_text(cell: Cell, base_name: str) -> dict[str, str]:
    """The text field ComfyUI opens a picture by: its shipped workflow with the settings of a cell of the real model.

    Empty for pocket Anima, which ComfyUI does not read, and for schedules it does not have.
    """
    if base_name == "pocket" or cell.drawing.schedule != "simple":
        return {}
    shipped = _shipped(base_name if base_name.endswith(".safetensors") else "")
    used = [(f"{adapter.name}.safetensors", adapter.weight) for adapter in adapters_of(cell)]
    return {"prompt": json.dumps(shipped.filled(cell, used), ensure_ascii=False)}


@cache
def _shipped(transformer: str) -> Workflow:
    return read_workflow(ComfyUIConfig(models={"transformer": transformer} if transformer else {}))


def read_sample(layout: Layout, cell: Cell) -> Sample | None:
    """The sample some earlier run drew of this very cell, or None. Whether the picture has its hash is not checked."""
    image = layout.image(cell.trial, cell.epoch, cell.key)
    try:
        sidecar = json.loads(image.with_suffix(".json").read_text(encoding="utf-8"))
        found = Sample(sidecar["cell_key"], layout.relative(image), sidecar["image_sha256"], float(sidecar["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.cell_key == cell.key else None


def is_whole(layout: Layout, sample: Sample) -> bool:
    """Whether the picture is there, and is the one its sidecar speaks of."""
    image = layout.resolve(sample.image)
    return image.is_file() and file_sha256(image) == sample.sha256
