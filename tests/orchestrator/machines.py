"""A Ray cluster of several machines, all of them on this one, on loopback, with one token.

A process of its own starts them (`python -m tests.orchestrator.machines`), told by lines on its standard input: so each
test process may have Ray with a token of its own. A machine is killed as a host dies: all of its processes at once.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

import psutil  # type: ignore[import-untyped]

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_register_timeout_seconds": "180",
    "OMP_NUM_THREADS": "1",
    # A machine that is gone is known to be gone within seconds, where Ray would take 15; frozen ones too.
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
MEMORY = 80 * 2**20


@dataclass
class Cluster:
    """A head that only keeps the books, and machines that work, by name."""

    host: subprocess.Popen[str]
    log: IO[str]
    address: str = ""
    raylets: dict[str, int] = field(default_factory=dict)

    def start(self, pod: str, cpus: int) -> None:
        """Let a machine join."""
        answer = self._ask(["start", pod, cpus])
        self.address, self.raylets[pod] = answer["address"], answer["raylet"]

    def kill(self, pod: str) -> None:
        """All its processes at once."""
        for process in self.processes(pod):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        del self.raylets[pod]
        self._ask(["bury", pod])

    def processes(self, pod: str) -> list[psutil.Process]:
        """The raylet and all it started."""
        with suppress(psutil.NoSuchProcess):
            raylet = psutil.Process(self.raylets[pod])
            return [raylet, *raylet.children(recursive=True)]
        return []

    def actors(self, pod: str, kind: str = "") -> list[psutil.Process]:
        """Its processes that are actors; of a kind: Trainer, Artist, Critic."""
        found = []
        for process in self.processes(pod):
            with suppress(psutil.NoSuchProcess):
                title = "".join(process.cmdline()[:1])
                if title.startswith(f"ray::{kind}") and "Actor" in title:
                    found.append(process)
        return found

    def _ask(self, command: list[Any]) -> dict[str, Any]:
        assert self.host.stdin is not None
        assert self.host.stdout is not None
        self.host.stdin.write(json.dumps(command) + "\n")
        self.host.stdin.flush()
        line = self.host.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"{command}: the cluster's own process is gone:\n{self.log.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def cluster(**cpus: int) -> Iterator[Cluster]:
    """A head without room for work, and machines by name with so many CPUs."""
    command = [sys.executable, "-m", "tests.orchestrator.machines"]
    environment = {**os.environ, **ENVIRONMENT}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as host,
    ):
        made = Cluster(host, log)
        try:
            made.start("head", 0)
            for pod, number in cpus.items():
                made.start(pod, number)
            yield made
        finally:
            family = psutil.Process(host.pid).children(recursive=True)
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            host.kill()
            assert host.stdin is not None
            with suppress(OSError):
                host.stdin.close()


def serve() -> None:
    """Start and bury machines as the lines on standard input say."""
    from ray.cluster_utils import Cluster as RayCluster

    # Ray itself writes to standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Ray's sockets lie below it, and their names must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        made = RayCluster()
        nodes: dict[str, Any] = {}
        for line in sys.stdin:
            what, pod, *cpus = json.loads(line)
            if what == "bury":
                made.remove_node(nodes.pop(pod), allow_graceful=False)
                answer: dict[str, Any] = {}
            else:
                head: dict[str, Any] = {} if nodes else {"include_dashboard": False, "temp_dir": folder}
                nodes[pod] = made.add_node(
                    num_cpus=cpus[0], num_gpus=0, labels={"pod": pod}, object_store_memory=MEMORY, **head
                )
                (raylet,) = nodes[pod].all_processes["raylet"]
                answer = {"address": made.address, "raylet": raylet.process.pid}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    serve()
