"""What a volume promises, over each kind of store: a folder, a strict S3 server, a gateway to a folder."""

from __future__ import annotations

import os
import pickle
import secrets
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from infra.marker import SMALL_BYTES, Published
from infra.s3 import S3Store
from infra.volume import Swept, Volume
from orchestrator.core.errors import AbsentError, ConfigError, DamagedError, VolumeError
from tests.infra.conftest import PART

KEY = "trials/main/epoch-0003/adapter.safetensors"
SIZES = {"empty": 0, "small": 300, "at the limit": SMALL_BYTES, "large": SMALL_BYTES + 1, "in parts": PART + 1}
Make = Callable[..., Path]
ELSEWHERE_TOO = pytest.param("gateway", marks=pytest.mark.soak)
"""A third server tells little that two have not told: it is asked in the soak."""


@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
def test_what_is_published_comes_back(volume: Volume, make: Make, tmp_path: Path, size: int) -> None:
    source, target = make(size), tmp_path / "back" / "adapter.safetensors"
    published = volume.put(KEY, source)
    assert volume.find(KEY) == published
    assert (published.size, published.sha256) == (size, sha256(source.read_bytes()).hexdigest())
    assert volume.get(KEY, target) == published
    assert target.read_bytes() == source.read_bytes() == volume.read(KEY)
    assert volume.verify(KEY) == "whole"
    assert [p.name for p in target.parent.iterdir()] == [target.name], "nothing is left aside"


@pytest.mark.parametrize("size", [300, PART + 1])
def test_what_is_aside_is_not_there(volume: Volume, make: Make, tmp_path: Path, size: int) -> None:
    aside = volume.put_aside(KEY, make(size))
    assert volume.find(KEY) is None
    assert volume.verify(KEY) == "absent"
    assert list(volume.keys()) == []
    with pytest.raises(AbsentError, match="no such file is published"):
        volume.get(KEY, tmp_path / "back")
    # Another process may publish it.
    pickle.loads(pickle.dumps(volume)).publish(pickle.loads(pickle.dumps(aside)))
    assert volume.verify(KEY) == "whole"
    assert list(volume.keys("trials/main/")) == [KEY]
    assert list(volume.keys("grid/")) == []


@pytest.mark.parametrize("size", [300, SMALL_BYTES + 1])
def test_a_published_key_never_changes(volume: Volume, make: Make, size: int) -> None:
    first, other = make(size, "a.bin"), make(size, "b.bin")
    published = volume.put(KEY, first)
    assert volume.put(KEY, first) == published, "the same once more is success"
    with pytest.raises(VolumeError, match="another file is published under this key"):
        volume.put(KEY, other)
    assert volume.find(KEY) == published
    assert volume.read(KEY) == first.read_bytes()
    contents = [listed.name for listed in volume.store.listed("files/")]
    assert contents == ([published.content_name] if published.token else []), "refused content does not stay"


def test_publishing_again_after_a_lost_answer_is_success(volume: Volume, make: Make) -> None:
    aside = volume.put_aside(KEY, make(SMALL_BYTES + 1))
    assert volume.publish(aside) == volume.publish(aside) == aside.file
    assert volume.verify(KEY) == "whole"


def test_of_writers_at_once_one_stays(volume: Volume, make: Make) -> None:
    sources = [make(SMALL_BYTES + 1, f"{n}.bin") for n in range(4)]
    asides = [volume.put_aside(KEY, source) for source in sources]
    outcomes: list[Published | VolumeError] = []

    def publish(n: int) -> None:
        try:
            outcomes.append(volume.publish(asides[n]))
        except VolumeError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [outcome for outcome in outcomes if isinstance(outcome, Published)]
    assert len(outcomes) == 4
    assert volume.find(KEY) in won
    assert volume.verify(KEY) == "whole"
    # Looking whether a key is free and taking it is one step in a folder, on AWS, R2 and MinIO, not on these servers.
    assert len(won) == 1 or isinstance(volume.store, S3Store)


@pytest.mark.parametrize("size", [300, SMALL_BYTES + 1])
def test_damage_is_found_and_never_delivered(volume: Volume, make: Make, tmp_path: Path, size: int) -> None:
    source, target = make(size), tmp_path / "back"
    published = volume.put(KEY, source)
    damage(volume, published)
    target.write_text("what was here")
    assert volume.verify(KEY) == "corrupt"
    with pytest.raises(DamagedError, match="not what was published"):
        volume.get(KEY, target)
    with pytest.raises(DamagedError):
        volume.read(KEY)
    assert target.read_text() == "what was here"
    assert not list(tmp_path.glob(".*")), "damaged bytes are not kept to go on from"


def test_content_that_is_gone_is_damage(volume: Volume, make: Make, tmp_path: Path) -> None:
    published = volume.put(KEY, make(SMALL_BYTES + 1))
    volume.store.remove(published.content_name)
    assert volume.verify(KEY) == "corrupt"
    with pytest.raises(DamagedError, match="content of a published file is gone"):
        volume.get(KEY, tmp_path / "back")


@pytest.mark.parametrize(
    "marker",
    [b"", b"{}\n", b'{"v":1,"key":"other","sha256":"%s","size":1,"token":""}\nx' % (b"0" * 64), b"\xff\x00\n"],
)
def test_a_damaged_marker_is_said_and_can_be_set_apart(volume: Volume, make: Make, marker: bytes) -> None:
    volume.store.create(f"published/{KEY}", marker)
    with pytest.raises(DamagedError, match="marker is damaged"):
        volume.find(KEY)
    assert volume.verify(KEY) == "corrupt"
    assert volume.quarantine(KEY, "marker").startswith("quarantine/")
    volume.put(KEY, make(10))
    assert volume.verify(KEY) == "whole"


def test_recorded_and_published_must_agree(volume: Volume, make: Make, tmp_path: Path) -> None:
    source = make(SMALL_BYTES + 1)
    with pytest.raises(DamagedError, match="not what was recorded"):
        volume.put(KEY, source, expect="0" * 64)
    assert volume.find(KEY) is None
    volume.put(KEY, source, expect=sha256(source.read_bytes()).hexdigest())
    with pytest.raises(DamagedError, match="another file is published than is recorded"):
        volume.get(KEY, tmp_path / "back", expect="0" * 64)
    assert not (tmp_path / "back").exists()


def test_delete_by_key(volume: Volume, make: Make) -> None:
    published = volume.put(KEY, make(SMALL_BYTES + 1))
    volume.put("small.json", b"{}")
    for key in (KEY, "small.json", KEY, "never"):
        volume.delete(key)
    assert volume.find(KEY) is None
    assert not volume.store.has(published.content_name)
    assert list(volume.keys()) == []


@pytest.mark.parametrize("size", [300, SMALL_BYTES + 1])
def test_quarantine_keeps_the_evidence_and_frees_the_key(volume: Volume, make: Make, size: int) -> None:
    kept = []
    for name in ("a.bin", "b.bin"):
        published = volume.put(KEY, make(size, name))
        damage(volume, published)
        kept.append((published, volume.quarantine(KEY, f"{name} failed its checksum")))
        assert volume.find(KEY) is None
    assert volume.quarantine(KEY, "again") == "", "absent is success"
    volume.put(KEY, make(size, "c.bin"))
    assert volume.verify(KEY) == "whole"
    assert len({place for _, place in kept}) == 2
    for (published, place), name in zip(kept, ("a.bin", "b.bin"), strict=True):
        note = volume.store.read(place)
        assert note is not None
        assert f'"reason": "{name} failed its checksum"'.encode() in note
        assert published.sha256.encode() in note
        assert not published.token or volume.store.has(published.content_name)


def test_a_sweep_removes_what_nobody_names(volume: Volume, make: Make) -> None:
    kept = volume.put(KEY, make(SMALL_BYTES + 1, "a.bin"))
    apart = volume.put("b.bin", make(SMALL_BYTES + 1, "b.bin"))
    volume.quarantine("b.bin", "evidence")
    stray = volume.put_aside("c.bin", make(SMALL_BYTES + 1, "c.bin")).file
    again = volume.put_aside(KEY, make(SMALL_BYTES + 1, "d.bin")).file
    begin_upload(volume)
    assert volume.sweep() == Swept(0, 0), "what is young may be under way"
    assert volume.store.has(stray.content_name)
    assert volume.sweep(older_than_s=-2) == Swept(uploads=1, files=2)
    assert [volume.store.has(f.content_name) for f in (kept, apart, stray, again)] == [True, True, False, False]
    assert volume.verify(KEY) == "whole"
    assert volume.sweep(older_than_s=-2) == Swept(0, 0)


def test_two_volumes_in_one_place_do_not_meet(volume: Volume, make: Make) -> None:
    if not isinstance(volume.store, S3Store):
        pytest.skip("folders are apart by nature")
    config = volume.store.config
    other = Volume(S3Store(config.model_copy(update={"prefix": config.prefix + "-2"}), volume.store.dialect))
    volume.put(KEY, make(300))
    begin_upload(other)
    assert list(other.keys()) == []
    assert volume.sweep(older_than_s=-2).uploads == 0, "an upload of a neighbour is not ours to give up"
    assert other.sweep(older_than_s=-2).uploads == 1


def test_a_fetch_goes_on_where_the_last_one_stopped(volume: Volume, make: Make, tmp_path: Path) -> None:
    source, target = make(2 * PART), tmp_path / "adapter.safetensors"
    published = volume.put(KEY, source)
    half = part_file(target, published)
    half.write_bytes(source.read_bytes()[:PART])
    asked: list[int] = []
    volume = Volume(Recording(volume.store, asked))  # type: ignore[arg-type]
    volume.get(KEY, target)
    assert asked == [PART]
    assert target.read_bytes() == source.read_bytes()
    assert not half.exists()
    volume.get(KEY, target)
    assert asked == [PART], "what is whole is not fetched again"


@pytest.mark.parametrize("size", [100, PART, 2 * PART])
def test_a_damaged_beginning_is_fetched_again(volume: Volume, make: Make, tmp_path: Path, size: int) -> None:
    source, target = make(PART), tmp_path / "adapter.safetensors"
    part_file(target, volume.put(KEY, source)).write_bytes(secrets.token_bytes(size))
    volume.get(KEY, target)
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("volume", ["folder", "strict", ELSEWHERE_TOO], indirect=True)
def test_two_processes_fetch_one_file_to_one_place(volume: Volume, make: Make, tmp_path: Path) -> None:
    source, target = make(PART), tmp_path / "adapter.safetensors"
    volume.put(KEY, source)
    code = (
        "import pickle, sys; from pathlib import Path\n"
        "volume = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        f"print(volume.get({KEY!r}, Path(sys.argv[2])).size)\n"
    )
    command = [sys.executable, "-c", code, pickle.dumps(volume).hex(), str(target)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for child in children:
        output, errors = child.communicate()
        assert (child.returncode, output.split(), errors) == (0, [str(PART).encode()], b"")
    assert target.read_bytes() == source.read_bytes()
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_files_are_not_held_in_memory(volume: Volume, make: Make, tmp_path: Path) -> None:
    source = make(16 * PART)
    volume.put("warm", make(PART + 1, "warm"))
    tracemalloc.start()
    try:
        volume.put(KEY, source)
        volume.get(KEY, tmp_path / "back")
        assert volume.verify(KEY) == "whole"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * PART, "buffers of some parts under way, whatever the size of the file"


@pytest.mark.parametrize("key", ["../x", "/x", "a//b", "a/../b", ".hidden", "", "a/", "a b", "ä", "a\\b"])
def test_a_key_is_a_plain_relative_path(volume: Volume, key: str) -> None:
    for verb in (volume.find, volume.delete, volume.read, volume.verify):
        with pytest.raises(ConfigError, match="cannot be a file name"):
            verb(key)
    with pytest.raises(ConfigError, match="cannot be a file name"):
        volume.put(key, b"x")


def test_a_source_that_is_not_there(volume: Volume, tmp_path: Path) -> None:
    with pytest.raises(AbsentError, match="no such file to publish"):
        volume.put(KEY, tmp_path / "none")


def test_a_target_that_cannot_be_written(volume: Volume, make: Make, tmp_path: Path) -> None:
    for key, size in (("small", 10), ("large", SMALL_BYTES + 1)):
        volume.put(key, make(size))
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(VolumeError, match="cannot write"):
            volume.get(key, tmp_path / "file" / "below")


@pytest.mark.parametrize("volume", ["folder", "strict", ELSEWHERE_TOO], indirect=True)
def test_a_full_disk_delivers_nothing(volume: Volume, make: Make, tmp_path: Path) -> None:
    """The process may write half a megabyte to a file; the fetch of more fails, and goes on when there is room."""
    source, target = make(PART), tmp_path / "back" / "adapter.safetensors"
    volume.put(KEY, source)
    code = (
        "import pickle, resource, signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))\n"
        f"pickle.loads(bytes.fromhex(sys.argv[1])).get({KEY!r}, Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, pickle.dumps(volume).hex(), str(target)]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 1
    assert "VolumeError" in child.stderr
    assert "cannot write: File too large" in child.stderr
    assert not target.exists()
    volume.get(KEY, target)
    assert target.read_bytes() == source.read_bytes()


class Recording:
    """A store that notes from where its objects are read."""

    def __init__(self, store: object, asked: list[int]) -> None:
        self._store, self._asked = store, asked

    def stream(self, name: str, size: int, start: int = 0) -> object:
        self._asked.append(start)
        return self._store.stream(name, size, start)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def part_file(target: Path, published: Published) -> Path:
    """Where a fetch keeps what has arrived."""
    return target.with_name(f".{target.name}.{published.sha256[:16]}.part")


def damage(volume: Volume, published: Published) -> None:
    """Change one byte of a published content, behind the volume's back."""
    name = published.content_name if published.token else f"published/{published.key}"
    data = volume.store.read(name)
    assert data is not None
    volume.store.remove(name)
    assert volume.store.create(name, data[:-1] + bytes([data[-1] ^ 1]))


def begin_upload(volume: Volume) -> None:
    """Leave an upload unfinished, as a killed process does."""
    store = volume.store
    if isinstance(store, S3Store):
        store.client.ask("create_multipart_upload", "files/stray.bin")
    else:
        aside = Path(store.place) / "files" / ".0123456789abcdef.part"
        aside.write_bytes(b"half")
        os.utime(aside)
