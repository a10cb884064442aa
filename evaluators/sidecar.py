"""Read the JSON file beside a picture: what was asked, what was drawn, how long it took. Sweeps repeat by it."""

from __future__ import annotations

import json

from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Sample


def read_sample(layout: Layout, cell: Cell) -> Sample | None:
    """The sample some earlier run drew of this very cell, or None. Whether the picture has its hash is not checked."""
    image = layout.image(cell.trial, cell.epoch, cell.key)
    try:
        sidecar = json.loads(image.with_suffix(".json").read_text(encoding="utf-8"))
        found = Sample(sidecar["cell_key"], layout.relative(image), sidecar["image_sha256"], float(sidecar["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.cell_key == cell.key else None
