"""Addresses of volumes: what they say, what they must never hold, and which dialect is spoken where."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.cache import Cache
from infra.config import S3Config
from infra.dialects import AWS, DIALECTS, MIB, MINIO, R2, RUNPOD, Patience, dialect_of, region_of
from infra.folder import FolderStore
from infra.open import open_volume
from infra.s3 import S3Store
from orchestrator.core.errors import ConfigError


def test_an_address_says_where_and_how() -> None:
    config = S3Config.parse("s3://my-bucket/studies/v2?endpoint=https://s3api-eu-ro-1.runpod.io/&region=EU-RO-1")
    assert (config.bucket, config.prefix, config.region) == ("my-bucket", "studies/v2", "EU-RO-1")
    assert config.endpoint == "https://s3api-eu-ro-1.runpod.io"
    assert config.speaks is RUNPOD
    assert config.place == "s3://my-bucket/studies/v2 at s3api-eu-ro-1.runpod.io"
    assert S3Config.parse("s3://my-bucket").place == "s3://my-bucket"
    assert S3Config.parse("s3://my-bucket?endpoint=http://127.0.0.1:9000&dialect=r2").speaks is R2


@pytest.mark.parametrize(
    ("endpoint", "dialect", "region"),
    [
        ("", AWS, None),
        ("https://s3.eu-west-1.amazonaws.com", AWS, None),
        ("https://0123.r2.cloudflarestorage.com", R2, "auto"),
        ("https://s3api-us-nc-1.runpod.io", RUNPOD, "US-NC-1"),
        ("https://s3api-eur-is-1.runpod.io:443", RUNPOD, "EUR-IS-1"),
        ("http://127.0.0.1:9000", MINIO, "us-east-1"),
        ("https://runpod.io.example.org", MINIO, "us-east-1"),
    ],
)
def test_the_host_tells_the_dialect(endpoint: str, dialect: object, region: str | None) -> None:
    config = S3Config(bucket="abc", endpoint=endpoint)
    assert config.speaks is dialect
    assert config.signs_for == region
    assert S3Config(bucket="abc", endpoint=endpoint, region="mine").signs_for == "mine"
    assert DIALECTS[dialect_of(endpoint)] is dialect


def test_a_gateway_elsewhere_that_speaks_runpod_has_a_region() -> None:
    assert region_of(RUNPOD, "http://127.0.0.1:9801") == "us-east-1"


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIACANARY:hunter2canary@bucket/prefix",
        "s3://bucket@hunter2canary/prefix",
        "s3://bucket/p?endpoint=https://AKIACANARY:hunter2canary@host",
        "s3://bucket/p?aws_secret_access_key=hunter2canary",
        "s3://bucket/p?token=hunter2canary",
        "s3://bucket/p?endpoint=https://host?X-Amz-Signature=hunter2canary",
    ],
)
def test_secrets_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError, match="never from an address") as error:
        S3Config.parse(address)
    assert "canary" not in str(error.value).lower()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://", "wrong bucket"),
        ("s3://b", "wrong bucket"),
        ("s3://bu cket/x", "wrong bucket"),
        ("s3://bucket/../x", "wrong prefix"),
        ("s3://bucket/a//b", "wrong prefix"),
        ("s3://bucket/.hidden", "wrong prefix"),
        ("s3://bucket/p?dialect=minnow", "wrong dialect"),
        ("s3://bucket/p?region=a b", "wrong region"),
        ("s3://bucket/p?endpiont=http://h", "unknown part 'endpiont'"),
        ("s3://bucket/p?endpoint=host:9000", "not a server"),
        ("s3://bucket/p?endpoint=ftp://host", "not a server"),
        ("s3://bucket/p?endpoint=https://host/path", "not a server"),
        ("gs://bucket/p", "not the address of a volume in a bucket"),
        ("s3://bucket/p#part", "not the address of a volume in a bucket"),
    ],
)
def test_a_wrong_address_is_one_clear_line(address: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        open_volume(address)
    assert error.value.fix
    assert "\n" not in str(error.value)


def test_a_mapping_of_the_yaml_is_checked_as_an_address_is() -> None:
    assert S3Config.model_validate({"bucket": "abc", "endpoint": "http://h:1", "dialect": "runpod"}).speaks is RUNPOD
    with pytest.raises(ConfigError, match="never from an address"):
        S3Config.model_validate({"bucket": "abc", "endpoint": "http://u:p@h"})
    with pytest.raises(ValidationError):
        S3Config.model_validate({"bucket": "abc", "secret": "x"})


def test_a_folder_and_a_bucket_are_opened_without_asking_anyone(tmp_path: Path) -> None:
    folder = open_volume(tmp_path / "volume")
    assert isinstance(folder.store, FolderStore)
    assert not (tmp_path / "volume").exists()
    cache = Cache(tmp_path / "cache", MIB)
    bucket = open_volume("s3://abc/p?endpoint=http://127.0.0.1:9", cache=cache, patience=Patience(attempts=1))
    assert isinstance(bucket.store, S3Store)
    assert (bucket.cache, bucket.store.dialect.patience.attempts) == (cache, 1)
    assert bucket.store.dialect.name == "minio"
    with pytest.raises(ConfigError, match="is empty"):
        open_volume("")


def test_parts_stay_within_what_servers_take() -> None:
    for dialect in DIALECTS.values():
        assert 5 * MIB <= dialect.part_bytes <= dialect.longest_part_bytes
        for size in (0, dialect.part_bytes, 10**12, 4 * 10**12):
            part = dialect.part_bytes_for(size)
            assert part <= dialect.longest_part_bytes
            assert size <= part * 10_000
            assert size > dialect.part_bytes * 10_000 or part == dialect.part_bytes
