"""A driver to be killed: the real controller over real Ray, with scripted work that takes a while.

python -m tests.orchestrator.fault_driver FOLDER HOST:PORT SECONDS_PER_CELL
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from infra.config import ClusterConfig
from infra.volume import LocalVolume
from orchestrator.controller import Controller
from orchestrator.core.layout import Layout
from orchestrator.core.lock import sole_driver
from orchestrator.core.study import Cell, Sample
from orchestrator.crew.actors import RayCrew
from orchestrator.crew.work import Slice
from orchestrator.record.ledger import Ledger, read_events
from orchestrator.record.state import replay
from orchestrator.watching.watch import LogFile
from tests.orchestrator.scripted import ScriptedArtist, ScriptedTrainer, ScriptedWorkers, target
from trainer.checkpoints import published_checkpoints

TRIALS = ("a-00000001", "b-00000001")


@dataclass(frozen=True)
class SlowWorkers(ScriptedWorkers):
    """Scripted workers that take their time, so that death finds them at work."""

    seconds: float = 0.0

    def trainer(self, trial: str, attempt: int = 0) -> ScriptedTrainer:  # noqa: ARG002
        return SlowTrainer(self, trial)

    def artist(self) -> ScriptedArtist:
        return SlowArtist(self)


class SlowTrainer(ScriptedTrainer):
    def advance(self, turn_s: float) -> Slice:
        time.sleep(self.workers.seconds * 4)  # type: ignore[attr-defined]
        return super().advance(turn_s)


class SlowArtist(ScriptedArtist):
    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        time.sleep(self.workers.seconds * len(cells))  # type: ignore[attr-defined]
        return super().draw(cells)


def main(root: Path, address: str, seconds: float) -> int:
    layout = Layout(root)
    cluster = ClusterConfig(
        address=address,
        trainers=2,
        inference_actors=2,
        train_on=({"pod": "a"}, {}),
        draw_on=({"pod": "b"}, {}),
        heartbeat_s=0.5,
        missed_s=4.0,
        back_off_s=0.2,
    )
    state = replay(read_events(layout.ledger))
    with (
        sole_driver(layout.lock),
        closing(Ledger(layout.ledger)) as ledger,
        closing(LogFile(layout.log)) as log,
    ):
        controller = Controller(
            target(trials=TRIALS),
            LocalVolume(layout),
            ledger,
            state,
            published=lambda trial: published_checkpoints(layout, trial),
            attempts=100,
            back_off_s=0.2,
            lost_nodes=100,
            watchers=[log],
        )
        controller.reconcile()
        if controller.done():
            return 0
        controller.open("scripted", {}, base_sha256="b", dataset_sha256="d")
        workers = SlowWorkers(root, seconds=seconds)
        with closing(RayCrew(workers, cluster, train_threads=1).open()) as crew:
            controller.run(crew)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
