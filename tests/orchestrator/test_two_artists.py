"""Two inference actors share a trial's cells: every picture is the file that one process draws by itself."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from anima.adapter_files import AdapterMetadata, write_adapter
from anima.base import POCKET, base_sha256
from anima.load import load_transformer
from anima.lora import adapter_state, inject
from evaluators.config import GridConfig
from evaluators.grid import batches, select_cells
from infra.config import ClusterConfig
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Checkpoint, Sample
from orchestrator.crew.actors import RayCrew
from orchestrator.crew.work import Artist, Crew, Drawn, InlineCrew
from orchestrator.crew.workers import StudyWorkers
from orchestrator.deciding.decisions import Draw
from trainer.config import DatasetConfig

DEADLINE_S = 240.0
"""Only a failure waits so long."""
BASE_SHA256 = base_sha256(POCKET)
GRID = GridConfig.model_validate(
    {
        "prompts": [
            {"name": "pair", "format": "positional", "cast": ["kanachan", "koharu"]},
            {"name": "solo", "format": "tags", "cast": ["koharu"]},
        ],
        "seeds": [1, 2, 3],
        "batch": 3,
        "drawing": {"steps": 2, "width": 96, "height": 64},
    }
)


class SigningArtist:
    """The study's own artist; each process that draws leaves a file under its id."""

    def __init__(self, artist: Artist, folder: Path) -> None:
        self.artist, self.folder = artist, folder

    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        (self.folder / f"process-{os.getpid()}").touch()
        return self.artist.draw(cells)


@dataclass(frozen=True, slots=True)
class SigningWorkers(StudyWorkers):
    def artist(self) -> Artist:
        return SigningArtist(StudyWorkers.artist(self), Path(self.study_root))


def workers(root: Path) -> SigningWorkers:
    return SigningWorkers(
        trials={},
        base=str(POCKET),
        base_sha256=BASE_SHA256,
        study_root=str(root),
        dataset_root="",
        dataset_sha256="",
        dataset=DatasetConfig(),
        looks={},
        judge=None,
        threads=1,
    )


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Checkpoint]:
    """Two epochs of a trial in the folder `alone`, which change what is drawn."""
    layout, made = Layout(tmp_path / "alone"), []
    for epoch in (1, 2):
        transformer = load_transformer(POCKET / "transformer")
        for parameter in inject(transformer, rank=2, alpha=2.0, seed=epoch).parameters:
            parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(epoch))
        metadata = AdapterMetadata(2, 2.0, BASE_SHA256, "none", "main", epoch, 1, 1.0, ("koharu",), "test")
        path = layout.adapter("main", epoch)
        file = write_adapter(path, adapter_state(transformer), metadata)
        made.append(Checkpoint("main", epoch, layout.relative(path), file.sha256, path.stat().st_size, 1, 1, 1, 1))
    return made


def draw(crew: Crew, work: Sequence[Draw]) -> dict[str, str]:
    """Have everything drawn; the hash of each picture by its cell's key."""
    with closing(crew):
        for one in work:
            crew.submit(one)
        drawn: dict[str, str] = {}
        until = time.monotonic() + DEADLINE_S
        while len(drawn) < sum(len(one.cells) for one in work):
            assert time.monotonic() < until, "not everything is drawn"
            for report in crew.wait(1.0):
                assert isinstance(report, Drawn), report
                drawn.update((sample.cell_key, sample.sha256) for sample in report.samples)
    return drawn


def sidecar(path: Path) -> dict[str, Any]:
    """All but the seconds it took."""
    facts: dict[str, Any] = json.loads(path.read_text())
    del facts["seconds"]
    return facts


def test_what_two_actors_draw_is_what_one_process_draws(tmp_path: Path, checkpoints: list[Checkpoint]) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    shutil.copytree(alone, shared)
    cells = [cell for one in checkpoints for cell in select_cells(one, GRID, BASE_SHA256).values()]
    inline = draw(InlineCrew(workers(alone)), [Draw(batch) for batch in batches(cells, GRID.batch)])
    # Each actor is given cells of both epochs, mixed and batched in another way than inline.
    mixed = [Draw(tuple(cells[at::4])) for at in range(4)]
    cluster = ClusterConfig(inference_actors=2, threads=1, silence_s=DEADLINE_S)
    assert draw(RayCrew(workers(shared), cluster).open(), mixed) == inline
    assert len(set(inline.values())) == len(cells) == 12
    assert len(list(shared.glob("process-*"))) == 2, "both drew"
    assert not (shared / f"process-{os.getpid()}").exists()
    pictures = sorted(alone.glob("grid/**/*.png"))
    assert len(pictures) == len(cells)
    for picture in pictures:
        other = shared / picture.relative_to(alone)
        assert other.read_bytes() == picture.read_bytes()
        assert sidecar(other.with_suffix(".json")) == sidecar(picture.with_suffix(".json"))
