"""W&B's real client against a small service on loopback: what arrives, once, whatever goes wrong in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.core.study import COUNTED_KINDS
from orchestrator.planning.config import StudyConfig, to_data
from orchestrator.record.ledger import read_events
from orchestrator.tracking.identity import study_run_id, trial_run_id
from orchestrator.tracking.service import Unreachable
from orchestrator.tracking.sync import sync
from tests.orchestrator.drawn_study import NAMES, DrawnStudy, draw_study
from tests.orchestrator.test_tracking import configured
from tests.orchestrator.wandb_backend import KEY, Backend, Fault, Run, serving

ROOT = Path(__file__).parents[2]
DRIVER = """
import json, pathlib, sys
from orchestrator.planning.config import parse_config
from orchestrator.core.layout import Layout
from orchestrator.record.ledger import read_events
from orchestrator.record.state import replay
from orchestrator.tracking import Origin, Tracker, service, writer
def say(line):
    sys.stdout.write(line + "\\n")  # at once: runs end in threads of their own, and print would write its newline apart
writer.FINISH_S = 4.0
service.PATIENCE_S = 1.0
layout, config = Layout(pathlib.Path(sys.argv[1])), parse_config(json.loads(sys.argv[2]))
first, last = int(sys.argv[3]), int(sys.argv[4])
events = list(read_events(layout.ledger))
state = replay(events[:first])
tracker = Tracker.open(config, layout, origin=Origin("base", "dataset"), warn=say)
for event in events[first:last]:
    state.apply(event)
    tracker.record(event, state)
tracker.finish(state)
"""


@pytest.fixture
def backend() -> Iterator[Backend]:
    with serving() as there:
        yield there


@pytest.fixture
def study(tmp_path: Path) -> DrawnStudy:
    return draw_study(tmp_path / "studies", epochs=3, seeds=3, confirm=2)


def drive(
    study: DrawnStudy, backend: Backend, events: slice = slice(0, None), config: StudyConfig | None = None
) -> list[str]:
    """One run of the driver, in a process of its own; what it warned of."""
    config = config or configured(study, mode="online")
    first, last, _ = events.indices(sum(1 for _ in read_events(study.layout.ledger)))
    command = [sys.executable, "-c", DRIVER, str(study.layout.root), json.dumps(to_data(config)), str(first), str(last)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(study, backend), cwd=ROOT, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def environment(study: DrawnStudy, backend: Backend) -> dict[str, str]:
    """With a home of its own, so that nothing of this machine's is read."""
    home = study.layout.root.parent / "home"
    home.mkdir(exist_ok=True)
    return os.environ | {"HOME": str(home), "WANDB_BASE_URL": backend.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}


def synced(study: DrawnStudy, backend: Backend) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", "sync", str(study.layout.root)]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(study, backend), cwd=ROOT, timeout=120
    )


def runs(study: DrawnStudy, backend: Backend) -> tuple[Run, Run]:
    """The study's run and its trial's."""
    return backend.run(study_run_id(study.config)), backend.run(trial_run_id(study.config, study.trial))


def holds_everything_once(study: DrawnStudy, backend: Backend) -> None:
    """Every step, epoch and rate is there, none of them twice, and steps only go forward."""
    of_study, of_trial = runs(study, backend)
    assert [row["train/step"] for row in of_trial.rows("train/step")] == list(range(1, 16))
    assert [row["epoch"] for row in of_trial.rows("epochs/loss")] == [1, 2, 3]
    assert [row["epoch"] for row in of_trial.rows("eval/rate")] == [1, 2, 3]
    for run in (of_study, of_trial):
        assert [row["_step"] for row in run.history] == list(range(len(run.history)))
        assert sorted(run.lines) == list(range(len(run.history)))
    assert study.state.choice is not None
    assert of_study.summary["choice/epoch"] == study.state.choice.epoch


def adapters(study: DrawnStudy, backend: Backend) -> dict[str, int]:
    """Alias -> epoch of the version that bears it."""
    versions = [a for a in backend.artifacts.values() if a.collection == f"drawn-{study.trial}"]
    assert all(version.committed and version.type == "model" for version in versions)
    return {alias: version.metadata["epoch"] for version in versions for alias in version.aliases - {"latest"}}


@dataclass
class Arrived:
    """A study that was tracked online in two runs of the driver, and what the service has of it."""

    study: DrawnStudy
    backend: Backend
    uploads_before: int
    """Files that were sent by the first of them."""


@pytest.fixture(scope="module")
def arrived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arrived]:
    drawn = draw_study(tmp_path_factory.mktemp("arrived"), epochs=3, seeds=3, confirm=2)
    with serving() as there:
        third = [i for i, e in enumerate(read_events(drawn.layout.ledger)) if e.kind == "checkpoint_saved"][2]
        assert drive(drawn, there, slice(0, third)) == []
        before = len(there.uploads)
        assert drive(drawn, there, slice(third, None)) == []
        yield Arrived(drawn, there, before)


def test_all_of_a_study_arrives_once(arrived: Arrived) -> None:
    holds_everything_once(arrived.study, arrived.backend)
    of_study, of_trial = runs(arrived.study, arrived.backend)
    assert (of_study.job_type, of_trial.job_type, of_trial.group) == ("study", "trial", "drawn")
    assert of_trial.config["dataset_sha256"]["value"] == "dataset"
    assert (of_study.complete, of_trial.complete) == (True, True)
    assert of_study.rows("cost/drawing_hours")[-1]["cost/drawing_hours"] == pytest.approx(9 * 0.18 / 3600, rel=0.01)
    assert "Nothing to send" in synced(arrived.study, arrived.backend).stdout


def test_adapters_are_versions_of_one_model_under_their_aliases(arrived: Arrived) -> None:
    study = arrived.study
    assert study.state.choice is not None
    rates = {r["epoch"]: r["eval/rate"] for r in runs(study, arrived.backend)[1].rows("eval/rate")}
    leader = max(rates, key=lambda epoch: (rates[epoch], epoch))
    named = {"best": study.state.choice.epoch, "candidate": leader}
    assert adapters(study, arrived.backend) == {f"epoch-{e}": e for e in (1, 2, 3)} | named


def test_characters_are_right_where_no_finding_is_about_them(arrived: Arrived) -> None:
    study = arrived.study
    verdicts = {key: verdict for (key, *_), verdict in study.state.verdicts.items()}
    told = runs(study, arrived.backend)[1].rows("eval/rate")
    for row in told:
        cells = [c for c in study.state.cells.values() if c.epoch == row["epoch"] and c.purpose == "select"]
        findings = [verdicts[c.key].findings for c in cells]
        assert all(f"findings/{kind}" in row for kind in COUNTED_KINDS)
        for name in NAMES:
            wrong = sum(any(name in (f.character, f.other) for f in found) for found in findings)
            low, rate, high = (row[f"characters/{name}/{what}"] for what in ("low", "rate", "high"))
            assert rate == pytest.approx(1 - wrong / len(cells))
            assert 0 <= low <= rate <= high <= 1
    assert {row[f"characters/{name}/rate"] for row in told for name in NAMES} > {1.0}


def test_the_table_of_pictures_grows_without_sending_any_again(arrived: Arrived) -> None:
    """Also across runs of the driver, where the client itself would begin the table anew."""
    backend = arrived.backend
    told = runs(arrived.study, backend)[1].rows("pictures")
    assert [(row["epoch"], row["pictures"]["increment_num"]) for row in told] == [(1, 0), (2, 1), (3, 2)]
    assert [len(row["pictures"]["previous_increments_paths"]) for row in told] == [0, 1, 2]
    grown = {a.id for a in backend.artifacts.values() if a.collection.endswith("-incr-pictures")}
    tables = [name for name in backend.files if name.split("/")[0] in grown and name.endswith(".table.json")]
    rows = [row for name in tables for row in json.loads(backend.files[name])["data"]]
    assert sorted((row[2], row[5]) for row in rows) == [(e, s) for e in (1, 2, 3) for s in (1, 2, 3)]
    images = [Path(name).name for name in backend.uploads if name.split("/")[0] in grown and name.endswith(".png")]
    assert len(images) == len(set(images)) == 9
    assert 0 < arrived.uploads_before < len(backend.uploads)


def test_the_dashboard_is_laid_out_once_and_then_left_alone(arrived: Arrived) -> None:
    backend = arrived.backend
    (view,) = backend.views.values()
    assert sum(request == "GRAPHQL upsertView" for request in backend.requests) == 1
    assert (view["type"], view["displayName"]) == ("project-view", "epochsweep: drawn")
    assert view["projectName"] == "anima-studies"
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    drawn = {metric for s in sections for p in s["panels"] for metric in p["config"].get("metrics", ())}
    told = {key for run in runs(arrived.study, backend) for row in run.history for key in row}
    assert sorted(drawn - told) == [], "every curve of the dashboard is one that is told"


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["refuse", "hang", "500"])
def test_a_service_that_fails_at_the_start_leaves_local_runs_that_are_sent_later(
    study: DrawnStudy, backend: Backend, fault: Fault
) -> None:
    backend.fault = lambda _: fault
    (warning,) = drive(study, backend)
    assert warning.startswith("W&B cannot be reached, records stay in ")
    assert backend.runs == {}
    failed = synced(study, backend)
    assert failed.returncode == 9
    assert failed.stderr.startswith("error: 127.0.0.1:")
    backend.release()
    backend.fault = lambda _: ""
    done = synced(study, backend)
    assert (done.stderr, done.returncode) == ("", 0)
    holds_everything_once(study, backend)
    assert "Nothing to send" in synced(study, backend).stdout


def dies_after(requests: int, fault: Fault) -> Callable[[str], Fault]:
    """A fault that begins with the n-th request of a run's history."""
    seen = [0]

    def said(request: str) -> Fault:
        seen[0] += "file_stream" in request
        return fault if seen[0] > requests else ""

    return said


def once(word: str, fault: Fault) -> Callable[[str], Fault]:
    """A fault of the first request with this word in its name."""
    seen: list[str] = []

    def said(request: str) -> Fault:
        if word not in request or seen:
            return ""
        seen.append(request)
        return fault

    return said


@pytest.mark.parametrize("fault", ["refuse", pytest.param("500", marks=pytest.mark.soak)])
def test_a_service_that_dies_midway_gets_the_rest_later_and_nothing_twice(
    study: DrawnStudy, backend: Backend, fault: Fault
) -> None:
    backend.fault = dies_after(2, fault)
    warned = drive(study, backend)
    assert warned
    assert [line for line in warned if not line.startswith("W&B ")] == []
    backend.fault = once("UpsertBucket", "403")
    done = synced(study, backend)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.count("again    in 2 s: W&B did not take it") == 1
    holds_everything_once(study, backend)


@pytest.mark.soak
def test_sending_that_breaks_off_goes_on_where_it_ended(
    study: DrawnStudy, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(study, backend, config=configured(study, mode="offline"))
    assert backend.requests == []
    for name, value in environment(study, backend).items():
        monkeypatch.setenv(name, value)
    backend.fault = lambda request: "500" if "CommitArtifact" in request else ""
    with monkeypatch.context() as hurried:
        hurried.setattr("orchestrator.tracking.sync.SEND_S", 15)
        with pytest.raises(Unreachable, match="W&B took longer"):
            sync(study.config, study.layout, lambda _: None)
    assert study_run_id(study.config) in backend.runs, "it was begun"
    backend.fault = lambda _: ""
    done = synced(study, backend)
    assert (done.stderr, done.returncode) == ("", 0)
    holds_everything_once(study, backend)


def test_nothing_to_send_is_said_without_a_service(study: DrawnStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(study.layout.root)]) == 0
    assert "Nothing to send" in capsys.readouterr().out
