"""A study is kept on a volume and comes back on an empty machine, whatever happens in between."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import infra.mirror
from infra.folder import FolderStore
from infra.mirror import (
    STATE_FILE,
    Mirrored,
    Recorded,
    Restored,
    mirror,
    restore,
    restored_ledger,
    seal,
    sealed_segments,
    segment_key,
)
from infra.volume import LocalVolume, Volume
from orchestrator.core.errors import AbsentError, ConfigError, VolumeError
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.ledger import Event
from orchestrator.reconcile import losses
from orchestrator.state import StudyState, replay
from tests.infra.conftest import impatient
from tests.infra.proxy import Fault, Proxy
from tests.orchestrator.scripted import ScriptedWorkers, target
from tests.orchestrator.test_controller import run
from trainer.checkpoints import STATE, intact_checkpoints, state_file

EPOCHS = 3
TRIAL = "main-00000001"


def known_of(ledger: bytes) -> StudyState:
    return replay(Event.from_line(line) for line in ledger.decode().splitlines())


def recorded(ledger: bytes) -> Recorded:
    """What a roof does: replay a ledger into the files it names."""
    state = known_of(ledger)
    return Recorded(ledger, tuple(state.checkpoints.values()), tuple(state.samples.values()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scripted study that has run to its end, with the training states of its last two epochs."""
    root = tmp_path_factory.mktemp("finished") / "study"
    run(root, target(epochs=EPOCHS))
    for epoch in (2, 3):
        state = state_file(Layout(root), TRIAL, epoch)
        state.parent.mkdir(parents=True)
        state.write_bytes(f"training state {epoch}".encode() * 1000)
    return root


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Layout:
    """A copy of it to do harm to."""
    shutil.copytree(finished, tmp_path / "study")
    return Layout(tmp_path / "study")


@pytest.fixture
def near(tmp_path: Path) -> Volume:
    return Volume(FolderStore(tmp_path / "volume"))


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_an_empty_machine_goes_on_where_the_other_stopped(volume: Volume, study: Layout, tmp_path: Path) -> None:
    mirrored = mirror(study, volume, recorded(study.ledger.read_bytes()))
    assert mirrored.lacking == {}
    other = Layout(tmp_path / "elsewhere" / "study")
    ledger = restored_ledger(volume)
    assert ledger == study.ledger.read_bytes()
    restored = restore(volume, other, recorded(ledger))
    assert restored.lacking == {}
    there, here = files(other.root), files(study.root)
    assert set(here) - set(there) == {f"trials/{TRIAL}/state/epoch-0002/{STATE}"}, "one training state is enough"
    assert there == {name: here[name] for name in there}
    assert list(losses(known_of(ledger), LocalVolume(other))) == []
    assert set(intact_checkpoints(other, TRIAL)) == {1, 2, 3}
    run(other.root, target(epochs=EPOCHS))
    assert ScriptedWorkers(other.root).calls() == [], "nothing is made again"


def test_mirroring_again_uploads_what_is_new(study: Layout, near: Volume) -> None:
    whole = study.ledger.read_bytes()
    lines = whole.splitlines(keepends=True)
    half = b"".join(lines[: len(lines) // 2])
    first = mirror(study, near, recorded(half))
    assert 0 < len(first.uploaded) == len(set(first.uploaded)) == len(first.present)
    assert restored_ledger(near) == half

    again = mirror(study, near, recorded(half))
    assert (again.uploaded, again.present, again.segments) == ((), first.present, first.segments)

    rest = mirror(study, near, recorded(whole), known=first)
    assert rest.uploaded
    assert not set(rest.uploaded) & set(first.uploaded)
    assert restored_ledger(near) == whole
    keys = set(near.keys())
    assert {near.verify(key) for key in keys} == {"whole"}
    assert set(rest.present) | {s.key for s in rest.segments} == keys


def test_what_is_known_is_not_asked_for_again(study: Layout, near: Volume) -> None:
    now = recorded(study.ledger.read_bytes())
    first = mirror(study, near, now)
    asked: list[str] = []
    attentive = Volume(Asked(near.store, asked))  # type: ignore[arg-type]
    assert mirror(study, attentive, now, known=first).uploaded == ()
    assert asked == [f"published/{segment_key(len(first.segments) + 1)}"]


def test_no_segment_names_a_file_that_is_not_there(
    study: Layout, near: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirroring dies after each number of uploads in turn: what can be restored is always consistent."""
    now, steps, left = recorded(study.ledger.read_bytes()), 0, [0]
    create = FolderStore.create

    def limited(self: FolderStore, name: str, data: bytes) -> bool:
        if left[0] == 0:
            raise VolumeError("out")
        left[0] -= 1
        return create(self, name, data)

    monkeypatch.setattr(FolderStore, "create", limited)
    monkeypatch.setattr(infra.mirror, "SEGMENT_BYTES", 4096)
    for budget in (1, 3, 7, 20, 1, 2, 1000):
        left[0] = budget
        try:
            mirror(study, near, now)
        except VolumeError:
            steps += 1
        try:
            ledger = restored_ledger(near)
        except AbsentError:
            continue
        other = Layout(tmp_path / f"after-{budget}-{steps}")
        left[0] = 1000
        assert restore(near, other, recorded(ledger)).lacking == {}
        assert list(losses(known_of(ledger), LocalVolume(other))) == []
    assert steps >= 4
    assert restored_ledger(near) == now.ledger


def test_an_outage_in_the_middle_is_an_error_and_then_it_goes_on(
    faulty: tuple[Volume, Proxy], study: Layout, tmp_path: Path
) -> None:
    volume, proxy = faulty
    now = recorded(study.ledger.read_bytes())
    proxy.set(Fault("cut", towards="server", after=20_000, lasting=True))
    with pytest.raises(VolumeError):
        mirror(study, impatient(volume), now)
    proxy.set(None)
    with pytest.raises(AbsentError, match="no study is kept here"):
        restored_ledger(volume)
    mirror(study, volume, now)

    other = Layout(tmp_path / "other")
    ledger = restored_ledger(volume)
    proxy.set(Fault("cut", after=20_000, lasting=True))
    with pytest.raises(VolumeError):
        restore(impatient(volume), other, recorded(ledger))
    assert not other.ledger.exists(), "without its ledger the folder is no study"
    proxy.set(None)
    assert restore(volume, other, recorded(ledger)).lacking == {}
    assert list(losses(known_of(ledger), LocalVolume(other))) == []


def test_two_machines_cannot_write_one_history(study: Layout, near: Volume) -> None:
    ledger = study.ledger.read_bytes()
    lines = ledger.splitlines(keepends=True)
    mirror(study, near, recorded(ledger))
    for other in (lines[0] + lines[0] + b"".join(lines[1:]), lines[0], b""):
        with pytest.raises(VolumeError, match="another history of this study") as error:
            mirror(study, near, recorded(other))
        assert error.value.fix
    assert restored_ledger(near) == ledger


def test_a_folder_with_another_study_is_left_alone(study: Layout, near: Volume, tmp_path: Path) -> None:
    now = recorded(study.ledger.read_bytes())
    mirror(study, near, now)
    other = Layout(tmp_path / "other")
    other.root.mkdir()
    other.ledger.write_text("{}\n")
    with pytest.raises(VolumeError, match="holds a study already"):
        restore(near, other, now)
    assert files(other.root) == {"ledger.jsonl": b"{}\n"}


def test_an_interrupted_restore_goes_on_and_a_finished_one_changes_nothing(
    study: Layout, near: Volume, tmp_path: Path
) -> None:
    now, other = recorded(study.ledger.read_bytes()), Layout(tmp_path / "other")
    mirror(study, near, now)
    image = now.samples[0].image
    (other.root / image).parent.mkdir(parents=True)
    (other.root / image).write_bytes(b"half")
    first = restore(near, other, now)
    before = files(other.root)
    assert before[image] == (study.root / image).read_bytes()
    assert restore(near, other, now) == first
    assert files(other.root) == before


def test_what_was_made_anew_replaces_what_is_kept(study: Layout, near: Volume, tmp_path: Path) -> None:
    """A picture was lost and drawn again, a little different, as happens on a GPU."""
    now = recorded(study.ledger.read_bytes())
    first = mirror(study, near, now)
    sample = now.samples[3]
    image, sidecar = study.root / sample.image, (study.root / sample.image).with_suffix(".json")
    image.write_bytes(b"drawn again")
    sidecar.write_text(json.dumps({"seconds": 9}))
    new = replace(sample, sha256=file_sha256(image))
    samples = tuple(new if s == sample else s for s in now.samples)
    second = mirror(study, near, replace(now, samples=samples), known=first)
    assert set(second.uploaded) == {sample.image, str(Path(sample.image).with_suffix(".json"))}
    assert len(list(near.store.listed("quarantine/"))) == 2
    restore(near, Layout(tmp_path / "other"), replace(now, samples=samples))
    assert (tmp_path / "other" / sample.image).read_bytes() == b"drawn again"


def test_what_is_damaged_here_does_not_reach_the_volume(study: Layout, near: Volume, tmp_path: Path) -> None:
    now = recorded(study.ledger.read_bytes())
    adapter, gone = now.checkpoints[1].adapter, now.samples[2].image
    (study.root / adapter).write_bytes(b"damaged")
    (study.root / gone).unlink()
    mirrored = mirror(study, near, now)
    assert set(mirrored.lacking) == {adapter, gone}
    assert near.find(str(Path(adapter).with_suffix(".json"))) is None, "no commit marker without its adapter"
    assert restored_ledger(near) == now.ledger

    other = Layout(tmp_path / "other")
    restored = restore(near, other, now)
    assert set(restored.lacking) == {adapter, gone}
    assert {loss.reason for loss in losses(known_of(now.ledger), LocalVolume(other))} == {
        "adapter is absent",
        "picture is absent",
    }


def test_what_is_damaged_there_does_not_come_back(study: Layout, near: Volume, tmp_path: Path) -> None:
    now = recorded(study.ledger.read_bytes())
    mirror(study, near, now)
    small, another, gone = (sample.image for sample in now.samples[:3])
    for image, data in ((small, b"\n"), (another, None), (gone, None)):
        marker = near.store.read(f"published/{image}")
        assert marker is not None
        near.store.remove(f"published/{image}")
        if data is not None:
            near.store.create(f"published/{image}", marker[:-1] + data)
    near.put(another, b"something else")
    restored = restore(near, Layout(tmp_path / "other"), now)
    assert set(restored.lacking) == {small, another, gone}
    assert mirror(study, near, now).lacking == {}
    assert restore(near, Layout(tmp_path / "another"), now).lacking == {}, "mirroring again mends what it can"


def test_a_damaged_marker_is_mended_by_mirroring_again(study: Layout, near: Volume, tmp_path: Path) -> None:
    now = recorded(study.ledger.read_bytes())
    mirror(study, near, now)
    image = now.samples[0].image
    near.store.remove(f"published/{image}")
    near.store.create(f"published/{image}", b"torn")
    assert set(restore(near, Layout(tmp_path / "other"), now).lacking) == {image}
    assert mirror(study, near, now).uploaded == (image,)
    assert near.verify(image) == "whole"


def test_the_newest_training_state_is_kept_and_older_ones_go(study: Layout, near: Volume, tmp_path: Path) -> None:
    assert STATE_FILE == STATE
    ledger = study.ledger.read_bytes()
    now = recorded(ledger)
    early = replace(now, checkpoints=tuple(c for c in now.checkpoints if c.epoch < 3))
    states = [f"trials/{TRIAL}/state/epoch-{epoch:04d}/{STATE}" for epoch in (2, 3)]
    first = mirror(study, near, early)
    assert [near.find(key) is not None for key in states] == [True, False], "epoch 3 is not saved as far as is known"
    second = mirror(study, near, now, known=first)
    assert [near.find(key) is not None for key in states] == [False, True]
    assert states[0] not in second.present
    other = Layout(tmp_path / "other")
    restore(near, other, now)
    assert state_file(other, TRIAL, 3).read_bytes() == state_file(study, TRIAL, 3).read_bytes()


@pytest.mark.parametrize("path", ["../../outside.png", "/etc/passwd", "grid/../../../x.png"])
def test_a_ledger_cannot_choose_where_files_go(study: Layout, near: Volume, path: str) -> None:
    now = recorded(study.ledger.read_bytes())
    bad = replace(now, samples=(replace(now.samples[0], image=path),))
    for work in (lambda: mirror(study, near, bad), lambda: restore(near, study, bad)):
        with pytest.raises(ConfigError, match="leaves the study folder"):
            work()


def test_a_study_folder_may_be_a_link(study: Layout, near: Volume, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(study.root, target_is_directory=True)
    now = recorded(study.ledger.read_bytes())
    assert mirror(Layout(link), near, now).lacking == {}
    (tmp_path / "target").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "target", target_is_directory=True)
    assert restore(near, Layout(tmp_path / "other"), now).lacking == {}
    assert (tmp_path / "target" / "ledger.jsonl").exists()


@pytest.mark.parametrize("limit", [1, 10, 64, 10_000])
def test_segments_are_whole_lines(near: Volume, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(infra.mirror, "SEGMENT_BYTES", limit)
    lines = [b"%d" % n * (n % 40) + b"\n" for n in range(30)]
    ledger = b"".join(lines)
    segments = seal(near, ledger[:200] + b"")
    assert near.read(segment_key(1)).endswith(b"\n")
    segments = seal(near, ledger + b"torn", segments)
    assert restored_ledger(near) == ledger
    assert sealed_segments(near, ledger) == segments == seal(near, ledger, segments)
    assert all(near.read(s.key).endswith(b"\n") for s in segments)
    assert all(s.size <= max(limit, 81) for s in segments)


def test_an_empty_study_leaves_nothing(tmp_path: Path, near: Volume) -> None:
    nothing = Recorded(b"", (), ())
    assert mirror(Layout(tmp_path / "none"), near, nothing) == Mirrored()
    with pytest.raises(AbsentError, match="no study is kept here"):
        restored_ledger(near)
    assert restore(near, Layout(tmp_path / "back"), nothing) == Restored()


class Asked:
    """A store that notes which objects are read."""

    def __init__(self, store: object, asked: list[str]) -> None:
        self._store, self._asked = store, asked

    def read(self, name: str) -> object:
        self._asked.append(name)
        return self._store.read(name)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Callable[..., object]:
        return getattr(self._store, name)
