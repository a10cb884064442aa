"""Credentials are read by boto3 alone: they reach no file, no log, no error, no pickle, whatever goes well or wrong."""

from __future__ import annotations

import logging
import pickle
import traceback
from pathlib import Path

import pytest

from infra.cache import Cache
from infra.marker import SMALL_BYTES
from infra.s3 import S3Store
from infra.volume import Volume
from orchestrator.core.errors import StudyError
from tests.conftest import HOME
from tests.infra.conftest import HASTY, store_at
from tests.infra.servers import Credentials


@pytest.mark.parametrize("server", ["strict", "gateway"])
def test_planted_keys_are_found_nowhere(
    request: pytest.FixtureRequest,
    server: str,
    credentials: Credentials,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG, logger="infra")
    caplog.set_level(logging.INFO)
    endpoint = request.getfixturevalue(server).endpoint
    store = store_at(endpoint, server, patience=HASTY)
    volume = Volume(store, Cache(tmp_path / "cache", 10**7))
    texts = [repr(volume), volume.store.place]
    for key, size in (("a.json", 10), ("b.bin", SMALL_BYTES + 1)):
        texts.append(repr(volume.put(key, bytes(size))))
        volume.get(key, tmp_path / "out" / key)
    texts += [volume.quarantine("b.bin", "evidence"), repr(volume.sweep())]

    errors: list[BaseException] = []

    def fails(broken: Volume) -> None:
        with pytest.raises(StudyError) as error:
            broken.put("c.bin", bytes(SMALL_BYTES + 1))
        errors.append(error.value)

    fails(Volume(S3Store(store.config.model_copy(update={"bucket": "elsewhere"}), store.dialect)))
    fails(Volume(store_at("http://127.0.0.1:9", server, patience=HASTY)))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials.access_key + "x")
    fails(Volume(store_at(endpoint, server, patience=HASTY)))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials.secret + "x")
    fails(Volume(store_at(endpoint, server, patience=HASTY)))

    texts += [str(e) for e in errors] + ["".join(traceback.format_exception(e)) for e in errors]
    texts += [caplog.text, repr(pickle.dumps(volume)), *(repr(pickle.dumps(e)) for e in errors)]
    places = [tmp_path, HOME]
    if server == "gateway":
        places.append(request.getfixturevalue(server).folder / "data")
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for secret in (credentials.secret, credentials.access_key, credentials.account):
        assert [text for text in texts if secret in text] == []
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
