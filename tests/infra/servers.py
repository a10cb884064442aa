"""Real S3 servers on loopback: OpenStack Swift, as strict as AWS, and rclone over a folder, as a network volume is.

Both are among the project's development packages (Linux only). Each is given a folder to keep everything in and the
credentials to ask for, and is gone when its block ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
RINGS = """
import json, sys
from swift.common.ring import RingBuilder
for path, port in json.loads(sys.argv[1]):
    builder = RingBuilder(part_power=6, replicas=1, min_part_hours=0)
    place = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "sdb1", "weight": 1}
    builder.add_dev({**place, "replication_ip": "127.0.0.1", "replication_port": int(port), "meta": ""})
    builder.rebalance()
    builder.get_ring().save(path)
"""
"""Where Swift finds its one disk."""


@dataclass(frozen=True)
class Credentials:
    """What a server accepts: `account:user` and a secret, in the names that boto3 reads."""

    account: str = "test"
    user: str = "tester"
    secret: str = "not-a-secret-at-all"

    @property
    def access_key(self) -> str:
        return f"{self.account}:{self.user}"

    @property
    def environment(self) -> Mapping[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret}


@dataclass
class Server:
    """A running server: its port, its folder with logs, and its processes by name."""

    port: int
    folder: Path
    commands: Mapping[str, list[str]]
    ports: Mapping[str, int]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *names: str) -> None:
        """Start some of the server's processes and wait until they listen."""
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(self.commands[name], stdout=log, stderr=log, env=_environment())
        for name in names:
            self._await(name)

    def _await(self, name: str) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.ports[name]), timeout=1).close()
                return
            except OSError:
                text = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                assert self.processes[name].poll() is None, f"{name} ended:\n{text}"
                assert time.monotonic() < deadline, f"{name} does not listen:\n{text}"
                time.sleep(0.02)

    def kill(self, name: str) -> None:
        """End a process at once, as a crash does."""
        self.processes[name].kill()
        self.processes[name].wait()

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """A process that is there and does nothing."""
        self.processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[name].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()


@contextmanager
def swift(folder: Path, credentials: Credentials) -> Iterator[Server]:
    """OpenStack Swift with its S3 interface: one replica, one zone, four processes."""
    if not _keeps_attributes(folder):
        raise RuntimeError(f"Swift needs extended attributes, which the file system of {folder} lacks: set TMPDIR")
    services = ("account", "container", "object")
    ports = dict(zip((*services, "proxy"), _free_ports(4), strict=True))
    (folder / "node" / "sdb1").mkdir(parents=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n"
        "[storage-policy:0]\nname = one\ndefault = yes\n"
    )
    common = f"bind_ip = 127.0.0.1\nworkers = 0\nswift_dir = {folder}\nuser = {_user()}\nlog_level = WARNING\n"
    rings = [[str(folder / f"{service}.ring.gz"), str(ports[service])] for service in services]
    subprocess.run([sys.executable, "-c", RINGS, json.dumps(rings)], check=True, env=_environment())
    for service in services:
        (folder / f"{service}-server.conf").write_text(
            f"[DEFAULT]\nbind_port = {ports[service]}\ndevices = {folder / 'node'}\nmount_check = false\n{common}"
            f"[pipeline:main]\npipeline = {service}-server\n[app:{service}-server]\nuse = egg:swift#{service}\n"
        )
    known = f"user_{credentials.account}_{credentials.user} = {credentials.secret} .admin"
    filters = {
        "catch_errors": "",
        "cache": "paste.filter_factory = tests.infra.swift_cache:filter_factory",
        "etag_quoter": "",
        "listing_formats": "",
        "bulk": "",
        "s3api": "use = egg:swift#s3api\nmin_segment_size = 1048576",
        "tempauth": f"use = egg:swift#tempauth\n{known}",
        "copy": "",
        "slo": "",
        "versioned_writes": "",
        "symlink": "",
    }
    (folder / "proxy-server.conf").write_text(
        f"[DEFAULT]\nbind_port = {ports['proxy']}\n{common}"
        f"[pipeline:main]\npipeline = {' '.join(filters)} proxy-server\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
        + "".join(f"[filter:{name}]\n{more or f'use = egg:swift#{name}'}\n" for name, more in filters.items())
    )
    commands = {name: [_program(f"swift-{name}-server"), str(folder / f"{name}-server.conf")] for name in ports}
    server = Server(ports["proxy"], folder, commands, ports)
    try:
        server.start(*ports)
        yield server
    finally:
        server.stop()


@contextmanager
def rclone(folder: Path, credentials: Credentials) -> Iterator[Server]:
    """rclone serving a folder: keys are paths, no conditional writes. A bucket is a folder in `folder/data`."""
    (port,) = _free_ports(1)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    options = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{credentials.access_key},{credentials.secret}"]
    options += ["--config", os.devnull, "--log-level", "ERROR"]
    command = [_program("rclone"), "serve", "s3", *options, str(folder / "data")]
    server = Server(port, folder, {"rclone": command}, {"rclone": port})
    try:
        server.start("rclone")
        yield server
    finally:
        server.stop()


def _program(name: str) -> str:
    path = PROGRAMS / name
    assert path.exists(), f"{path} is missing: run `make environment`"
    return str(path)


def _environment() -> dict[str, str]:
    """A server's environment: without the credentials of its clients."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _keeps_attributes(folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        os.setxattr(folder, "user.test", b"1")
    except OSError:
        return False
    return True
