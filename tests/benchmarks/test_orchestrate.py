"""The benchmark of the controller runs whole studies, small here and without Ray, and a study it made is done."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from benchmarks.orchestrate import Grid, run_cells, wanted_of
from infra.volume import LocalVolume
from orchestrator.controller import Controller
from orchestrator.core.layout import Layout
from orchestrator.crew.work import InlineCrew
from orchestrator.record.ledger import Ledger, read_events
from orchestrator.record.state import replay
from trainer.checkpoints import published_checkpoints


def test_a_study_of_made_up_workers_is_whole_and_can_be_resumed(tmp_path: Path) -> None:
    grid = Grid(epochs=3, seeds=12, batch=5)
    found = run_cells(grid, tmp_path, lambda workers: InlineCrew(workers, turn_s=0), writes=True)
    assert found.cells == 36
    assert found.controller_cpu_s > 0
    config = grid.config(str(tmp_path))
    layout = Layout(config.layout().root)
    state = replay(read_events(layout.ledger))
    assert len(state.samples) == len(state.verdicts) == 36 + 20, "20 confirm the choice"
    with closing(Ledger(layout.ledger)) as ledger:
        volume = LocalVolume(layout)
        controller = Controller(
            wanted_of(config), volume, ledger, state, published=lambda trial: published_checkpoints(layout, trial)
        )
        controller.reconcile()
        assert controller.done()
    assert not state.quarantined
