"""Ray itself: started here for one study, or a cluster joined that runs already. With `actors.py` all that imports Ray.

Ray that is started here listens on loopback only and writes nothing to the home folder: its node address is 127.0.0.1,
its token lives in the environment, its session folder is temporary and is removed at the end. A cluster that runs
already is joined by its address, with its token from the environment; only then anything leaves loopback.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

os.environ.update(
    # Ray's switch for "no multi-node cluster": the node's address is then 127.0.0.1 and every server binds to it.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_AUTH_MODE="token",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DISABLE_IMPORT_WARNING="1",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    # Patience for machines that are busy with other work.
    RAY_worker_register_timeout_seconds="180",
    # Ray's own 15 lets a training starve beside anything else that computes; this still yields to a person's programs.
    RAY_worker_niceness="5",
    **(
        {}
        if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
        else {"RAY_AUTH_TOKEN": "epochsweep-" + secrets.token_hex(32)}
    ),
)

# Ray reads the environment above while it is imported.
import psutil  # type: ignore[import-untyped]
import ray
from ray._private import ray_constants

from infra.config import ClusterConfig
from infra.labels import this_machine
from orchestrator.core.errors import MissingError, StudyError

OURS = "epochsweep-"
"""What a token begins with that was made here."""
SESSION_PREFIX = "anima-ray-"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of the cluster that is up."""

    node: str
    resources: Mapping[str, float]


class RaySession:
    """A connection to Ray, and Ray itself where it was started here."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._cluster = cluster
        self.folder = Path()
        """The session folder of a Ray that was started here."""

    def open(self, cpus: int) -> None:
        """Join the cluster that the study names, or start Ray here with room for actors that count for `cpus`."""
        logging.getLogger("ray").setLevel(logging.ERROR)
        on_terminate = signal.getsignal(signal.SIGTERM)
        if self._cluster.address:
            self._join()
        else:
            self._start_patiently(cpus)
        signal.signal(signal.SIGTERM, on_terminate)  # Ray puts its own there

    def machines(self) -> list[Machine]:
        """Those that are up, as far as is known: a machine that is gone counts as up for some seconds more."""
        return [Machine(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]

    def close(self) -> None:
        """Leave; a Ray that was started here ends."""
        if ray.is_initialized():
            ray.shutdown()
        if self.folder.name.startswith(SESSION_PREFIX):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _join(self) -> None:
        address = self._cluster.address
        if os.environ.get("RAY_AUTH_TOKEN", "").startswith(OURS):
            raise MissingError(
                "the token of the Ray cluster is not here",
                where=address,
                fix="set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token that the cluster was started with",
            )
        ray_constants.ENABLE_RAY_CLUSTER = not _is_loopback(address.rpartition(":")[0])
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:
            # Ray raises ConnectionError, RuntimeError, ValueError and its own, by where it finds out.
            ray.shutdown()
            raise StudyError(
                f"cannot join the Ray cluster: {one_line(error)}",
                where=address,
                fix="is it up, is this one of its machines, and is RAY_AUTH_TOKEN its token? docs/cluster.md says more",
            ) from error

    def _start_patiently(self, cpus: int) -> None:
        _remove_dead_sessions()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{SESSION_PREFIX}{os.getpid()}-"))
        for attempt in range(1, self._cluster.attempts + 1):
            try:
                return self._start(cpus)
            except Exception as error:
                # Ray raises nothing narrower when a busy machine takes longer than the seconds Ray gives its daemons.
                ray.shutdown()
                self._end_half_started()
                if attempt == self._cluster.attempts:
                    self.close()
                    raise StudyError(
                        f"Ray did not start: {one_line(error)}",
                        fix="free the machine of other work, or set cluster.provider=inline",
                    ) from error
            except BaseException:
                self.close()
                raise
        return None

    def _start(self, cpus: int) -> None:
        ray.init(
            address="local",
            # As many as the actors count for, whatever this machine has: they share it as its scheduler sees fit.
            num_cpus=cpus,
            num_gpus=None if self._cluster.device == "cuda" else 0,
            labels=this_machine(),
            object_store_memory=self._cluster.object_store_mb * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=str(self.folder),
        )

    def _end_half_started(self) -> None:
        """Processes of a start that came to nothing, which Ray would leave to compete with the next one."""
        for process in psutil.Process().children(recursive=True):
            try:
                if any(str(self.folder) in argument for argument in process.cmdline()):
                    process.kill()
            except psutil.NoSuchProcess:
                continue


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def one_line(error: Exception) -> str:
    """What Ray says, fit for a line."""
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
