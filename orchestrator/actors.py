"""The crew on Ray: plain workers in actors on this machine, a deadline on every wait. The only file that imports Ray.

Ray is started so that nothing listens beyond loopback and nothing is written to the home folder: its node address is
127.0.0.1, its token lives in the environment, its session folder is temporary and is removed at the end. An actor that
dies, hangs, or raises something unforeseen is let go and its work reported as failed; whether and when to try again is
the controller's decision, and the next piece of work gets a fresh actor.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(
    # Ray's switch for "no multi-node cluster": the node's address is then 127.0.0.1 and every server binds to it.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DISABLE_IMPORT_WARNING="1",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    # Patience for machines that are busy with other work.
    RAY_worker_register_timeout_seconds="180",
    # Ray's own 15 lets a training starve beside anything else that computes; this still yields to a person's programs.
    RAY_worker_niceness="5",
)

# Ray reads the environment above while it is imported.
import psutil  # type: ignore[import-untyped]
import ray
from ray.exceptions import RayError, RayTaskError

from infra.config import ClusterConfig
from orchestrator.core.errors import StudyError
from orchestrator.core.study import Cell, Sample, Verdict
from orchestrator.crew import (
    Artist,
    Critic,
    Drawn,
    Failed,
    Judged,
    Report,
    Slice,
    Trained,
    Trainer,
    Workers,
)
from orchestrator.policy import Draw, Judge, Role, Train, Work

TURN_S = 1.0
"""How long a trainer works before it reports; what a dead driver leaves running at most, beside a step."""
SESSION_PREFIX = "anima-ray-"


class TrainerActor:
    """Keeps one trial's trainer between turns."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._trial = ""
        self._trainer: Trainer | None = None

    def work(self, trial: str, turn_s: float) -> Slice:
        if self._trainer is None or self._trial != trial:
            self._trial, self._trainer = trial, self._workers.trainer(trial)
        turn = self._trainer.advance(turn_s)
        if turn.done:
            self._trainer = None
        return turn


class ArtistActor:
    """Keeps the loaded model between batches."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._artist: Artist | None = None

    def warm_up(self) -> None:
        """Load the model while there is nothing to draw yet."""
        self._artist = self._artist or self._workers.artist()

    def work(self, cells: Sequence[Cell]) -> list[Sample]:
        self._artist = self._artist or self._workers.artist()
        return self._artist.draw(cells)


class CriticActor:
    """Keeps the judge between batches."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._critic: Critic | None = None

    def work(self, cells: Sequence[Cell], samples: Sequence[Sample]) -> list[Verdict]:
        self._critic = self._critic or self._workers.critic()
        return self._critic.judge(cells, samples)


@dataclass(slots=True)
class _Call:
    """A request under way: who does it, and until when an answer must come (monotonic seconds)."""

    work: Work
    role: Role
    actor: Any
    deadline: float
    last: bool = False
    """Whether training ends with this turn."""


_ACTORS: Mapping[Role, type] = {"train": TrainerActor, "draw": ArtistActor, "judge": CriticActor}


class RayCrew:
    """Workers in Ray actors on this machine: one trainer, some artists, one critic."""

    def __init__(self, workers: Workers, cluster: ClusterConfig, *, train_threads: int = 0) -> None:
        self.slots: Mapping[Role, int] = {"train": 1, "draw": cluster.inference_actors, "judge": 1}
        self._workers, self._cluster = workers, cluster
        self._threads: Mapping[Role, int] = {"train": train_threads, "draw": cluster.threads, "judge": 1}
        self._idle: dict[Role, list[Any]] = {"train": [], "draw": [], "judge": []}
        self._calls: dict[Any, _Call] = {}
        self._session = Path()
        self._gpu_share = 0.0

    def open(self) -> RayCrew:
        """Start Ray on this machine."""
        _remove_dead_sessions()
        self._session = Path(tempfile.mkdtemp(prefix=f"{SESSION_PREFIX}{os.getpid()}-"))
        logging.getLogger("ray").setLevel(logging.ERROR)
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            self._start_patiently()
        except BaseException:
            self.close()
            raise
        if self._cluster.device == "cuda":
            gpus = float(ray.cluster_resources().get("GPU", 0))
            self._gpu_share = min(1.0, round(gpus / (1 + self.slots["draw"]), 3))
        signal.signal(signal.SIGTERM, on_terminate)  # Ray puts its own there
        for _ in range(self.slots["draw"]):
            artist = self._hire("draw")
            artist.warm_up.remote()
            self._idle["draw"].append(artist)
        return self

    def _start_patiently(self) -> None:
        for attempt in range(1, self._cluster.attempts + 1):
            try:
                return self._start()
            except Exception as error:
                # Ray raises nothing narrower when a busy machine takes longer than the seconds Ray gives its daemons.
                ray.shutdown()
                self._end_half_started()
                if attempt == self._cluster.attempts:
                    raise StudyError(
                        f"Ray did not start: {_one_line(error)}",
                        fix="free the machine of other work, or set cluster.provider=inline",
                    ) from error
        return None

    def _end_half_started(self) -> None:
        """Processes of a start that came to nothing, which Ray would leave to compete with the next one."""
        for process in psutil.Process().children(recursive=True):
            try:
                if any(str(self._session) in argument for argument in process.cmdline()):
                    process.kill()
            except psutil.NoSuchProcess:
                continue

    def _start(self) -> None:
        ray.init(
            address="local",
            # As many as the actors count for, whatever this machine has: they share it as its scheduler sees fit.
            num_cpus=sum(count * self._cpus(role) for role, count in self.slots.items()),
            num_gpus=None if self._cluster.device == "cuda" else 0,
            object_store_memory=self._cluster.object_store_mb * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=str(self._session),
        )

    def submit(self, work: Work, samples: Sequence[Sample] = ()) -> None:
        role: Role = "train" if isinstance(work, Train) else "draw" if isinstance(work, Draw) else "judge"
        actor = self._idle[role].pop() if self._idle[role] else self._hire(role)
        self._call(actor, role, work, tuple(samples))

    def halt(self, work: Train) -> None:
        for call in self._calls.values():
            call.last = call.last or call.work == work

    def wait(self, timeout_s: float) -> list[Report]:
        if not self._calls:
            return []
        ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        reports = [self._collect(ref, self._calls.pop(ref)) for ref in ready]
        return [*reports, *self._overdue()]

    def close(self) -> None:
        self._calls.clear()
        if ray.is_initialized():
            ray.shutdown()
        if self._session.name.startswith(SESSION_PREFIX):
            shutil.rmtree(self._session, ignore_errors=True)

    def _hire(self, role: Role) -> Any:
        actor: Any = ray.remote(_ACTORS[role])
        hired: Any = actor.options(
            num_cpus=self._cpus(role),
            num_gpus=0 if role == "judge" else self._gpu_share,
            max_restarts=0,
        )
        return hired.remote(self._workers)

    def _cpus(self, role: Role) -> int:
        """CPUs an actor counts for. Ray makes it the actor's OMP_NUM_THREADS, unless that is set in our environment."""
        return self._threads[role] or os.cpu_count() or 1

    def _call(self, actor: Any, role: Role, work: Work, samples: tuple[Sample, ...] = ()) -> None:
        match work:
            case Train(trial):
                ref = actor.work.remote(trial, TURN_S)
            case Draw(cells):
                ref = actor.work.remote(cells)
            case Judge(cells):
                ref = actor.work.remote(cells, samples)
        self._calls[ref] = _Call(work, role, actor, time.monotonic() + self._cluster.silence_s)

    def _collect(self, ref: Any, call: _Call) -> Report:
        try:
            answer = ray.get(ref, timeout=self._cluster.silence_s)
        except RayTaskError as error:
            if isinstance(error.cause, StudyError):
                self._idle[call.role].append(call.actor)
                return Failed(call.work, error.cause)
            self._let_go(call.actor)
            return Failed(call.work, str(error))
        except RayError as error:
            self._let_go(call.actor)
            return Failed(call.work, f"its actor died: {_one_line(error)}")
        match call.work:
            case Train():
                if call.last:
                    # Its memory is wanted for drawing, and nothing more is trained.
                    self._let_go(call.actor)
                elif answer.done:
                    self._idle[call.role].append(call.actor)
                else:
                    self._call(call.actor, call.role, call.work)
                return Trained(call.work, answer)
            case Draw():
                self._idle[call.role].append(call.actor)
                return Drawn(call.work, tuple(answer))
            case Judge():
                self._idle[call.role].append(call.actor)
                return Judged(call.work, tuple(answer))

    def _overdue(self) -> list[Report]:
        now = time.monotonic()
        late = [ref for ref, call in self._calls.items() if call.deadline < now]
        reports: list[Report] = []
        for ref in late:
            call = self._calls.pop(ref)
            self._let_go(call.actor)
            reports.append(Failed(call.work, f"its actor said nothing for {self._cluster.silence_s:g} s"))
        return reports

    def _let_go(self, actor: Any) -> None:
        ray.kill(actor, no_restart=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _remove_dead_sessions() -> None:
    """Session folders of drivers that were killed hard."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SESSION_PREFIX}*"):
        pid = folder.name.removeprefix(SESSION_PREFIX).partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
