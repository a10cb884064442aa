"""The crew on a real Ray: what it listens on, what happens when an actor dies, what is left when the driver dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from evaluators.grid import select_cells
from infra.config import ClusterConfig
from orchestrator.core.errors import AdapterError, MissingError, StudyError
from orchestrator.core.study import Cell, Sample, Verdict
from orchestrator.crew.actors import RayCrew
from orchestrator.crew.session import RaySession
from orchestrator.crew.work import Drawn, Failed, Judged, Report, Slice, Trained
from orchestrator.deciding.decisions import Draw, Judge, Train
from tests.orchestrator.scripted import JUDGE, checkpoint, target

DEADLINE_S = 240.0
"""Generous: starting processes takes long on a starved machine, and only a failure waits so long."""


@dataclass(frozen=True)
class TinyWorkers:
    """Plain workers that report who they are; seeds below zero make them misbehave."""

    root: Path

    def trainer(self, trial: str, attempt: int = 0) -> TinyTrainer:  # noqa: ARG002
        return TinyTrainer(trial)

    def artist(self) -> TinyArtist:
        return TinyArtist()

    def critic(self) -> TinyCritic:
        return TinyCritic()


class TinyTrainer:
    def __init__(self, trial: str) -> None:
        self.trial, self.epoch = trial, 0

    def advance(self, turn_s: float) -> Slice:  # noqa: ARG002
        self.epoch += 1
        return Slice(checkpoints=(checkpoint(self.trial, self.epoch),), done=self.epoch == 3)


class TinyArtist:
    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        if cells[0].seed == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if cells[0].seed == 14:
            raise AdapterError("corrupt", where="adapter.safetensors", fix="retrain")
        if cells[0].seed == 15:
            time.sleep(600)
        return [Sample(cell.key, f"{os.getpid()}.png", "s", 0.1) for cell in cells]


class TinyCritic:
    def judge(self, cells: Sequence[Cell], samples: Sequence[Sample]) -> list[Verdict]:
        return [Verdict(c.key, *JUDGE, "pass", seen=(s.image,)) for c, s in zip(cells, samples, strict=True)]


def cell(seed: int) -> Cell:
    wanted = target(seeds=[seed])
    (only,) = select_cells(checkpoint("main", 1), wanted.grid, wanted.base_sha256).values()
    return only


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    cluster = ClusterConfig(inference_actors=1, threads=1, silence_s=DEADLINE_S)
    crew = RayCrew(TinyWorkers(tmp_path_factory.mktemp("tiny")), cluster, train_threads=1).open()
    yield crew
    crew.close()
    assert not crew._session.folder.exists(), "nothing is left behind"


def reports(crew: object, count: int) -> list[Report]:
    """The next `count` reports, or a failure at the deadline."""
    found: list[Report] = []
    until = time.monotonic() + DEADLINE_S
    while len(found) < count and time.monotonic() < until:
        found += crew.wait(1.0)  # type: ignore[attr-defined]
    assert len(found) >= count
    return found


def test_facts_stream_back_while_others_work(crew) -> None:
    crew.submit(Train("main"))
    crew.submit(Draw((cell(1),)))
    found = reports(crew, 4)
    trained = [r for r in found if isinstance(r, Trained)]
    assert [c.epoch for r in trained for c in r.slice.checkpoints] == [1, 2, 3]
    assert [r.slice.done for r in trained] == [False, False, True]
    (drawn,) = [r for r in found if isinstance(r, Drawn)]
    assert drawn.samples[0].image != f"{os.getpid()}.png", "another process drew it"


def test_halted_training_reports_the_turn_under_way_and_no_more(crew) -> None:
    crew.submit(Train("halted"))
    crew.halt(Train("halted"))
    (last,) = reports(crew, 1)
    assert isinstance(last, Trained)
    assert [c.epoch for c in last.slice.checkpoints] == [1]
    assert crew.wait(0.5) == []
    crew.submit(Train("other"))
    assert [r.slice.checkpoints[0].epoch for r in reports(crew, 3) if isinstance(r, Trained)] == [1, 2, 3]


def test_verdicts_come_back_for_the_samples_that_were_sent(crew) -> None:
    crew.submit(Judge((cell(1),)), [Sample(cell(1).key, "a.png", "s", 0.1)])
    (report,) = reports(crew, 1)
    assert isinstance(report, Judged)
    assert report.verdicts[0].seen == ("a.png",)


def test_a_dead_actor_is_reported_and_replaced(crew) -> None:
    crew.submit(Draw((cell(13),)))
    (report,) = reports(crew, 1)
    assert isinstance(report, Failed)
    assert "died" in str(report.error)
    crew.submit(Draw((cell(2),)))
    (report,) = reports(crew, 1)
    assert isinstance(report, Drawn)


def test_an_error_crosses_as_itself_and_the_actor_stays(crew) -> None:
    crew.submit(Draw((cell(2),)))
    (before,) = reports(crew, 1)
    crew.submit(Draw((cell(14),)))
    (report,) = reports(crew, 1)
    assert isinstance(report, Failed)
    assert isinstance(report.error, AdapterError)
    assert (report.error.where, report.error.fix) == ("adapter.safetensors", "retrain")
    crew.submit(Draw((cell(3),)))
    (after,) = reports(crew, 1)
    assert isinstance(before, Drawn)
    assert isinstance(after, Drawn)
    assert after.samples[0].image == before.samples[0].image


def test_an_actor_that_says_nothing_is_let_go(crew) -> None:
    crew._roster.patience = replace(crew._roster.patience, silence_s=1.0)
    crew.submit(Draw((cell(15),)))
    (report,) = reports(crew, 1)
    assert isinstance(report, Failed)
    assert "said nothing for 1 s" in str(report.error)


@pytest.mark.usefixtures("crew")
def test_nothing_listens_beyond_loopback() -> None:
    me = psutil.Process()
    family = {p.pid for p in (me, *me.children(recursive=True))}
    names = {p.name() for p in me.children(recursive=True)}
    assert any("raylet" in name for name in names), "the check below looks at a live Ray"
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line for line in listening if any(f"pid={pid}," in line for pid in family)]
    assert len(ours) >= 4
    for line in ours:
        host = line.split()[3].rpartition(":")[0].strip("[]")
        address = ip_address("0.0.0.0" if host == "*" else host)
        mapped = getattr(address, "ipv4_mapped", None) or address
        assert mapped.is_loopback, line


@pytest.mark.usefixtures("crew")
def test_nothing_is_written_to_the_home_folder() -> None:
    assert not (Path.home() / ".ray").exists()


def test_a_ray_that_does_not_start_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []

    def fail(_session: object, _cpus: int) -> None:
        starts.append(1)
        raise RuntimeError("The current node timed out\nduring startup.")

    monkeypatch.setattr(RaySession, "_start", fail)
    with pytest.raises(StudyError, match=r"Ray did not start: The current node timed out during startup\.") as error:
        RayCrew(TinyWorkers(tmp_path), ClusterConfig(attempts=2)).open()
    assert "cluster.provider=inline" in error.value.fix
    assert len(starts) == 2


def test_as_many_draw_as_the_machines_that_joined_have_room_for(tmp_path: Path) -> None:
    asked = {"address": "127.0.0.1:1", "inference_actors": "all", "device": "cuda"}
    crew = RayCrew(TinyWorkers(tmp_path), ClusterConfig.model_validate(asked), train_threads=2)
    assert crew._artists() == 1, "one at least is waited for"
    crew._alive = {"head": {"CPU": 8.0}, "a": {"GPU": 2.0}}
    assert crew._artists() == 1
    crew._alive["b"] = {"GPU": 4.0}
    assert crew._artists() == 5, "six GPUs, one of which trains"
    crew._cluster = crew._cluster.model_copy(update={"device": "cpu", "threads": 2, "trainers": 2})
    crew._threads = {"train": 2, "draw": 2, "judge": 1}
    crew._alive = {"a": {"CPU": 5.0}, "b": {"CPU": 4.0}}
    assert crew._artists() == 2, "two fit on each, and two places are the trainers'"


def test_a_cluster_is_not_joined_without_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "epochsweep-of-our-own")
    crew = RayCrew(TinyWorkers(tmp_path), ClusterConfig(address="127.0.0.1:1"))
    with pytest.raises(MissingError, match="the token of the Ray cluster is not here") as error:
        crew.open()
    assert "RAY_AUTH_TOKEN" in error.value.fix


DRIVER = """
import json, sys
from pathlib import Path
import psutil  # type: ignore[import-untyped]
from evaluators.grid import select_cells
from infra.config import ClusterConfig
from orchestrator.crew.actors import RayCrew
from orchestrator.deciding.decisions import Draw
from tests.orchestrator.test_actors import TinyWorkers, cell

if __name__ == "__main__":
    crew = RayCrew(TinyWorkers(Path(sys.argv[1])), ClusterConfig()).open()
    crew.submit(Draw((cell(1),)))
    while not crew.wait(1.0):
        pass
    crew.submit(Draw((cell(15),)))
    children = psutil.Process().children(recursive=True)
    print(json.dumps([[p.pid, p.create_time(), " ".join(p.cmdline())] for p in children]), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("agents", ["apart", pytest.param("too", marks=pytest.mark.soak)])
def test_no_process_outlives_a_driver_that_is_killed(tmp_path: Path, agents: str) -> None:
    """Our own and Ray's daemons and workers end at once; Ray's two agents once they have tried for a fixed minute to
    tell the daemons, which are gone, that these are gone."""
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        children = json.loads(driver.stdout.readline() or "[]")
        driver.kill()
    assert len(children) > 3
    patient = [child for child in children if child[2].startswith(RAY_AGENTS)]
    assert len(patient) == 2, children
    waited_for = children if agents == "too" else [child for child in children if child not in patient]
    until = time.monotonic() + DEADLINE_S
    try:
        while (left := [one for one in waited_for if _runs(one[0], one[1])]) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left
    finally:
        for pid, born, _ in patient:
            if _runs(pid, born):
                os.kill(pid, signal.SIGKILL)


RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def _runs(pid: int, born: float) -> bool:
    """Whether this very process still runs; one that nobody has buried yet does not."""
    try:
        process = psutil.Process(pid)
        return process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
