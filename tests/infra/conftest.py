"""The stores that volumes are tested over: a folder, a strict S3 server, and a gateway to a folder."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.config import S3Config
from infra.dialects import MIB, MINIO, RUNPOD, Patience
from infra.folder import FolderStore
from infra.s3 import S3Store
from infra.volume import Volume
from tests.infra.proxy import Proxy, proxied
from tests.infra.servers import Credentials, Server, rclone, swift

BUCKET = "studies"
HASTY = Patience(connect_s=2, read_s=2, complete_s=4, attempts=2, pause_s=0.05, progress_bytes=64 * 1024)
"""Little patience, so that an outage is soon taken for one."""
STEADY = replace(HASTY, connect_s=20, read_s=30, complete_s=60)
"""As few tries, but time enough for a machine that is busy: for what is bound to succeed in the end."""
PART = MIB
"""The smallest part the strict server takes as it is set up here, to save time; AWS takes none below 5 MiB."""


@pytest.fixture(scope="session")
def credentials() -> Iterator[Credentials]:
    """Keys that look like nothing else, in the environment of every test that uses a server."""
    canary = Credentials(f"account{secrets.token_hex(8)}", "tester", f"canary{secrets.token_hex(16)}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in canary.environment.items():
            patch.setenv(name, value)
        yield canary


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory, credentials: Credentials) -> Iterator[Server]:
    """Swift, with a bucket."""
    if sys.platform != "linux":
        pytest.skip("the S3 servers of the tests are installed on Linux only")
    with swift(tmp_path_factory.mktemp("swift"), credentials) as server:
        raw_client(server.endpoint).create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, credentials: Credentials) -> Iterator[Server]:
    """rclone over a folder, with a bucket."""
    if sys.platform != "linux":
        pytest.skip("the S3 servers of the tests are installed on Linux only")
    with rclone(tmp_path_factory.mktemp("rclone"), credentials) as server:
        (server.folder / "data" / BUCKET).mkdir()
        yield server


def raw_client(endpoint: str) -> Any:
    """boto3 as it comes."""
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1")


def store_at(endpoint: str, server: str, *, patience: Patience | None = None) -> S3Store:
    """A store below a prefix of its own; parts are as small as the strict server takes them."""
    dialect = replace(RUNPOD if server == "gateway" else MINIO, part_bytes=PART)
    config = S3Config(bucket=BUCKET, prefix=f"p{secrets.token_hex(6)}/main", endpoint=endpoint, dialect=dialect.name)
    return S3Store(config, replace(dialect, patience=patience or dialect.patience))


def impatient(volume: Volume) -> Volume:
    """For what is bound to fail: the sooner, the better."""
    assert isinstance(volume.store, S3Store)
    patience = replace(HASTY, connect_s=0.5, read_s=0.5, complete_s=0.5)
    return Volume(S3Store(volume.store.config, replace(volume.store.dialect, patience=patience)))


@pytest.fixture(params=["folder", "strict", "gateway"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Volume:
    """An empty volume of each kind."""
    if request.param == "folder":
        return Volume(FolderStore(tmp_path / "volume"))
    server: Server = request.getfixturevalue(request.param)
    return Volume(store_at(server.endpoint, request.param))


@pytest.fixture(params=["strict", pytest.param("gateway", marks=pytest.mark.soak)])
def faulty(request: pytest.FixtureRequest) -> Iterator[tuple[Volume, Proxy]]:
    """An empty volume on each server, reached through a proxy, by a client that tries a thing twice."""
    server: Server = request.getfixturevalue(request.param)
    with proxied(server.port) as proxy:
        yield Volume(store_at(proxy.endpoint, request.param, patience=STEADY)), proxy


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Make a file of so many random bytes."""

    def make_file(size: int, name: str = "adapter.safetensors") -> Path:
        path = tmp_path / "made" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(secrets.token_bytes(size))
        return path

    return make_file
