"""A real study, with real training, drawing and judging, is kept in a bucket; its machine is lost in the middle; an
empty machine goes on from the bucket and comes to the same choice, byte for byte.
"""

from __future__ import annotations

import io
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from infra.config import S3Config
from orchestrator.core.layout import Layout
from orchestrator.crew.work import InlineCrew, Report
from orchestrator.keeping.keeping import kept
from orchestrator.keeping.uploads import read_uploads
from orchestrator.planning.config import StudyConfig, load_config, to_yaml
from orchestrator.record.ledger import read_events
from orchestrator.record.state import StudyState, replay
from orchestrator.run import INTERRUPTED, Study, drive, prepare
from tests.infra.conftest import store_at
from tests.infra.proxy import Fault, proxied
from tests.infra.servers import Server
from tests.soaking import seeds

RATE = 20_000
WAIT_S = 12.0
QUICK = Path("conf/quickstart.yaml")
SMALL = (
    "dataset.drawn={solo: 1, pair: 1, trio: 1, seed: 1}",
    "dataset.repeats=1",
    "train.epochs=2",
    "train.batch=3",
    "train.threads=1",
    "train.rank=2",
    "train.resolution=[48, 32]",
    "grid.seeds=[1]",
    "grid.batch=1",
    "grid.drawing={sampler: euler, steps: 1, cfg: 1.0, shift: 3.0, width: 96, height: 64}",
    "decide.confirm_seeds=1",
    "cluster.provider=inline",
    "wandb.mode=disabled",
)


def config_on(machine: Path, place: S3Config | None, *overrides: str) -> StudyConfig:
    config = load_config(QUICK, [*SMALL, *overrides])
    volume = {"folder": str(machine), "s3": place, "seal_every_s": 0.05}
    return config.model_copy(update={"volume": type(config.volume).model_validate(volume)})


class Machine(InlineCrew):
    """The real workers, in this process; the machine is switched off after so many reports."""

    def __init__(self, study: Study, after: int) -> None:
        super().__init__(study.workers, turn_s=0)
        self._left = after

    def wait(self, timeout_s: float) -> list[Report]:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        return super().wait(timeout_s)


def run(config: StudyConfig, after: int = -1, *, tell: Callable[[str], None] = lambda _: None) -> int:
    with kept(config, tell) as keeping:
        console = Console(file=io.StringIO())
        return drive(prepare(config), console, hire=lambda study: Machine(study, after), keeping=keeping)


def known(layout: Layout) -> StudyState:
    return replay(read_events(layout.ledger))


def outcome(layout: Layout) -> dict[str, object]:
    """What a study came to: the bytes of its adapters and pictures, its verdicts, its choice."""
    state = known(layout)
    assert state.choice is not None
    return {
        "adapters": {place: layout.resolve(c.adapter).read_bytes() for place, c in state.checkpoints.items()},
        "pictures": {key: sample.sha256 for key, sample in state.samples.items()},
        "verdicts": state.verdicts,
        "choice": layout.choice.read_bytes(),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    config = config_on(tmp_path_factory.mktemp("undisturbed"), None)
    assert run(config) == 0
    return outcome(config.layout())


def test_a_real_study_goes_on_from_its_bucket(strict: Server, tmp_path: Path, undisturbed: dict[str, object]) -> None:
    place = store_at(strict.endpoint, "strict").config
    here, there = config_on(tmp_path / "here", place), config_on(tmp_path / "there", place)
    assert run(here, after=6) == INTERRUPTED
    saved = known(here.layout())
    assert saved.checkpoints
    assert saved.choice is None
    shutil.rmtree(tmp_path / "here")
    assert run(there) == 0
    assert outcome(there.layout()) == undisturbed
    (trial,) = known(there.layout()).trials
    assert [e.kind for e in read_events(there.layout().ledger)].count("checkpoint_saved") == 2, "trained once"
    assert (
        len(there.layout().metrics(trial).read_text().splitlines()) == known(there.layout()).checkpoints[trial, 2].step
    ), "a row for each step, also of those that were made elsewhere"


@pytest.mark.soak
def test_a_slow_line_holds_up_nothing_but_the_end(
    strict: Server, tmp_path: Path, undisturbed: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line carries a small part of what the study makes while it makes it; one file alone takes longer than the end
    waits for a line that is dead.
    """
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)]
    # Loopback takes a megabyte before anything has arrived; a line that is slow does not.
    monkeypatch.setattr("botocore.args.ClientArgsCreator._compute_socket_options", lambda *_: options)
    with proxied(strict.port, buffer=16384) as proxy:
        place = store_at(proxy.endpoint, "strict").config
        here, there = config_on(tmp_path / "here", place), config_on(tmp_path / "there", place)
        here = here.model_copy(update={"volume": here.volume.model_copy(update={"wait_s": WAIT_S})})
        proxy.set(Fault("slow", rate=RATE))
        heard: list[str] = []
        waiting: list[int] = []

        def tell(line: str) -> None:
            heard.append(line)
            if line.startswith("waiting for uploads | ") and not waiting:
                uploads = read_uploads(here.layout())
                assert uploads is not None
                waiting.append(uploads.waiting_bytes)

        assert run(here, tell=tell) == 0
        assert outcome(here.layout()) == undisturbed
        assert waiting[0] > here.layout().ledger.stat().st_size / 2, "the work was done long before it was sent"
        assert not any(line.startswith("uploads wait, ") for line in heard), "a slow line is no outage"
        biggest = max(path.stat().st_size for path in (here.layout().root / "trials").rglob("*.safetensors"))
        assert biggest / RATE > WAIT_S, "the test means something"
        proxy.set(None)
        shutil.rmtree(tmp_path / "here")
        assert run(there) == 0
        assert outcome(there.layout()) == undisturbed
        assert [e.kind for e in read_events(there.layout().ledger)].count("checkpoint_saved") == 2, "trained once"


RUN = """
import sys
from orchestrator.__main__ import main
sys.exit(main(["run", sys.argv[1]]))
"""


@pytest.mark.soak
@pytest.mark.parametrize("server", ["strict", "gateway"])
@pytest.mark.parametrize("seed", seeds(0, 2))
def test_machines_that_die_one_after_another(
    request: pytest.FixtureRequest, tmp_path: Path, server: str, seed: int, undisturbed: dict[str, object]
) -> None:
    """Each machine's driver is killed at a random moment, and its disk is lost with it."""
    place = store_at(request.getfixturevalue(server).endpoint, server).config
    chance, code = random.Random(seed), -signal.SIGKILL
    for n in range(12):
        config = config_on(tmp_path / f"machine{n}", place)
        conf = tmp_path / f"machine{n}.yaml"
        conf.write_text(to_yaml(config))
        with subprocess.Popen([sys.executable, "-c", RUN, str(conf)], stdout=subprocess.DEVNULL) as driver:
            try:
                driver.wait(timeout=chance.uniform(2, 12) if n < 11 else None)
            except subprocess.TimeoutExpired:
                driver.kill()
            code = driver.wait()
        if code == 0:
            assert outcome(config.layout()) == undisturbed
            return
        assert code == -signal.SIGKILL
        shutil.rmtree(tmp_path / f"machine{n}", ignore_errors=True)
    raise AssertionError("it never came to an end")
