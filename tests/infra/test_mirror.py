"""Files of a study on a volume, in their order, and the ledger in sealed segments: whatever happens in between."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace as altered
from pathlib import Path

import pytest

import infra.segments
from infra.folder import FolderStore
from infra.mirror import File, Group, Outcome, checkpoint_group, fetch, publish, replace, sample_group
from infra.segments import Sealed, agreed, next_lines, seal, sealed_pieces, segment_key, segments
from infra.volume import LocalVolume, Volume
from orchestrator.core.errors import BusyError, ConfigError, VolumeError
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.record.ledger import read_events
from orchestrator.record.reconcile import losses
from orchestrator.record.state import StudyState, replay
from tests.infra.conftest import impatient
from tests.infra.proxy import Fault, Proxy
from tests.orchestrator.scripted import target
from tests.orchestrator.test_controller import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scripted study that has run to its end."""
    root = tmp_path_factory.mktemp("finished") / "study"
    run(root, target(epochs=3))
    return root


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Layout:
    """A copy of it to do harm to."""
    shutil.copytree(finished, tmp_path / "study")
    return Layout(tmp_path / "study")


@pytest.fixture
def near(tmp_path: Path) -> Volume:
    return Volume(FolderStore(tmp_path / "volume"))


def state_of(layout: Layout) -> StudyState:
    return replay(read_events(layout.ledger))


def groups(layout: Layout, state: StudyState) -> Iterator[Group]:
    """All that a ledger names."""
    yield from (checkpoint_group(layout, checkpoint) for checkpoint in state.checkpoints.values())
    yield from (sample_group(layout, sample) for sample in state.samples.values())


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_what_is_published_comes_back_as_it_was(volume: Volume, study: Layout, tmp_path: Path) -> None:
    state = state_of(study)
    sent = publish(study, volume, groups(study, state))
    assert sent.lacking == {}
    assert len(sent.sent) == len(set(sent.sent)) == 2 * (len(state.checkpoints) + len(state.samples))
    assert publish(study, volume, groups(study, state)) == Outcome(), "nothing is sent twice"
    other = Layout(tmp_path / "other")
    heard: list[Outcome] = []
    fetched = fetch(other, volume, groups(other, state), heard.append)
    assert fetched.lacking == {}
    assert len(heard) == len(state.checkpoints) + len(state.samples)
    assert files(other.root) == {name: data for name, data in files(study.root).items() if name in sent.sent}
    assert list(losses(state, LocalVolume(other))) == []
    assert {volume.verify(key) for key in volume.keys()} == {"whole"}  # noqa: SIM118 (not a mapping)


def test_an_outage_in_the_middle_is_an_error_and_then_it_goes_on(
    faulty: tuple[Volume, Proxy], study: Layout, tmp_path: Path
) -> None:
    volume, proxy = faulty
    state, other = state_of(study), Layout(tmp_path / "other")
    proxy.set(Fault("cut", towards="server", after=2_000, lasting=True))
    with pytest.raises(VolumeError):
        publish(study, impatient(volume), groups(study, state))
    proxy.set(None)
    publish(study, volume, groups(study, state))
    proxy.set(Fault("cut", after=2_000, lasting=True))
    with pytest.raises(VolumeError):
        fetch(other, impatient(volume), groups(other, state))
    proxy.set(None)
    assert fetch(other, volume, groups(other, state)).lacking == {}
    assert list(losses(state, LocalVolume(other))) == []


def test_what_was_made_anew_replaces_what_is_kept(study: Layout, near: Volume, tmp_path: Path) -> None:
    """A picture was lost and drawn again, a little different, as happens on a GPU."""
    state = state_of(study)
    publish(study, near, groups(study, state))
    sample = next(iter(state.samples.values()))
    image = study.root / sample.image
    image.write_bytes(b"drawn again")
    image.with_suffix(".json").write_text(json.dumps({"seconds": 9}))
    new = altered(sample, sha256=file_sha256(image))
    sent = publish(study, near, [sample_group(study, new)])
    assert set(sent.sent) == {sample.image, str(Path(sample.image).with_suffix(".json"))}
    assert len(list(near.store.listed("quarantine/"))) == 2, "what was kept before is evidence"
    other = Layout(tmp_path / "other")
    fetch(other, near, [sample_group(other, new)])
    assert (other.root / sample.image).read_bytes() == b"drawn again"


def test_what_is_damaged_here_does_not_reach_the_volume(study: Layout, near: Volume, tmp_path: Path) -> None:
    state = state_of(study)
    adapter, gone = state.checkpoints["main-00000001", 2].adapter, next(iter(state.samples.values())).image
    (study.root / adapter).write_bytes(b"damaged")
    (study.root / gone).unlink()
    assert set(publish(study, near, groups(study, state)).lacking) == {adapter, gone}
    assert near.find(str(Path(adapter).with_suffix(".json"))) is None, "no commit marker without its adapter"
    other = Layout(tmp_path / "other")
    assert set(fetch(other, near, groups(other, state)).lacking) == {adapter, gone}
    assert {loss.reason for loss in losses(state, LocalVolume(other))} == {"adapter is absent", "picture is absent"}


def test_what_is_damaged_there_does_not_come_back_and_is_mended_by_sending_again(
    study: Layout, near: Volume, tmp_path: Path
) -> None:
    state = state_of(study)
    publish(study, near, groups(study, state))
    small, another, gone, torn = (sample.image for sample in list(state.samples.values())[:4])
    for image in (small, another, gone, torn):
        marker = near.store.read(f"published/{image}")
        assert marker is not None
        near.store.remove(f"published/{image}")
        if image == small:
            near.store.create(f"published/{image}", marker[:-1] + b"\n")
        if image == torn:
            near.store.create(f"published/{image}", b"torn")
    near.put(another, b"something else")
    damaged = {small, another, gone, torn}
    assert set(fetch(Layout(tmp_path / "a"), near, groups(study, state)).lacking) == damaged
    publish(study, near, groups(study, state))
    assert fetch(Layout(tmp_path / "b"), near, groups(study, state)).lacking == {}


@pytest.mark.parametrize("path", ["../../outside.png", "/etc/passwd", "grid/../../../x.png"])
def test_a_ledger_cannot_choose_where_files_go(study: Layout, path: str) -> None:
    sample = altered(next(iter(state_of(study).samples.values())), image=path)
    with pytest.raises(ConfigError, match="leaves the study folder"):
        sample_group(study, sample)


def test_a_study_folder_may_be_a_link(study: Layout, near: Volume, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(study.root, target_is_directory=True)
    link = Layout(tmp_path / "link")
    assert publish(link, near, groups(link, state_of(link))).lacking == {}


def test_what_is_made_from_the_ledger_is_replaced(volume: Volume, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    for text in ("a" * 10, "b" * 40_000, "b" * 40_000, "c" * 50_000):
        before = volume.find("report.html")
        page.write_text(text)
        fresh = replace(volume, "report.html", page)
        assert fresh == (before is None or before.sha256 != file_sha256(page))
        assert volume.read("report.html").decode() == text
    assert len(list(volume.store.listed("files/"))) == 1, "what was there before is gone"


def test_content_that_is_not_a_file_of_its_own_is_published_too(study: Layout, near: Volume) -> None:
    rows = File("trials/main/metrics/epoch-0001.jsonl", content=b'{"step": 1}\n')
    assert publish(study, near, [(rows,)]).sent == [rows.key]
    assert publish(study, near, [(rows,)]).sent == []
    assert near.read(rows.key) == rows.content
    assert publish(study, near, [(altered(rows, content=b'{"step": 2}\n'),)]).sent == [rows.key]
    assert near.read(rows.key) == b'{"step": 2}\n'


@pytest.mark.parametrize("most", [1, 10, 64, 10_000])
def test_segments_are_whole_lines(near: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(infra.segments, "SEGMENT_BYTES", most)
    ledger = tmp_path / "ledger.jsonl"
    lines = [b"%d" % n * (n % 40) + b"\n" for n in range(30)]
    whole = b"".join(lines)
    ledger.write_bytes(whole + b"torn")
    sealed = Sealed()
    while data := next_lines(ledger, sealed.size, len(whole) + 4):
        assert data.endswith(b"\n")
        assert len(data) <= max(most, 81)
        sealed = seal(near, data, sealed)
    assert sealed.size == len(whole)
    assert b"".join(sealed_pieces(near)) == whole
    assert [s.key for s in segments(near)] == [segment_key(n + 1) for n in range(sealed.segments)]
    assert agreed(near, ledger) == (sealed, True)
    assert b"".join(sealed_pieces(near, after=1)) == whole[next(segments(near)).size :]
    assert next_lines(ledger, 5, 5) == b""
    assert next_lines(tmp_path / "none", 0, 0) == b""


def test_ledgers_are_compared_with_what_is_sealed(near: Volume, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    assert agreed(near, ledger) == (Sealed(), True)
    first = seal(near, b"a\nb\n", Sealed())
    second = seal(near, b"c\n", first)
    for data, said in (
        (b"a\nb\nc\n", (second, True)),
        (b"a\nb\nc\nd\n", (second, True)),
        (b"a\nb\n", (first, False)),
        (b"a\nb\nX\n", (first, False)),
        (b"a\n", (Sealed(), False)),
        (b"", (Sealed(), False)),
    ):
        ledger.write_bytes(data)
        assert agreed(near, ledger) == said
    ledger.unlink()
    assert agreed(near, ledger) == (Sealed(), False)


def test_a_number_is_taken_once(volume: Volume) -> None:
    """Two machines that both take themselves for the writer: the second one's facts are refused."""
    seal(volume, b"mine\n", Sealed())
    assert seal(volume, b"mine\n", Sealed()) == Sealed(1, 5), "the answer to the first may have been lost"
    with pytest.raises(BusyError, match="another machine recorded facts of this study meanwhile"):
        seal(volume, b"yours\n", Sealed())
    assert b"".join(sealed_pieces(volume)) == b"mine\n"
