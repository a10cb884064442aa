"""A study is kept on its volume while it runs, and an empty machine goes on from there.

Only the work itself is scripted; volumes, servers, ledgers and the run around them are the real ones.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save

import orchestrator.keeping.keeping
import orchestrator.keeping.mirroring
from infra.config import S3Config
from infra.dialects import DIALECTS, MINIO
from infra.lease import acquire
from infra.mirror import sample_group
from infra.open import open_volume
from infra.volume import Volume
from orchestrator.__main__ import main
from orchestrator.core.errors import BusyError, StudyError, VolumeError
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.crew.work import Crew, InlineCrew, Report
from orchestrator.keeping.keeping import kept
from orchestrator.keeping.restoring import STATE_FILE
from orchestrator.keeping.uploads import Uploads, read_uploads, write_uploads
from orchestrator.keeping.verify import check
from orchestrator.planning.config import StudyConfig
from orchestrator.record.ledger import read_events
from orchestrator.record.state import StudyState, replay
from orchestrator.run import INTERRUPTED, Study, drive, prepare
from tests.infra.conftest import BUCKET, HASTY, store_at
from tests.infra.proxy import Fault, proxied
from tests.infra.servers import Server
from tests.orchestrator.scripted import ScriptedTrainer, ScriptedWorkers
from tests.orchestrator.test_run import study_config
from tests.soaking import seeds
from trainer.states import FILE

EPOCHS = 3
PATIENCE = replace(HASTY, read_s=20, complete_s=20)
Place = S3Config | Path


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits in these tests waits for an event, not for a while to pass."""
    monkeypatch.setattr(orchestrator.keeping.mirroring, "IDLE_S", 0.05)
    monkeypatch.setattr(orchestrator.keeping.keeping, "STOPPED_WAIT_S", 20 * PATIENCE.pause_s)


@pytest.fixture(params=["folder", "strict", "gateway"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where studies are kept."""
    if request.param == "folder":
        return tmp_path / "mounted"
    server: Server = request.getfixturevalue(request.param)
    return store_at(server.endpoint, request.param).config


def config_of(machine: Path, place: Place, *overrides: str, wait_s: float = 60) -> StudyConfig:
    """A small study that works on a machine and is kept at a place."""
    config = study_config(machine, *overrides)
    where = {"s3": place} if isinstance(place, S3Config) else {"mount": str(place)}
    volume = {"folder": config.volume.folder, "seal_every_s": 0.01, "wait_s": wait_s, **where}
    return config.model_copy(update={"volume": type(config.volume).model_validate(volume)})


class Stops(InlineCrew):
    """Works until it has given so many reports; then the driver is asked to stop, or something else happens."""

    def __init__(self, study: Study, after: int, then: Callable[[], None], *, states: bool) -> None:
        super().__init__(Training(study.layout.root, epochs=EPOCHS, states=states), turn_s=0)
        self._left, self._then = after, then

    def wait(self, timeout_s: float) -> list[Report]:
        self._left -= 1
        if self._left == 0:
            self._then()
        return super().wait(timeout_s)


class Training(ScriptedWorkers):
    """Scripted workers that leave training states and metrics, as real training does."""

    def __init__(self, root: Path, *, epochs: int, states: bool) -> None:
        super().__init__(root, epochs=epochs)
        object.__setattr__(self, "states", states)

    def trainer(self, trial: str, attempt: int = 0) -> ScriptedTrainer:
        return StatefulTrainer(self, trial) if self.states else super().trainer(trial, attempt)  # type: ignore[attr-defined]


class StatefulTrainer(ScriptedTrainer):
    def advance(self, turn_s: float):
        if self.missing:
            epoch, layout = self.missing[0], self.layout
            state = layout.states(self.trial) / f"epoch-{epoch:04d}" / STATE_FILE
            state.parent.mkdir(parents=True, exist_ok=True)
            state.write_bytes(save({"weight": np.full(9000, epoch, dtype=np.float32)}))
            with layout.metrics(self.trial).open("a") as stream:
                stream.write(json.dumps({"epoch": epoch, "step": epoch * 10}) + "\n")
        return super().advance(turn_s)


def interrupted() -> None:
    raise KeyboardInterrupt


def run(
    config: StudyConfig,
    *,
    after: int = -1,
    then: Callable[[], None] = interrupted,
    tell: Callable[[str], None] = lambda _: None,
    states: bool = False,
    silence_s: float = 60,
) -> int:
    """`run CONF`, up to the work itself."""

    def hire(study: Study) -> Crew:
        return Stops(study, after, then, states=states)

    with kept(config, tell, patience=PATIENCE, silence_s=silence_s) as keeping:
        return drive(prepare(config), Console(quiet=True), hire=hire, keeping=keeping)


def known(config: StudyConfig) -> StudyState:
    return replay(read_events(config.layout().ledger))


def volume_of(config: StudyConfig) -> Volume:
    place = config.volume.kept_at(config.study)
    assert place is not None
    return open_volume(place, patience=PATIENCE)


def calls(*machines: Path) -> list[str]:
    return [call for machine in machines for call in ScriptedWorkers(machine / "runs" / "quickstart").calls()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyState, list[str]]:
    machine = tmp_path_factory.mktemp("undisturbed")
    config = study_config(machine)
    with kept(config, lambda _: None) as keeping:
        assert keeping is None
        drive(prepare(config), Console(quiet=True), hire=lambda s: Stops(s, -1, interrupted, states=False))
    return known(config), calls(machine)


def results(state: StudyState) -> tuple[object, ...]:
    """What a study comes to, without how long it took."""
    return state.checkpoints, {k: s.sha256 for k, s in state.samples.items()}, state.verdicts, state.choice


def test_a_study_stopped_here_goes_on_on_an_empty_machine(
    place: Place, tmp_path: Path, undisturbed: tuple[StudyState, list[str]]
) -> None:
    here, there = config_of(tmp_path / "here", place), config_of(tmp_path / "there", place)
    assert run(here, after=4) == INTERRUPTED
    shutil.rmtree(here.layout().root)
    assert run(there) == 0
    state, made = undisturbed
    assert results(known(there)) == results(state)
    assert sorted(calls(tmp_path / "here", tmp_path / "there")) == sorted(made), "nothing is made twice, nothing lost"
    volume = volume_of(there)
    assert {volume.verify(key) for key in volume.keys()} == {"whole"}  # noqa: SIM118 (not a mapping)
    assert {"study.yaml", "report.html"} <= set(volume.keys())


class Killed(BaseException):
    """The machine is gone, with its disk."""


def gone() -> None:
    raise Killed


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(n, marks=pytest.mark.soak) for n in seeds(5, 20))])
def test_machines_that_are_lost_at_random_moments_make_one_whole_study(
    tmp_path: Path, undisturbed: tuple[StudyState, list[str]], seed: int
) -> None:
    """What a lost machine had recorded and not sent is made again; nothing else is, and all comes out the same.

    The thread that sends for a lost machine may still be at work when the next one begins, as after a network split.
    """
    chance, place, machines = random.Random(seed), tmp_path / "mounted", list[Path]()
    code = -1
    while code != 0:
        machines.append(tmp_path / f"machine{len(machines)}")
        config = config_of(machines[-1], place)
        with suppress(Killed, BusyError):
            code = run(config, after=chance.randrange(1, 9) if len(machines) < 8 else -1, then=gone, states=True)
    assert results(known(config)) == results(undisturbed[0])
    checked, _ = check(config.layout(), volume=volume_of(config), deep=True)
    assert checked.faults == []
    made = calls(*machines)
    assert set(made) == set(undisturbed[1]), "nothing was left out"
    if len(machines) > 1:
        assert len(made) < len(machines) * len(undisturbed[1]), "it was not begun anew each time"


def test_an_epoch_is_pulled_from_the_bucket_while_and_after_the_study_runs(
    strict: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EPOCHSWEEP_CACHE", str(tmp_path / "cache"))
    config = config_of(tmp_path / "here", store_at(strict.endpoint, "strict").config)
    kept_at = config.volume.kept_at(config.study)
    assert isinstance(kept_at, S3Config)
    address = f"s3://{kept_at.bucket}/{kept_at.prefix}?endpoint={kept_at.endpoint}"
    assert run(config, after=4) == INTERRUPTED
    shutil.rmtree(config.layout().root)
    assert main(["pull", address, "--epoch", "last", "--to", str(tmp_path / "home"), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    adapter = tmp_path / "home" / first["adapter"]["file"]
    assert file_sha256(adapter) == first["adapter"]["recorded_sha256"]
    assert run(config) == 0
    assert main(["pull", address, "--follow", "--to", str(tmp_path / "all"), "--every", "0", "--json"]) == 0
    followed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["epoch"] for one in followed] == [1, 2, 3]
    with strict.frozen("proxy"), monkeypatch.context() as hasty:
        hasty.setitem(DIALECTS, "minio", replace(MINIO, patience=replace(HASTY, connect_s=0.5, read_s=0.5)))
        assert main(["pull", address]) == 4
    assert "no answer in 2 tries" in capsys.readouterr().err


def test_running_again_elsewhere_fetches_all_and_makes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    here, there = config_of(tmp_path / "here", place), config_of(tmp_path / "there", place)
    assert run(here, states=True) == 0
    heard: list[str] = []
    assert run(there, tell=heard.append) == 0
    assert calls(tmp_path / "there") == []
    assert any(line.startswith("ledger fetched | ") for line in heard)
    assert any(line.startswith("files fetched | ") for line in heard)
    assert there.layout().ledger.read_bytes() == here.layout().ledger.read_bytes()
    uploads = read_uploads(there.layout())
    assert uploads is not None
    assert (uploads.outage, uploads.waiting_bytes) == ("", 0)
    assert "nothing waits" in uploads.line()


def test_training_goes_on_from_the_state_and_the_metrics_of_the_other_machine(tmp_path: Path) -> None:
    assert STATE_FILE == FILE
    place = tmp_path / "mounted"
    here, there = config_of(tmp_path / "here", place), config_of(tmp_path / "there", place)
    run(here, after=3, states=True)
    last = max(epoch for _, epoch in known(here).checkpoints)
    (trial,) = known(here).trials
    kept_states = list(volume_of(here).keys(f"trials/{trial}/state/"))
    assert kept_states == [f"trials/{trial}/state/epoch-{last:04d}/{STATE_FILE}"], "older ones are not kept"
    assert last < EPOCHS, "the test stops within the training"
    seen: list[tuple[bool, str]] = []

    def look() -> None:
        layout = there.layout()
        state = layout.states(trial) / f"epoch-{last:04d}" / STATE_FILE
        seen.append((state.is_file(), layout.metrics(trial).read_text()))

    run(there, after=1, then=look, states=True)
    assert seen == [(True, here.layout().metrics(trial).read_text())]


def test_a_state_within_the_first_epoch_goes_along_too(tmp_path: Path) -> None:
    here, there = (
        config_of(tmp_path / "here", tmp_path / "mounted"),
        config_of(tmp_path / "there", tmp_path / "mounted"),
    )
    trial, name = prepare(here).target.trials[0].trial, "epoch-0001-step-00000007"

    def save_within() -> None:
        file = here.layout().states(trial) / name / STATE_FILE
        file.parent.mkdir(parents=True)
        file.write_bytes(save({"weight": np.zeros(3, dtype=np.float32)}))
        raise KeyboardInterrupt

    assert run(here, after=1, then=save_within) == INTERRUPTED
    assert known(here).checkpoints == {}
    assert [e.kind for e in read_events(here.layout().ledger)].count("trial_started") == 1
    seen: list[bool] = []
    state_there = there.layout().states(trial) / name / STATE_FILE
    run(there, after=1, then=lambda: seen.append(state_there.is_file()), states=True)
    assert seen == [True]
    kept_states = list(volume_of(there).keys(f"trials/{trial}/state/"))
    assert kept_states == [f"trials/{trial}/state/epoch-{EPOCHS:04d}/{STATE_FILE}"], "what is newer replaces it"


def test_an_outage_never_stops_the_study_and_the_end_waits_for_the_uploads(
    strict: Server, tmp_path: Path, undisturbed: tuple[StudyState, list[str]]
) -> None:
    """The connection dies after the first epoch and is back only when all the work is done."""
    with proxied(strict.port) as proxy:
        config = config_of(tmp_path / "here", store_at(proxy.endpoint, "strict").config)
        heard: list[str] = []
        outages: list[str] = []

        def tell(line: str) -> None:
            heard.append(line)
            if line.startswith("waiting for uploads | "):
                uploads = read_uploads(config.layout())
                assert uploads is not None
                outages.append(uploads.line())
                proxy.set(None)

        broken = Fault("cut", towards="server", after=0, lasting=True)
        assert run(config, after=2, then=lambda: proxy.set(broken), tell=tell) == 0
        assert results(known(config)) == results(undisturbed[0])
        assert any(line.startswith("uploads wait, the study goes on | ") for line in heard)
        assert any(line.startswith("uploads go on | ") for line in heard)
        assert re.search(r"\| waiting for \d+ s: s3://", outages[0])
        assert "facts and their files to go" in next(line for line in heard if line.startswith("waiting for uploads"))
        there = config_of(tmp_path / "there", config.volume.s3 or Path())
        assert run(there) == 0
        assert calls(tmp_path / "there") == []


def test_uploads_that_never_get_through_are_one_clear_line_and_the_next_run_sends_them(
    gateway: Server, tmp_path: Path
) -> None:
    with proxied(gateway.port) as proxy:
        config = config_of(tmp_path / "here", store_at(proxy.endpoint, "gateway").config, wait_s=0.5)
        broken = Fault("cut", towards="server", after=0, lasting=True)
        with pytest.raises(VolumeError, match="facts and their files to go") as error:
            run(config, after=2, then=lambda: proxy.set(broken))
        assert "the same command sends the rest" in error.value.fix
        assert known(config).finished_at is not None
        proxy.set(None)
        made = calls(tmp_path / "here")
        # The lease could not be let go of through the dead connection, and its holder is this very process.
        heard: list[str] = []
        assert run(config_of(tmp_path / "here", config.volume.s3 or Path()), tell=heard.append, silence_s=0) == 0
        assert "silent for 0 s, taken for dead | process" in heard[0]
        assert calls(tmp_path / "here") == made
        assert run(config_of(tmp_path / "there", config.volume.s3 or Path())) == 0
        assert calls(tmp_path / "there") == []


def test_what_is_damaged_here_is_fetched_again_and_not_made_again(tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    config = config_of(tmp_path / "here", place)
    run(config)
    made, state = calls(tmp_path / "here"), known(config)
    adapter, picture = (config.layout().root / f for f in _one_of_each(state))
    whole = adapter.read_bytes(), picture.read_bytes()
    adapter.write_bytes(b"damaged")
    picture.unlink()
    assert run(config) == 0
    assert (adapter.read_bytes(), picture.read_bytes()) == whole
    assert calls(tmp_path / "here") == made
    assert known(config).quarantined == []


def test_what_is_damaged_on_both_sides_is_made_again_and_replaced_there(tmp_path: Path) -> None:
    config = config_of(tmp_path / "here", tmp_path / "mounted")
    run(config)
    state, volume = known(config), volume_of(config)
    sample = next(iter(state.samples.values()))
    (config.layout().root / sample.image).write_bytes(b"damaged")
    volume.quarantine(sample.image, "for the test")
    assert run(config) == 0
    assert volume.verify(sample.image) == "whole"
    for file in sample_group(config.layout(), sample):
        assert volume.read(file.key) == (config.layout().root / file.key).read_bytes()


def test_a_machine_that_was_taken_over_stops_and_later_takes_part_again(tmp_path: Path) -> None:
    """Another machine takes the study over in the middle, finishes it, and the first one comes back."""
    place = tmp_path / "mounted"
    here, there = config_of(tmp_path / "here", place), config_of(tmp_path / "there", place)

    def takeover() -> None:
        # The first machine's driver hangs in the middle of its work: it neither beats nor lets go.
        store = volume_of(here).store
        acquire(store, takeover=True, silence_s=0, sleep=lambda _: None).release()
        assert run(there) == 0

    with pytest.raises(BusyError, match="was taken over: process"):
        run(here, after=6, then=takeover)
    own = here.layout().ledger.read_bytes()
    heard: list[str] = []
    assert run(here, tell=heard.append) == 0
    assert here.layout().ledger.read_bytes().startswith(there.layout().ledger.read_bytes())
    if not there.layout().ledger.read_bytes().startswith(own):
        assert any("as it was here, it is kept in quarantine/" in line for line in heard)
        (aside,) = here.layout().quarantine.glob("ledger.jsonl.*")
        assert aside.read_bytes() == own
    assert known(here).choice == known(there).choice


@pytest.mark.parametrize("meanwhile", ["nobody", "another machine"])
def test_a_machine_cut_off_from_its_volume_may_go_on_alone_and_joins_it_later(
    gateway: Server, tmp_path: Path, undisturbed: tuple[StudyState, list[str]], meanwhile: str
) -> None:
    """It is told how, publishes nothing, and what it made is sent later, or set apart when another one went on."""
    with proxied(gateway.port) as proxy:
        place = store_at(proxy.endpoint, "gateway").config
        here, there = config_of(tmp_path / "here", place), config_of(tmp_path / "there", place)
        assert run(here, after=4) == INTERRUPTED
        proxy.set(Fault("cut", towards="server", after=0, lasting=True))
        with pytest.raises(VolumeError, match="no connection that lasts") as error:
            run(here)
        assert error.value.fix.endswith(
            f"or go on in this folder alone with volume={here.volume.folder}: "
            "what it makes is sent when this command runs again"
        )
        with pytest.raises(VolumeError) as elsewhere:
            run(there)
        assert "alone" not in elsewhere.value.fix, "nothing here is known to be the volume's study"
        proxy.set(None)
        before = set(volume_of(here).keys())
        proxy.set(Fault("cut", towards="server", after=0, lasting=True))
        volume = type(here.volume).model_validate(here.volume.folder)
        assert run(here.model_copy(update={"volume": volume})) == 0
        assert results(known(here)) == results(undisturbed[0])
        own = here.layout().ledger.read_bytes()
        proxy.set(None)
        assert set(volume_of(here).keys()) == before
        if meanwhile == "another machine":
            assert run(there) == 0
        made, heard = calls(tmp_path / "here"), list[str]()
        assert run(here, tell=heard.append) == 0
        assert calls(tmp_path / "here") == made
        assert results(known(here)) == results(undisturbed[0])
        if meanwhile == "another machine":
            assert here.layout().ledger.read_bytes().startswith(there.layout().ledger.read_bytes())
            (aside,) = here.layout().quarantine.glob("ledger.jsonl.*")
            assert aside.read_bytes() == own
        else:
            assert here.layout().ledger.read_bytes().startswith(own)
            assert run(there) == 0
            assert calls(tmp_path / "there") == []


def test_another_study_of_the_same_name_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    run(config_of(tmp_path / "here", place), after=3)
    other = config_of(tmp_path / "other", place)
    with kept(study_config(tmp_path / "other"), lambda _: None):
        drive(
            prepare(study_config(tmp_path / "other")),
            Console(quiet=True),
            hire=lambda s: Stops(s, 3, interrupted, states=False),
        )
    before = other.layout().ledger.read_bytes()
    with pytest.raises(VolumeError, match="keeps another study of this name") as error:
        run(other)
    assert error.value.fix
    assert other.layout().ledger.read_bytes() == before


def test_a_ledger_never_names_a_file_that_was_not_there_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume refuses after each number of writes in turn; whatever is sealed by then can be restored whole."""
    from infra.folder import FolderStore

    create, left = FolderStore.create, [10**6]

    def limited(self: FolderStore, name: str, data: bytes) -> bool:
        if left[0] <= 0 and "lease" not in name:
            raise VolumeError("out")
        left[0] -= 1
        return create(self, name, data)

    monkeypatch.setattr(FolderStore, "create", limited)
    place = tmp_path / "mounted"
    for turn, budget in enumerate((4, 9, 17, 3, 8)):
        here = config_of(tmp_path / "here", place, wait_s=0.05)
        left[0] = budget
        with suppress(StudyError):
            run(here, after=4 * turn + 5)
        left[0] = 10**6
        there = config_of(tmp_path / f"there{turn}", place)
        with kept(there, lambda _: None) as keeping:
            assert keeping is not None
            keeping.join()
            state = known(there) if there.layout().ledger.exists() else StudyState()
            for group in (sample_group(there.layout(), s) for s in state.samples.values()):
                assert all(volume_of(there).verify(file.key) == "whole" for file in group)
            for checkpoint in state.checkpoints.values():
                assert volume_of(there).verify(checkpoint.adapter) == "whole"


def _one_of_each(state: StudyState) -> tuple[str, str]:
    return next(iter(state.checkpoints.values())).adapter, next(iter(state.samples.values())).image


def test_addresses_lead_to_a_folder_of_the_study(tmp_path: Path) -> None:
    config = config_of(tmp_path, S3Config(bucket=BUCKET, prefix="a/b", endpoint="http://127.0.0.1:9"))
    kept_at = config.volume.kept_at("trio")
    assert isinstance(kept_at, S3Config)
    assert kept_at.place == f"s3://{BUCKET}/a/b/trio at 127.0.0.1:9"
    assert config.layout() == Layout(tmp_path / "runs" / "quickstart")


def test_what_waits_is_told_from_the_ledger_as_it_is_now(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.ledger.write_bytes(b"x" * 5000)
    write_uploads(layout, Uploads("s3://b/p", files=3, size=2_500_000, sealed_bytes=5000, moved_at=time.time()))
    told = read_uploads(layout)
    assert told is not None
    assert told.line() == "s3://b/p | 3 files (2.5 MB) sent by the latest run | nothing waits"
    layout.ledger.write_bytes(b"x" * 8400)
    told = read_uploads(layout)
    assert told is not None
    assert told.line().endswith("| 3.4 kB of facts wait with their files")
    write_uploads(layout, Uploads("s3://b/p", sealed_bytes=5000, moved_at=time.time() - 600))
    told = read_uploads(layout)
    assert told is not None
    assert told.line() == "s3://b/p | 3.4 kB of facts wait with their files, none got through for 10 min"
    layout.uploads.write_text("[]")
    assert read_uploads(layout) is None
