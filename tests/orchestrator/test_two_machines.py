"""The whole product on a cluster of two machines: it trains on one, draws on the other, and either may die.

Real training and drawing on pocket Anima, started as a person starts it, held against a run without Ray.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.core.layout import Layout
from orchestrator.record.ledger import read_events
from orchestrator.record.state import StudyState, replay
from tests.orchestrator.history import outcome, sound
from tests.orchestrator.machines import ENVIRONMENT, Cluster, cluster

DEADLINE_S = 400.0
"""Generous: each actor loads torch, which takes long on a starved machine; only a failure waits so long."""
TINY = (
    "study=tiny",
    "dataset.drawn={solo: 3, pair: 1, trio: 1}",
    "train={epochs: 4, rank: 4, learning_rate: 2e-3, batch: 4, resolution: [96, 64], dtype: fp32, threads: 1}",
    "grid.seeds=[1, 2]",
    "grid.batch=2",
    "grid.drawing.steps=3",
    "decide.confirm_seeds=2",
    "cluster.threads=1",
    "wandb.mode=disabled",
)
APART = (
    "cluster.train_on=[{pod: a}, {}]",
    "cluster.draw_on=[{pod: b}, {}]",
    "cluster.heartbeat_s=1",
    "cluster.back_off_s=0.5",
)


def command(volume: Path, *arguments: str) -> list[str]:
    run = [sys.executable, "-m", "orchestrator", "run", "conf/quickstart.yaml"]
    return [*run, *TINY, f"volume={volume}", *arguments]


def layout(volume: Path) -> Layout:
    return Layout(volume / "tiny")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    volume = tmp_path_factory.mktemp("inline")
    subprocess.run(command(volume, "--inline"), check=True, capture_output=True)
    return outcome(sound(layout(volume)), layout(volume))


class Study:
    """A run of the command over the cluster."""

    def __init__(self, volume: Path, machines: Cluster) -> None:
        self.volume, self.machines = volume, machines
        arguments = command(volume, f"cluster.address={machines.address}", *APART)
        environment = {**os.environ, **ENVIRONMENT}
        with (volume / "out.txt").open("w") as out:
            self.process = subprocess.Popen(arguments, env=environment, stdout=out, stderr=out)

    def known(self) -> StudyState:
        return replay(read_events(layout(self.volume).ledger))

    def until(self, there: Callable[[StudyState], bool]) -> StudyState:
        """Wait for something to be recorded."""
        until = time.monotonic() + DEADLINE_S
        while not there(state := self.known()):
            assert self.process.poll() is None, (self.volume / "out.txt").read_text()
            assert time.monotonic() < until, "it does not come to pass"
            time.sleep(0.05)
        return state

    def end(self) -> int:
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()


def test_it_trains_on_one_machine_and_draws_on_the_other_and_survives_either(
    tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    with cluster(a=2, b=2) as machines:
        study = Study(tmp_path, machines)
        try:
            study.until(lambda state: bool(state.checkpoints) and bool(state.samples))
            assert machines.actors("a", "Trainer")
            assert not machines.actors("b", "Trainer")
            assert machines.actors("b", "Artist")
            assert not machines.actors("a", "Artist")
            machines.kill("a")
            # It is trained on the other machine now, beside the drawing.
            study.until(lambda state: state.trials[next(iter(state.trials))].finished)
            machines.start("a", 2)
            machines.kill("b")
        finally:
            code = study.end()
    assert code == 0, (tmp_path / "out.txt").read_text()
    assert outcome(sound(layout(tmp_path)), layout(tmp_path)) == undisturbed
    log = layout(tmp_path).log.read_text()
    assert "lost, will be done elsewhere | train main-" in log
