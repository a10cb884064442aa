"""Whatever dies on the way, a study ends in the same choice: real processes, killed and frozen at random moments.

Each test looks at the history afterwards (`history.py`): nothing recorded is missing, nothing was made twice for good,
and adapters, pictures, verdicts and choice are those of a study that nobody disturbed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from orchestrator.core.errors import SupersededError
from orchestrator.core.fence import Fence
from orchestrator.core.layout import Layout
from tests.orchestrator.fault_driver import TRIALS
from tests.orchestrator.history import outcome, sound
from tests.orchestrator.machines import ENVIRONMENT, Cluster, cluster
from tests.orchestrator.scripted import target
from tests.orchestrator.test_controller import no_waiting_for_the_disk, run  # noqa: F401 (for every test here)
from tests.soaking import seeds

DEADLINE_S = 240.0
"""Generous: starting processes takes long on a starved machine, and only a failure waits so long."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("undisturbed") / "study"
    return outcome(run(root, target(trials=TRIALS)), Layout(root))


@pytest.fixture(scope="module")
def whole_s(tmp_path_factory: pytest.TempPathFactory, undisturbed: dict[str, object]) -> float:  # noqa: ARG001
    """How long such a study takes here, once everything is loaded."""
    root, began = tmp_path_factory.mktemp("timed") / "study", time.monotonic()
    run(root, target(trials=TRIALS))
    return time.monotonic() - began


@pytest.mark.parametrize("seed", range(25))
def test_a_driver_killed_at_random_moments(
    tmp_path: Path, undisturbed: dict[str, object], whole_s: float, seed: int
) -> None:
    """Each life of the driver is a fork that is killed long before a study is whole, until one gets to the end; each is
    given a little more time than the one before, for there is more and more to look through."""
    rng, root, kills = random.Random(seed), tmp_path / "study", 0
    while (child := os.fork()) != 0:
        time.sleep(rng.uniform(0.0, whole_s * (0.3 + 0.1 * kills)))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "it failed by itself"
            break
        kills += 1
    else:
        live(root)
    assert outcome(sound(Layout(root)), Layout(root)) == undisturbed


def live(root: Path) -> None:
    """A driver's life, in a process that is never to return."""
    try:
        run(root, target(trials=TRIALS))
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
        os._exit(1)


def test_an_attempt_that_thaws_after_a_later_one_began_publishes_nothing(tmp_path: Path) -> None:
    file, published = tmp_path / "attempt", tmp_path / "published"
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        first = Fence(file, 1)
        first.enter()
        os.write(told, b".")
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            with first.held():
                published.write_text("by the first")
        except SupersededError:
            os._exit(0)
        os._exit(1)
    os.read(ready, 1)
    os.waitpid(child, os.WUNTRACED)
    second = Fence(file, 2)
    second.enter()
    os.kill(child, signal.SIGCONT)
    with second.held():
        _, status = os.waitpid(child, os.WNOHANG)
        published.write_text("by the second")
    if not status:
        _, status = os.waitpid(child, 0)
    assert os.WEXITSTATUS(status) == 0, "the first one found out"
    assert published.read_text() == "by the second"
    with pytest.raises(SupersededError, match="attempt 1 was given up: attempt 2 has begun"):
        Fence(file, 1).enter()


@pytest.fixture(scope="module")
def machines() -> Iterator[Cluster]:
    """Two machines that work, and a third that keeps the cluster's books."""
    with cluster(a=4, b=4) as made:
        yield made


class Driver:
    """A driver in a process of its own, started again when it was killed."""

    def __init__(self, root: Path, machines: Cluster, seconds: float) -> None:
        self.command = [sys.executable, "-m", "tests.orchestrator.fault_driver", str(root), machines.address]
        self.command.append(str(seconds))
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, env={**os.environ, **ENVIRONMENT})

    def is_over(self) -> bool:
        code = self.process.poll()
        assert code in (None, 0), "the study failed"
        return code == 0

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def strike(what: str, rng: random.Random, machines: Cluster, driver: Driver) -> bool:
    """Kill something; False when there is no such thing right now."""
    if what == "driver":
        driver.end()
        driver.start()
    elif what == "machine":
        pod = rng.choice("ab")
        machines.kill(pod)
        machines.start(pod, 4)
    else:
        actors = [actor for pod in "ab" for actor in machines.actors(pod)]
        if not actors:
            return False
        with suppress(psutil.NoSuchProcess):
            rng.choice(actors).send_signal(signal.SIGSTOP if what == "frozen actor" else signal.SIGKILL)
    return True


def disturb(root: Path, machines: Cluster, rng: random.Random, strikes: list[str], *, seconds: float) -> list[str]:
    """Run a study and strike at random moments; returns what there was no time for.

    After each strike processes start anew: the more there are, the longer it may take.
    """
    driver = Driver(root, machines, seconds)
    try:
        until = time.monotonic() + DEADLINE_S * max(1, len(strikes) / 6)
        while not driver.is_over():
            assert time.monotonic() < until, "the study does not end"
            time.sleep(rng.uniform(0.0, 0.8))
            if strikes and not driver.is_over() and strike(strikes[0], rng, machines, driver):
                strikes = strikes[1:]
    finally:
        driver.end()
    return strikes


def test_actors_machines_and_drivers_killed_and_frozen_at_random(
    tmp_path: Path, machines: Cluster, undisturbed: dict[str, object]
) -> None:
    rng, root = random.Random(), tmp_path / "study"
    strikes = rng.sample(["actor", "frozen actor", "machine", "driver"], 4)
    left = disturb(root, machines, rng, strikes, seconds=0.1)
    assert len(left) <= 1, left
    assert outcome(sound(Layout(root)), Layout(root)) == undisturbed


@pytest.mark.soak
@pytest.mark.parametrize("seed", seeds(0, 3))
def test_more_of_it(tmp_path: Path, machines: Cluster, undisturbed: dict[str, object], seed: int) -> None:
    rng, root = random.Random(seed), tmp_path / "study"
    strikes = rng.choices(["actor", "frozen actor", "machine", "driver"], weights=[6, 1, 1, 1], k=30)
    left = disturb(root, machines, rng, strikes, seconds=1.0)
    assert len(left) <= 10, left
    assert outcome(sound(Layout(root)), Layout(root)) == undisturbed
