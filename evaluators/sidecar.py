"""The JSON file beside every picture: what was asked, what was drawn, how long it took. It makes a sweep repeatable.

The sidecar is written after its picture, so it is also the mark that the picture is whole.
"""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.core.files import write_whole
from orchestrator.core.study import Cell, Sample


def write_sidecar(image: Path, cell: Cell, sample: Sample) -> None:
    """Write `<image>.json` whole, once the picture itself is in place."""
    content = {"sample": sample.to_json(), "cell": cell.to_json()}
    write_whole(image.with_suffix(".json"), json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_sample(image: Path, cell: Cell) -> Sample | None:
    """The sample an earlier run drew of this very cell, or None. The picture's checksum is not looked at here."""
    try:
        content = json.loads(image.with_suffix(".json").read_text(encoding="utf-8"))
        sample = Sample.from_json(content["sample"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return sample if sample.cell_key == cell.key else None
