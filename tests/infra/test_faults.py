"""Volumes on servers that fail: connections are cut, stalled or slowed, servers freeze and die, answers get lost.

What must hold: a bounded time, one clear line, nothing half-published, and the same call succeeds afterwards.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from infra.config import S3Config
from infra.dialects import DIALECTS, MINIO, Patience
from infra.marker import SMALL_BYTES
from infra.s3 import S3Store
from infra.volume import Swept, Volume
from orchestrator.core.errors import MissingError, StudyError, VolumeError
from tests.infra.conftest import BUCKET, HASTY, PART, STEADY, impatient, store_at
from tests.infra.proxy import Fault, Proxy
from tests.infra.servers import Credentials, Server

KEY = "trials/main/epoch-0003/adapter.safetensors"
Make = Callable[..., Path]
Faulty = tuple[Volume, Proxy]


def test_a_cut_upload_is_sent_again(faulty: Faulty, make: Make) -> None:
    volume, proxy = faulty
    proxy.set(Fault("cut", towards="server", after=PART // 2, times=1))
    volume.put(KEY, make(2 * PART))
    assert proxy.suffered == 1
    assert volume.verify(KEY) == "whole"
    assert volume.sweep(older_than_s=-2) == Swept(0, 0), "nothing is left over"


@pytest.mark.parametrize(("kind", "size"), [("cut", 2 * PART), ("stall", SMALL_BYTES + 1), ("stall", PART + 1)])
def test_an_upload_that_cannot_end_is_given_up(faulty: Faulty, make: Make, kind: str, size: int) -> None:
    volume, proxy = faulty
    source = make(size)
    proxy.set(Fault(kind, towards="server", after=8 * 1024))  # type: ignore[arg-type]
    with pytest.raises(VolumeError) as error:
        impatient(volume).put(KEY, source)
    assert_clear(error.value)
    proxy.set(None)
    assert volume.find(KEY) is None
    assert list(volume.store.listed("")) == []
    volume.put(KEY, source)
    assert volume.verify(KEY) == "whole"


def test_what_an_outage_leaves_behind_is_swept(faulty: Faulty, make: Make) -> None:
    """The connection dies for good in the middle of a part: not even giving the upload up gets through."""
    volume, proxy = faulty
    proxy.set(Fault("cut", towards="server", after=PART // 2, lasting=True))
    with pytest.raises(VolumeError):
        volume.put(KEY, make(3 * PART))
    proxy.set(None)
    assert volume.find(KEY) is None
    assert list(volume.store.listed("")) == []
    assert volume.sweep(older_than_s=-2) == Swept(uploads=1, files=0)
    assert volume.sweep(older_than_s=-2) == Swept(uploads=0, files=0)


def test_a_cut_download_goes_on(faulty: Faulty, make: Make, tmp_path: Path) -> None:
    volume, proxy = faulty
    source = make(2 * PART)
    volume.put(KEY, source)
    proxy.set(Fault("cut", after=3 * PART // 4, times=2))
    volume.get(KEY, tmp_path / "back")
    assert proxy.suffered == 2
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert proxy.to_client < 2 * PART + PART // 4, "what has arrived is not fetched again"


def test_an_interrupted_download_goes_on_in_another_process(faulty: Faulty, make: Make, tmp_path: Path) -> None:
    volume, proxy = faulty
    source, target = make(2 * PART), tmp_path / "back"
    published = volume.put(KEY, source)
    proxy.set(Fault("stall", after=PART, lasting=True))
    with pytest.raises(VolumeError) as error:
        impatient(volume).get(KEY, target)
    assert_clear(error.value)
    assert not target.exists()
    have = (tmp_path / f".back.{published.sha256[:16]}.part").stat().st_size
    assert have > PART // 2
    proxy.set(None)
    code = (
        "import pickle, sys; from pathlib import Path\n"
        f"pickle.loads(bytes.fromhex(sys.argv[1])).get({KEY!r}, Path(sys.argv[2]))\n"
    )
    subprocess.run([sys.executable, "-c", code, pickle.dumps(volume).hex(), str(target)], check=True)
    assert target.read_bytes() == source.read_bytes()
    assert proxy.to_client < 2 * PART - have + PART // 4


def test_a_killed_download_goes_on(faulty: Faulty, make: Make, tmp_path: Path) -> None:
    volume, proxy = faulty
    source, target = make(2 * PART), tmp_path / "back"
    volume.put(KEY, source)
    proxy.set(Fault("stall", after=PART))
    code = (
        "import pickle, sys; from pathlib import Path\n"
        f"pickle.loads(bytes.fromhex(sys.argv[1])).get({KEY!r}, Path(sys.argv[2]))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, pickle.dumps(volume).hex(), str(target)])
    until(lambda: proxy.suffered > 0)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not target.exists()
    proxy.set(None)
    volume.get(KEY, target)
    assert target.read_bytes() == source.read_bytes()


def test_a_small_download_that_cannot_end_is_given_up(faulty: Faulty, tmp_path: Path) -> None:
    volume, proxy = faulty
    volume.put(KEY, b"small")
    proxy.set(Fault("cut", after=100))
    with pytest.raises(VolumeError) as error:
        impatient(volume).get(KEY, tmp_path / "back")
    assert_clear(error.value)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("kind", ["cut", "stall", "trickle"])
def test_a_download_that_cannot_end_is_given_up(faulty: Faulty, make: Make, tmp_path: Path, kind: str) -> None:
    """`trickle`: a byte now and then, so that no single wait is ever too long."""
    volume, proxy = faulty
    volume.put(KEY, make(PART))
    proxy.set(Fault(kind, after=32 * 1024))  # type: ignore[arg-type]
    with pytest.raises(VolumeError) as error:
        impatient(volume).get(KEY, tmp_path / "back")
    assert_clear(error.value)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("after", [20, 100])
def test_a_cut_in_the_middle_of_an_answer_is_no_answer(faulty: Faulty, make: Make, after: int) -> None:
    """Python takes what came of the headers for all of them."""
    volume, proxy = faulty
    published = volume.put(KEY, make(2 * PART))
    for verb in (volume.find, lambda key: volume.put(key + "2", make(2 * PART)), volume.verify):
        proxy.set(Fault("cut", after=after, times=1))
        assert verb(KEY) in (published, volume.find(KEY + "2"), "whole")
        assert proxy.suffered == 1


def test_a_lost_answer_to_joining_the_parts_does_no_harm(faulty: Faulty, make: Make) -> None:
    volume, proxy = faulty
    proxy.set(Fault("cut", match=b"<CompleteMultipartUpload", times=1))
    published = volume.put(KEY, make(2 * PART))
    assert proxy.suffered == 1
    assert volume.find(KEY) == published
    assert volume.verify(KEY) == "whole"


def test_a_lost_answer_to_the_commit_marker_does_no_harm(faulty: Faulty, make: Make) -> None:
    volume, proxy = faulty
    aside = volume.put_aside(KEY, make(SMALL_BYTES + 1))
    proxy.set(Fault("cut", match=f"/published/{KEY}".encode(), times=1))
    assert volume.publish(aside) == aside.file
    assert proxy.suffered == 1
    assert volume.verify(KEY) == "whole"


def test_a_killed_uploader_leaves_nothing_that_looks_published(faulty: Faulty, make: Make) -> None:
    volume, proxy = faulty
    source = make(3 * PART)
    proxy.set(Fault("stall", towards="server", after=PART // 2))
    code = (
        "import pickle, sys; from pathlib import Path\n"
        f"pickle.loads(bytes.fromhex(sys.argv[1])).put({KEY!r}, Path(sys.argv[2]))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, pickle.dumps(volume).hex(), str(source)])
    until(lambda: proxy.suffered > 0)
    child.send_signal(signal.SIGKILL)
    child.wait()
    proxy.set(None)
    assert volume.find(KEY) is None
    assert list(volume.store.listed("files/")) == []
    assert volume.sweep(older_than_s=-2) == Swept(uploads=1, files=0)
    volume.put(KEY, source)
    assert volume.verify(KEY) == "whole"


@pytest.fixture
def hasty(strict: Server) -> Volume:
    return Volume(store_at(strict.endpoint, "strict", patience=STEADY))


def test_a_server_that_freezes(hasty: Volume, strict: Server, make: Make, tmp_path: Path) -> None:
    source = make(SMALL_BYTES + 1)
    hasty.put(KEY, source)
    with strict.frozen("object"), pytest.raises(VolumeError, match="no answer in 2 tries") as error:
        impatient(hasty).get(KEY, tmp_path / "back")
    assert_clear(error.value)
    hasty.get(KEY, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_a_server_whose_disk_is_gone(hasty: Volume, strict: Server, make: Make) -> None:
    """Swift answers 503 while its object server is dead."""
    source = make(SMALL_BYTES + 1)
    strict.kill("object")
    try:
        with pytest.raises(VolumeError, match="the server fails") as error:
            hasty.put(KEY, source)
        assert_clear(error.value)
    finally:
        strict.start("object")
    assert hasty.find(KEY) is None
    hasty.put(KEY, source)
    assert hasty.verify(KEY) == "whole"


def test_nobody_listens(credentials: Credentials) -> None:
    del credentials
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    volume = Volume(store_at(f"http://127.0.0.1:{port}", "strict", patience=HASTY))
    with pytest.raises(VolumeError, match="no connection that lasts in 2 tries") as error:
        volume.put(KEY, b"x")
    assert_clear(error.value)
    assert f"at 127.0.0.1:{port}" in str(error.value)


def test_someone_listens_who_never_answers(credentials: Credentials) -> None:
    del credentials
    with socket.create_server(("127.0.0.1", 0)) as sock:
        volume = Volume(store_at(f"http://127.0.0.1:{sock.getsockname()[1]}", "strict", patience=HASTY))
        volume = impatient(volume)
        for verb in (volume.find, lambda _: volume.sweep()):
            with pytest.raises(VolumeError, match="no answer in 2 tries") as error:
                verb(KEY)
            assert_clear(error.value)


def test_one_who_does_not_speak_http(credentials: Credentials, tmp_path: Path) -> None:
    del credentials
    (tmp_path / "talk.py").write_text(
        "import socket, threading\n"
        "server = socket.create_server(('127.0.0.1', 0)); print(server.getsockname()[1], flush=True)\n"
        "while True:\n"
        "    client, _ = server.accept(); client.recv(65536); client.sendall(b'SSH-2.0-x\\r\\n'); client.close()\n"
    )
    child = subprocess.Popen([sys.executable, str(tmp_path / "talk.py")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        port = int(child.stdout.readline())
        volume = Volume(store_at(f"http://127.0.0.1:{port}", "strict", patience=HASTY))
        with pytest.raises(VolumeError) as error:
            volume.put(KEY, b"x")
        assert_clear(error.value)
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("server", ["strict", "gateway"])
def test_a_bucket_that_is_not_there(request: pytest.FixtureRequest, server: str, make: Make) -> None:
    store = store_at(request.getfixturevalue(server).endpoint, server, patience=HASTY)
    volume = Volume(S3Store(store.config.model_copy(update={"bucket": "elsewhere"}), store.dialect))
    for verb in (volume.find, volume.read, lambda key: volume.put(key, make(SMALL_BYTES + 1)), volume.verify):
        with pytest.raises(VolumeError, match="there is no such bucket") as error:
            verb(KEY)
        assert_clear(error.value)


@pytest.mark.parametrize("server", ["strict", "gateway"])
def test_wrong_and_missing_credentials(
    request: pytest.FixtureRequest, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(request.getfixturevalue(server).endpoint, server, patience=HASTY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(VolumeError, match="does not accept the credentials") as error:
        Volume(pickle.loads(pickle.dumps(store))).find(KEY)
    assert_clear(error.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(MissingError, match="no credentials") as missing:
        Volume(pickle.loads(pickle.dumps(store))).find(KEY)
    assert_clear(missing.value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(MissingError, match="credentials for this volume cannot be read") as missing:
        Volume(pickle.loads(pickle.dumps(store))).find(KEY)
    assert_clear(missing.value)


def test_credentials_of_a_profile_are_found(strict: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3's own chain, not only the environment."""
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    file.write_text(f"[studies]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "studies")
    assert Volume(store_at(strict.endpoint, "strict")).put(KEY, b"x").size == 1


def test_a_file_that_changes_while_it_is_sent_is_refused(faulty: Faulty, make: Make) -> None:
    """The server compares each part with the MD5 that belongs to the recorded sha256."""
    volume, _ = faulty
    source = make(SMALL_BYTES + 1)
    store = volume.store

    class Late:
        def write(self, name: str, path: Path, measured: object, moved: object) -> None:
            path.write_bytes(bytes(SMALL_BYTES + 1))
            store.write(name, path, measured, moved)  # type: ignore[arg-type]

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

    with pytest.raises(VolumeError, match="did not arrive as it was sent, or the file changed"):
        Volume(Late()).put(KEY, source)  # type: ignore[arg-type]
    assert volume.find(KEY) is None
    assert list(store.listed("files/")) == []


def test_patience_has_an_end() -> None:
    assert HASTY.request_bound_s == pytest.approx(2 * (2 + 2) + 0.05)
    assert Patience().request_bound_s == pytest.approx(7 * 70 + 0.5 + 1 + 2 + 4 + 8 + 16)
    assert [Patience().pause_after(n) for n in (1, 2, 3, 20)] == [0.5, 1, 2, 20]
    assert all(dialect.patience.request_bound_s < 1800 for dialect in DIALECTS.values())


def test_a_short_outage_is_outlasted(strict: Server, make: Make) -> None:
    """The server restarts while a file is put: the caller does not notice."""
    patience = replace(STEADY, attempts=100, pause_s=0.1)
    volume, source = Volume(store_at(strict.endpoint, "strict", patience=patience)), make(2 * PART)
    strict.kill("proxy")
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(volume.put, KEY, source)
        strict.start("proxy")
        put.result()
    assert volume.verify(KEY) == "whole"


def test_an_unknown_host_is_one_clear_line(credentials: Credentials) -> None:
    del credentials
    config = S3Config(bucket=BUCKET, endpoint="http://nowhere.localhost:9")
    with pytest.raises(VolumeError) as error:
        Volume(S3Store(config, replace(MINIO, patience=HASTY))).find(KEY)
    assert_clear(error.value)


def assert_clear(error: StudyError) -> None:
    """One line that says what, where and how to fix; and it survives pickling."""
    assert error.what
    assert error.fix
    assert error.where.startswith("s3://")
    assert "\n" not in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def until(condition: Callable[[], bool]) -> None:
    """Wait for another process; a test that waits in vain is stopped by its own time-out."""
    from threading import Event

    for _ in range(3000):
        if condition():
            return
        Event().wait(0.01)
    raise AssertionError("waited in vain")
