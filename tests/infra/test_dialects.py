"""What a dialect is said to be able to do, asked of real servers with boto3 alone: it is why the client is as it is."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, FlexibleChecksumError

from infra.config import S3Config
from infra.dialects import MINIO, RUNPOD
from infra.marker import SMALL_BYTES
from infra.open import open_volume
from infra.s3 import S3Store
from infra.volume import Volume
from orchestrator.core.errors import VolumeError
from tests.infra.conftest import BUCKET, raw_client, store_at
from tests.infra.servers import Credentials, Server, rclone


@pytest.fixture
def key() -> str:
    return f"probe/{secrets.token_hex(6)}"


def writes_once(client: Any, key: str) -> bool:
    for data in (b"1", b"2"):
        with suppress(client.exceptions.ClientError):
            client.put_object(Bucket=BUCKET, Key=key, Body=data, IfNoneMatch="*")
    return bool(client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"1")


def test_conditional_writes(strict: Server, gateway: Server, key: str) -> None:
    assert writes_once(raw_client(strict.endpoint), key) is MINIO.conditional_writes
    # rclone ignores the condition, and a network volume's documentation does not know it.
    assert writes_once(raw_client(gateway.endpoint), key) is RUNPOD.conditional_writes


def test_default_checksums_break_ranges_on_a_gateway(gateway: Server, key: str) -> None:
    client = raw_client(gateway.endpoint)
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(1000))
    with pytest.raises(FlexibleChecksumError):
        client.get_object(Bucket=BUCKET, Key=key, Range="bytes=500-")["Body"].read()


@pytest.mark.parametrize("server", ["strict", "gateway"])
def test_a_wrong_md5_is_refused(request: pytest.FixtureRequest, server: str, key: str) -> None:
    client = raw_client(request.getfixturevalue(server).endpoint)
    with pytest.raises(ClientError, match="BadDigest"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"1", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==")
    assert "Contents" not in client.list_objects_v2(Bucket=BUCKET, Prefix=key)


@pytest.mark.parametrize("server", ["strict", "gateway"])
def test_the_hash_stays_with_the_object_where_metadata_does(request: pytest.FixtureRequest, server: str) -> None:
    endpoint = request.getfixturevalue(server).endpoint
    store = store_at(endpoint, server)
    published = Volume(store).put("a.bin", bytes(SMALL_BYTES + 1))
    head = raw_client(endpoint).head_object(Bucket=BUCKET, Key=f"{store.config.prefix}/{published.content_name}")
    metadata = {name.lower(): value for name, value in head["Metadata"].items()}
    assert (metadata.get("sha256") == published.sha256) is store.dialect.keeps_metadata


def test_a_pod_reads_in_its_mount_what_came_through_s3(gateway: Server) -> None:
    store = store_at(gateway.endpoint, "gateway")
    bucket, folder = Volume(store), open_volume(gateway.folder / "data" / BUCKET / store.config.prefix)
    for key, size in (("small.json", 10), ("large.bin", SMALL_BYTES + 1)):
        published = bucket.put(key, secrets.token_bytes(size))
        assert folder.find(key) == published
        assert folder.verify(key) == "whole"
        assert folder.read(key) == bucket.read(key)


def test_what_a_pod_wrote_into_its_mount_comes_through_s3(credentials: Credentials, tmp_path: Path) -> None:
    folder = open_volume(tmp_path / "data" / BUCKET / "p")
    published = {key: folder.put(key, secrets.token_bytes(size)) for key, size in (("a", 10), ("b", SMALL_BYTES + 1))}
    with rclone(tmp_path, credentials) as server:
        bucket = open_volume(f"s3://{BUCKET}/p?endpoint={server.endpoint}&dialect=runpod")
        assert {key: bucket.find(key) for key in published} == published
        assert [bucket.verify(key) for key in published] == ["whole", "whole"]
        assert set(bucket.keys()) == set(published)


def test_a_listing_is_followed_over_its_pages(strict: Server) -> None:
    store = store_at(strict.endpoint, "strict")
    client = store.client.boto()
    client.meta.events.register("provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 2})
    volume = Volume(store)
    keys = {f"n{n}.json" for n in range(5)}
    for key in keys:
        volume.put(key, b"{}")
    assert set(volume.keys()) == keys


def test_a_listing_that_repeats_itself_is_no_endless_loop(strict: Server) -> None:
    """As a network volume does while it computes the hashes of new files."""
    store = store_at(strict.endpoint, "strict")
    events, token = store.client.boto().meta.events, list[str]()

    def repeat(parsed: dict[str, Any], **_: Any) -> None:
        token.append(parsed.get("NextContinuationToken", token[0] if token else ""))
        parsed.update({"NextContinuationToken": token[0], "IsTruncated": True})

    events.register("provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 2})
    events.register("after-call.s3.ListObjectsV2", repeat)
    volume = Volume(store)
    for n in range(5):
        volume.put(f"n{n}.json", b"{}")
    with pytest.raises(VolumeError, match="goes round in circles"):
        list(volume.keys())


def test_a_store_is_made_for_its_dialect() -> None:
    store = S3Store(S3Config(bucket="abc", endpoint="https://s3api-eu-ro-1.runpod.io"))
    config: Config = store.client.boto(1.0).meta.config
    assert config.s3["addressing_style"] == "path"
    assert config.region_name == "EU-RO-1"
    assert config.request_checksum_calculation == config.response_checksum_validation == "when_required"
    assert config.retries == {"mode": "standard", "total_max_attempts": 1}
    assert (config.read_timeout, config.connect_timeout) == (1.0, RUNPOD.patience.connect_s)
