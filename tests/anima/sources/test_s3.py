"""boto3 itself against an S3 store on this machine: looks, ranges, cuts, refusals, credentials from the environment."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from anima.sources.download import Patience, download
from anima.sources.remotes import S3File
from orchestrator.core.errors import MissingError, WeightsError
from tests.anima.sources.loopback import Site, serving

DATA = random.Random(6).randbytes(500_000)
KEY = "anima/split files/dit.safetensors"
PIECES = Patience(piece_bytes=100_000, connections=2, attempts=3, back_off_s=0.0)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with serving(Site({"/bucket/anima/split%20files/dit.safetensors": DATA})) as site:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", site.address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user_of_the_test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "rps_of_the_test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "EU-RO-1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield site


def get(target: Path, key: str = KEY) -> bytes:
    with closing(S3File("bucket", key)) as remote:
        download(remote, target, lambda *_: None, PIECES, threading.Event())
    return target.read_bytes()


def test_an_object_comes_whole_in_pieces_with_signed_requests(store: Site, tmp_path: Path) -> None:
    assert get(tmp_path / "f") == DATA
    assert sorted(store.asked)[0].startswith("GET /bucket/anima/split%20files/dit.safetensors bytes=0-99999")
    assert len(store.content_asked) == 5
    for headers in store.headers:
        assert "Credential=user_of_the_test/" in headers["Authorization"]
        assert "/EU-RO-1/s3/aws4_request" in headers["Authorization"]
        assert "rps_of_the_test" not in str(headers)


def test_a_cut_goes_on_where_it_was_cut(store: Site, tmp_path: Path) -> None:
    store.cuts = [40_000, 0]
    assert get(tmp_path / "f") == DATA
    assert len(store.content_asked) == 5 + 2


def test_an_object_that_changes_on_the_way_is_started_over(store: Site, tmp_path: Path) -> None:
    other = bytes(reversed(DATA))

    def change(arrived: int, _: int | None) -> None:
        if arrived >= 200_000 and store.edition == "1":
            store.edition = "2"
            store.files = dict.fromkeys(store.files, other)

    patience = Patience(piece_bytes=100_000, connections=1)
    with closing(S3File("bucket", KEY)) as remote:
        download(remote, tmp_path / "f", change, patience, threading.Event())
    assert (tmp_path / "f").read_bytes() == other


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "the store refuses it (403 403) — check the credentials"), (404, "has no such object (404 404)")],
)
def test_a_refusal_is_final_and_told(status: int, words: str, store: Site, tmp_path: Path) -> None:
    store.statuses = [status]
    with pytest.raises(MissingError) as error:
        get(tmp_path / "f")
    assert str(error.value).startswith(f"s3://bucket/{KEY}: ")
    assert words in str(error.value)


def test_an_empty_object_is_told(store: Site, tmp_path: Path) -> None:
    store.files = dict.fromkeys(store.files, b"")
    with pytest.raises(WeightsError, match="is empty"):
        get(tmp_path / "f")


def test_missing_credentials_are_told(store: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(MissingError, match="no S3 credentials in the environment — set AWS_ACCESS_KEY_ID"):
        get(tmp_path / "f")
    assert store.asked == []


def test_the_same_name_in_another_store_is_another_object(store: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, twin = S3File("bucket", KEY), S3File("bucket", KEY)
    assert first.address == twin.address
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    assert S3File("bucket", KEY).address != first.address
    assert store.asked == []
