"""A dataset that was edited between two attempts is noticed; one whose files were renamed trains on as before."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.errors import DatasetError
from tests.trainer.small_datasets import put, read
from trainer.record import hold_to_record


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, colour in {"a": "red", "b": "blue", "c": "green"}.items():
        put(tmp_path / "pictures", name, f"kanachan, {colour}", colour=colour)
    return tmp_path / "pictures"


def test_the_same_dataset_is_the_same_again(root: Path, tmp_path: Path) -> None:
    first = hold_to_record(tmp_path / "trial", read(root))
    assert hold_to_record(tmp_path / "trial", read(root)) == first == read(root)


def test_renamed_files_keep_their_place_in_the_order(root: Path, tmp_path: Path) -> None:
    first = hold_to_record(tmp_path / "trial", read(root))
    for suffix in (".png", ".txt"):
        (root / f"a{suffix}").rename(root / f"z{suffix}")
    again = hold_to_record(tmp_path / "trial", read(root))
    assert [i.sha256 for i in again.items] == [i.sha256 for i in first.items]
    assert [i.file for i in again.items] == ["z.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: (r / "b.txt").write_text("kanachan, running"), "b.png has another caption"),
        (lambda r: put(r, "b", "kanachan, blue", colour="black"), "b.png is another picture"),
        (lambda r: put(r, "d", "kanachan", colour="black"), "d.png is new"),
        (lambda r: [(r / f"b{suffix}").unlink() for suffix in (".png", ".txt")], "b.png is gone"),
    ],
)
def test_an_edit_is_named(root: Path, tmp_path: Path, edit, message: str) -> None:
    hold_to_record(tmp_path / "trial", read(root))
    edit(root)
    with pytest.raises(DatasetError, match=f"edited since this trial began: {message}"):
        hold_to_record(tmp_path / "trial", read(root))
    edited = read(root)
    assert hold_to_record(tmp_path / "another trial", edited) == edited


def test_other_repeats_are_an_edit(root: Path, tmp_path: Path) -> None:
    hold_to_record(tmp_path / "trial", read(root))
    with pytest.raises(DatasetError, match="its repeats"):
        hold_to_record(tmp_path / "trial", read(root, repeats=5))
