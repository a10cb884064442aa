"""The cache of fetched files: a size it keeps to, the least recently used first, and many processes at once."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

import infra.cache
from infra.cache import Cache
from infra.folder import FolderStore
from infra.marker import SMALL_BYTES
from infra.volume import Volume

SIZE = 1000


def kept(cache: Cache, n: int, size: int = SIZE) -> str:
    """Put file number `n` into the cache; returns its hash."""
    cache.folder.parent.mkdir(parents=True, exist_ok=True)
    file = cache.folder.parent / "source"
    file.write_bytes(bytes([n]) * size)
    digest = sha256(file.read_bytes()).hexdigest()
    cache.keep(file, digest)
    entry = cache.folder / digest
    if entry.exists():
        os.utime(entry, (n, n))
    return digest


def held(cache: Cache) -> int:
    return sum(p.stat().st_size for p in cache.folder.iterdir() if not p.name.startswith("."))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache" / "files", cap_bytes=3 * SIZE)


def test_the_least_recently_used_goes_first(cache: Cache, tmp_path: Path) -> None:
    first, second, third = (kept(cache, n) for n in (1, 2, 3))
    assert cache.take(first, tmp_path / "out")
    fourth = kept(cache, 4)
    assert [cache.take(d, tmp_path / "out") for d in (first, second, third, fourth)] == [True, False, True, True]
    assert held(cache) == 3 * SIZE
    assert (tmp_path / "out").read_bytes() == b"\4" * SIZE


def test_a_file_that_does_not_fit_is_not_kept(cache: Cache) -> None:
    small = kept(cache, 1)
    kept(cache, 2, size=3 * SIZE + 1)
    assert [p.name for p in cache.folder.iterdir() if p.name != ".lock"] == [small]


def test_keeping_the_same_file_again_makes_no_room(cache: Cache) -> None:
    digests = [kept(cache, n) for n in (1, 2, 3, 3, 1)]
    assert {p.name for p in cache.folder.iterdir()} == {*digests, ".lock"}


def test_a_damaged_entry_is_dropped(cache: Cache, tmp_path: Path) -> None:
    digest = kept(cache, 1)
    (cache.folder / digest).write_bytes(b"x" * SIZE)
    assert not cache.take(digest, tmp_path / "out")
    assert not (cache.folder / digest).exists()
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".*")) == []


def test_what_is_taken_is_a_copy(cache: Cache, tmp_path: Path) -> None:
    """A restored ledger is appended to: that must not reach the next one who takes it."""
    digest = kept(cache, 1)
    assert cache.take(digest, tmp_path / "a")
    with (tmp_path / "a").open("ab") as stream:
        stream.write(b"more")
    assert cache.take(digest, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"\1" * SIZE


def test_a_wrong_file_is_not_kept(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert not cache.keep(tmp_path / "file", "0" * 64)
    assert [p.name for p in cache.folder.iterdir()] == []


def test_a_busy_cache_declines(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.cache, "PATIENCE_S", 0.0)
    digest = kept(cache, 1)
    with (cache.folder / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        second = kept(cache, 2)
        assert not (cache.folder / second).exists()
        assert cache.take(digest, tmp_path / "out"), "readers need no lock"


def test_a_cache_that_cannot_be_written_declines(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "cache", SIZE)
    source = tmp_path / "source"
    source.write_bytes(b"x")
    assert not cache.keep(source, sha256(b"x").hexdigest())


def test_what_killed_processes_left_is_removed(cache: Cache) -> None:
    kept(cache, 1)
    old, young = cache.folder / ".0.part", cache.folder / ".1.part"
    for stray in (old, young):
        stray.write_bytes(b"half")
    os.utime(old, (1, 1))
    kept(cache, 2)
    assert (old.exists(), young.exists()) == (False, True)


def test_many_processes_share_a_cache(tmp_path: Path) -> None:
    """Each keeps and takes the same few files in another order, with room for half of them."""
    files = []
    for n in range(6):
        path = tmp_path / f"{n}.bin"
        path.write_bytes(bytes([n]) * 50_000)
        files.append(f"{path}={sha256(path.read_bytes()).hexdigest()}")
    code = (
        "import random, sys; from pathlib import Path; from infra.cache import Cache\n"
        "cache, out, choose = Cache(Path(sys.argv[1]), 150_000), Path(sys.argv[2]), random.Random(sys.argv[2])\n"
        "taken = 0\n"
        "for _ in range(60):\n"
        "    path, digest = choose.choice(sys.argv[3:]).split('=')\n"
        "    if cache.take(digest, out):\n"
        "        taken += 1\n"
        "        assert out.read_bytes() == Path(path).read_bytes()\n"
        "    else:\n"
        "        assert cache.keep(Path(path), digest)\n"
        "print(taken)\n"
    )
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", code, str(cache)]
    children = [
        subprocess.Popen([*command, str(tmp_path / f"out{n}"), *files], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(3)
    ]
    for child in children:
        output, errors = child.communicate()
        assert (child.returncode, errors) == (0, b"")
        assert int(output) > 0
    assert held(Cache(cache, 0)) <= 150_000
    assert not list(cache.glob(".*.part"))


def test_a_volume_asks_its_cache_first(tmp_path: Path) -> None:
    volume = Volume(FolderStore(tmp_path / "volume"), Cache(tmp_path / "cache", 10**6))
    published = volume.put("a.bin", b"x" * (SMALL_BYTES + 1))
    volume.get("a.bin", tmp_path / "one")
    volume.store.remove(published.content_name)
    volume.get("a.bin", tmp_path / "two")
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "one", "two", "volume"]
