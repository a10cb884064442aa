"""Files arrive whole from servers that cut, stall, change and lie, and what has arrived is never fetched twice."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from anima.sources.download import Patience, Stopped, Told, download
from anima.sources.remotes import WebFile
from orchestrator.core.errors import MissingError, StudyError, VolumeError, WeightsError
from tests.anima.sources.loopback import Site, serving

DATA = random.Random(5).randbytes(1_000_000)
PIECE = 100_000
PATIENCE = Patience(piece_bytes=PIECE, connections=3, attempts=3, back_off_s=0.0)
NAME = "/m/dit.safetensors"


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site({NAME: DATA})) as site:
        yield site


def get(site: Site, target: Path, patience: Patience = PATIENCE, told: Told = lambda *_: None) -> bytes:
    with closing(WebFile(site.address + NAME)) as remote:
        download(remote, target, told, patience, threading.Event())
    return target.read_bytes()


def test_a_file_comes_whole_in_pieces(site: Site, tmp_path: Path) -> None:
    heard: list[tuple[int, int | None]] = []
    assert get(site, tmp_path / "f", told=lambda *counts: heard.append(counts)) == DATA
    assert len(site.content_asked) == 10
    assert heard[0] == (0, len(DATA))
    assert heard[-1] == (len(DATA), len(DATA))
    assert [arrived for arrived, _ in heard] == sorted(arrived for arrived, _ in heard)
    assert list(tmp_path.iterdir()) == [tmp_path / "f"], "no record is left of a whole file"


def test_a_last_piece_may_be_short(site: Site, tmp_path: Path) -> None:
    assert get(site, tmp_path / "f", Patience(piece_bytes=300_001)) == DATA
    assert sorted(site.content_asked)[-1].endswith("bytes=900003-999999")


def test_a_connection_that_is_cut_goes_on_where_it_was_cut(site: Site, tmp_path: Path) -> None:
    site.cuts = [40_000, 10, 0, 5_000]
    assert get(site, tmp_path / "f", Patience(piece_bytes=PIECE, connections=1, back_off_s=0)) == DATA
    assert "GET /m/dit.safetensors bytes=40000-99999" in site.asked
    assert "GET /m/dit.safetensors bytes=40010-99999" in site.asked
    assert len(site.content_asked) == 10 + 4


def test_progress_buys_patience(site: Site, tmp_path: Path) -> None:
    """Many cuts, each after some bytes, are no reason to give up; three in a row without a byte are."""
    site.cuts = [1000] * 20
    assert get(site, tmp_path / "f", Patience(piece_bytes=PIECE, connections=1, attempts=3, back_off_s=0)) == DATA
    site.cuts = [0] * 9
    with pytest.raises(MissingError, match=r"cannot be fetched: .* \(3 times in a row\)") as error:
        get(site, tmp_path / "g")
    assert "the same command continues" in str(error.value)
    assert "\n" not in str(error.value)


def test_another_process_goes_on_with_the_pieces_that_are_there(site: Site, tmp_path: Path) -> None:
    site.cuts = [PIECE] * 4 + [0] * 20
    with pytest.raises(MissingError):
        get(site, tmp_path / "f", Patience(piece_bytes=PIECE, connections=1, attempts=2, back_off_s=0))
    done = json.loads((tmp_path / "f.json").read_text())["done"]
    assert done == [0, 1, 2, 3]
    site.cuts.clear()
    site.asked.clear()
    heard: list[int] = []
    assert get(site, tmp_path / "f", told=lambda arrived, _: heard.append(arrived)) == DATA
    assert len(site.content_asked) == 6
    assert heard[0] == 400_000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda site, _: setattr(site, "edition", "2"),
        lambda site, _: site.files.update({NAME: DATA + b"!"}),
        lambda _, record: record.write_text("{"),
        lambda _, record: record.unlink(),
    ],
    ids=["another edition", "another length", "a torn record", "no record"],
)
def test_what_may_be_of_another_file_is_fetched_again(
    spoil: Callable[[Site, Path], object], site: Site, tmp_path: Path
) -> None:
    site.cuts = [PIECE] * 4 + [0] * 20
    with pytest.raises(MissingError):
        get(site, tmp_path / "f", Patience(piece_bytes=PIECE, connections=1, attempts=2, back_off_s=0))
    site.cuts.clear()
    site.asked.clear()
    spoil(site, tmp_path / "f.json")
    assert get(site, tmp_path / "f") == site.files[NAME]
    assert len(site.content_asked) >= 10


def test_a_file_that_changes_on_the_way_is_started_over(site: Site, tmp_path: Path) -> None:
    other = bytes(reversed(DATA))

    def change(arrived: int, _: int | None) -> None:
        if arrived >= 3 * PIECE and site.edition == "1":
            site.edition, site.files[NAME] = "2", other

    one_by_one = Patience(piece_bytes=PIECE, connections=1, back_off_s=0)
    assert get(site, tmp_path / "f", one_by_one, told=change) == other


def test_a_file_that_never_stays_the_same_is_given_up(site: Site, tmp_path: Path) -> None:
    def change(arrived: int, _: int | None) -> None:
        if arrived:
            site.edition += "1"

    with pytest.raises(MissingError, match="changes while it is fetched"):
        get(site, tmp_path / "f", Patience(piece_bytes=PIECE, connections=1, back_off_s=0), told=change)


def test_a_server_without_ranges_is_read_in_one_stream(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    assert get(site, tmp_path / "f") == DATA
    site.cuts = [700_000, 10]
    assert get(site, tmp_path / "g") == DATA, "a cut starts it over"


@pytest.mark.parametrize("lengths", ["chunked", "closing"])
def test_a_server_that_says_no_length_is_read_to_its_end(
    lengths: Literal["chunked", "closing"], site: Site, tmp_path: Path
) -> None:
    site.ranges, site.lengths = False, lengths
    assert get(site, tmp_path / "f") == DATA


def test_a_chunked_answer_that_is_cut_is_seen(site: Site, tmp_path: Path) -> None:
    site.ranges, site.lengths, site.cuts = False, "chunked", [700_000]
    assert get(site, tmp_path / "f") == DATA


def test_without_versions_nothing_of_an_earlier_try_is_believed(site: Site, tmp_path: Path) -> None:
    site.versions = False
    site.cuts = [PIECE] * 4 + [0] * 20
    with pytest.raises(MissingError):
        get(site, tmp_path / "f", Patience(piece_bytes=PIECE, connections=1, attempts=2, back_off_s=0))
    site.cuts.clear()
    site.asked.clear()
    assert get(site, tmp_path / "f") == DATA
    assert len(site.content_asked) == 10


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429, 200, 500]
    assert get(site, tmp_path / "f") == DATA


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, MissingError, "refuses it (401) — put a login for 127.0.0.1 into ~/.netrc"),
        (403, MissingError, "refuses it (403)"),
        (404, MissingError, "has no such file (404) — correct the URL"),
        (410, MissingError, "has no such file (410)"),
        (418, MissingError, "answers 418"),
        (416, WeightsError, "is empty (0 bytes)"),
    ],
)
def test_an_answer_that_will_not_change_is_final(
    status: int, kind: type[StudyError], words: str, site: Site, tmp_path: Path
) -> None:
    site.statuses = [status]
    with pytest.raises(kind) as error:
        get(site, tmp_path / "f")
    assert str(error.value).startswith(f"{site.address}{NAME}: ")
    assert words in str(error.value)
    assert len(site.asked) == 1


def test_an_empty_file_is_told(site: Site, tmp_path: Path) -> None:
    site.files[NAME] = b""
    with pytest.raises(WeightsError, match="is empty"):
        get(site, tmp_path / "f")


def test_a_server_that_is_not_there_is_told_without_the_query(tmp_path: Path) -> None:
    with serving(Site({})) as site:
        gone = site.address
    with pytest.raises(MissingError) as error:
        download(WebFile(f"{gone}/f?id=7"), tmp_path / "f", lambda *_: None, PATIENCE, threading.Event())
    assert str(error.value).startswith(f"{gone}/f: cannot be fetched: ")
    assert "id=7" not in str(error.value)


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=999_999))
    with pytest.raises(VolumeError, match="EPOCHSWEEP_CACHE"):
        get(site, tmp_path / "f")
    assert site.content_asked == []


def test_a_stop_keeps_what_has_arrived(site: Site, tmp_path: Path) -> None:
    stop = threading.Event()

    def told(arrived: int, _: int | None) -> None:
        if arrived >= 5 * PIECE:
            stop.set()

    one_by_one = Patience(piece_bytes=PIECE, connections=1)
    with closing(WebFile(site.address + NAME)) as remote, pytest.raises(Stopped):
        download(remote, tmp_path / "f", told, one_by_one, stop)
    assert json.loads((tmp_path / "f.json").read_text())["done"] == [0, 1, 2, 3, 4]


def test_a_login_comes_from_netrc_and_stays_with_its_host(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert get(site, tmp_path / "f") == DATA
    assert all(headers["Authorization"].startswith("Basic ") for headers in site.headers)
    with serving(Site({}, redirects={NAME: f"{site.address.replace('127.0.0.1', 'localhost')}{NAME}"})) as front:
        site.headers.clear()
        assert get(front, tmp_path / "g") == DATA, "a redirect is followed, piece by piece"
        assert all("Authorization" in headers for headers in front.headers)
    assert len(site.headers) == 11
    assert not any("Authorization" in headers for headers in site.headers)


def test_redirects_without_end_are_final(site: Site, tmp_path: Path) -> None:
    site.redirects = {NAME: NAME}
    with pytest.raises(MissingError, match="cannot be asked for: TooManyRedirects — correct the URL"):
        get(site, tmp_path / "f")
