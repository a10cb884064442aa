"""A dataset is read whole or refused with one line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from orchestrator.core.errors import DatasetError
from trainer.config import DatasetConfig, DrawnDataset
from trainer.dataset import Dataset, named_triggers, read_dataset, steps_per_epoch
from trainer.drawn import ensure_drawn_dataset

TRIGGERS = ("kanachan", "keichan", "koharu")
SMALL = DrawnDataset(solo=2, pair=1, trio=1)
SMALL_COUNT = 3 * 2 + 3 * 1 + 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    ensure_drawn_dataset(tmp_path / "dataset", SMALL)
    return tmp_path / "dataset"


def read(root: Path) -> Dataset:
    return read_dataset(root, DatasetConfig(repeats=2), TRIGGERS)


def test_a_drawn_dataset_has_every_group_and_its_captions_hide_the_looks(root: Path) -> None:
    dataset = read(root)
    assert len(dataset) == SMALL_COUNT
    assert dataset.counts[("kanachan",)] == 2
    assert dataset.counts[("kanachan", "keichan", "koharu")] == 1
    words = " ".join(item.caption for item in dataset.items)
    assert not any(word in words for word in ("hair", "eyes", "ponytail", "ribbon", "scrunchie", "ahoge"))


def test_positions_in_a_trio_caption_follow_the_picture(root: Path) -> None:
    trio = next(item for item in read(root).items if len(item.triggers) == 3)
    assert trio.caption.startswith("3girls, left side: ")
    assert all(where in trio.caption for where in ("left side: ", "center: ", "right side: "))


def test_drawing_again_changes_nothing_and_other_settings_redraw(root: Path) -> None:
    before = read(root).sha256
    stamp = (root / ".complete").stat().st_mtime_ns
    ensure_drawn_dataset(root, SMALL)
    assert (root / ".complete").stat().st_mtime_ns == stamp
    ensure_drawn_dataset(root, SMALL.model_copy(update={"seed": 2}))
    assert read(root).sha256 != before


def test_a_folder_of_someone_elses_pictures_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"precious")
    with pytest.raises(DatasetError, match="not drawn here"):
        ensure_drawn_dataset(tmp_path, SMALL)
    assert (tmp_path / "mine.png").read_bytes() == b"precious"


def test_identity_is_content_not_file_names(root: Path) -> None:
    before = read(root).sha256
    for suffix in (".png", ".txt"):
        (root / f"kanachan-001{suffix}").rename(root / f"renamed{suffix}")
    assert read(root).sha256 == before
    (root / "renamed.txt").write_text("kanachan, 1girl, solo, running")
    assert read(root).sha256 != before


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda r: (r / "koharu-001.txt").unlink(), r"1 file without a caption: koharu-001\.png"),
        (lambda r: (r / "koharu-001.png").unlink(), r"1 file without its picture: koharu-001\.txt"),
        (lambda r: (r / "koharu-001.txt").write_text("1girl, solo"), r"names no trigger: koharu-001\.png"),
        (lambda r: (r / "koharu-001.txt").write_text(""), r"koharu-001\.txt: empty caption"),
        (lambda r: (r / "koharu-001.txt").write_bytes(b"\xff\xfe\x00"), r"koharu-001\.txt: caption is not UTF-8"),
        (lambda r: (r / "koharu-001.png").write_bytes(b"no picture"), r"koharu-001\.png: unreadable picture"),
        (lambda r: Image.new("RGB", (4, 4)).save(r / "koharu-001.jpg"), r"sharing one caption: koharu-001"),
    ],
)
def test_what_is_wrong_is_named(root: Path, break_it, message: str) -> None:
    break_it(root)
    with pytest.raises(DatasetError, match=message):
        read(root)


def test_a_truncated_picture_is_unreadable(root: Path) -> None:
    picture = root / "koharu-001.png"
    picture.write_bytes(picture.read_bytes()[:-40])
    with pytest.raises(DatasetError, match="unreadable picture"):
        read(root)


def test_no_folder_and_no_pictures_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no pictures"):
        read(tmp_path)


def test_triggers_are_whole_words_in_caption_order() -> None:
    assert named_triggers("3girls, left side: koharu, right side: kanachan", TRIGGERS) == ("koharu", "kanachan")
    assert named_triggers("kanachans, mykoharu", TRIGGERS) == ()


def test_the_field_notes_steps_per_epoch() -> None:
    assert steps_per_epoch(images=294, repeats=2, batch=1, grad_accum=4) == 147
    assert steps_per_epoch(images=10, repeats=1, batch=4, grad_accum=1) == 3
