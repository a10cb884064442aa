"""Two processes that train together follow the loss curve of one, and one of them writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anima.adapter_files import read_adapter
from orchestrator.core.layout import Layout
from tests.trainer.pocket_trials import VARIED, losses, make_job, saved, varied_dataset
from trainer.checkpoints import published_checkpoints
from trainer.team import Team, join_team
from trainer.trial import run_trial

TEAM = Path(__file__).with_name("team_of_two.py")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def train_together(study: Path, dataset: Path, out: Path) -> list[list[float]]:
    """The losses that each of two processes saw."""
    out.mkdir()
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TEAM), str(free_port()), str(study), str(dataset), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    root, study = varied_dataset(tmp_path / "dataset"), tmp_path / "together"
    alone = list(run_trial(make_job(tmp_path / "alone", root, VARIED)))
    curves = train_together(study, root, tmp_path / "curves")
    assert curves[0] == curves[1], "everybody knows the loss of the whole step"
    assert curves[0] == pytest.approx(losses(alone), rel=1e-4)
    published = published_checkpoints(Layout(study), "main")
    assert [c.epoch for c in published] == [1, 2, 3]
    for own, theirs in zip(saved(alone), published, strict=True):
        one = read_adapter(Layout(tmp_path / "alone").resolve(own.adapter))
        two = read_adapter(Layout(study).resolve(theirs.adapter))
        assert one.metadata == two.metadata
        assert all(torch.allclose(one.state[name], two.state[name], atol=2e-4) for name in one.state)
    assert len(Layout(study).metrics("main").read_text().splitlines()) == len(curves[0])


@pytest.mark.parametrize(("size", "parts", "pictures"), [(1, 3, 2), (2, 3, 2), (2, 1, 5), (3, 2, 1), (4, 8, 1)])
def test_every_row_is_taken_exactly_once(size: int, parts: int, pictures: int) -> None:
    for part in range(parts):
        taken = sorted(row for rank in range(size) for row in Team(rank, size).rows(part, parts, pictures))
        assert taken == list(range(pictures))


def test_work_is_dealt_evenly() -> None:
    shares = [Team(rank, 3).share(list(range(10))) for rank in range(3)]
    assert sorted(w for share in shares for w in share) == list(range(10))
    assert {len(share) for share in shares} == {3, 4}


def test_without_a_launcher_one_trains_alone() -> None:
    assert join_team() == Team(0, 1)
    assert Team().leads
