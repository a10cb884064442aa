"""A dataset is read whole, or refused with one line for each file that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from orchestrator.core.errors import DatasetError, MissingError
from tests.trainer.small_datasets import TRIGGERS, put, read
from trainer.balance import showings
from trainer.config import DatasetConfig, DrawnDataset, FolderConfig
from trainer.dataset import named_triggers, read_all_captions, steps_per_epoch
from trainer.drawn import ensure_drawn_dataset

SMALL = DrawnDataset(solo=2, pair=1, trio=1)
SMALL_COUNT = 3 * 2 + 3 * 1 + 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    ensure_drawn_dataset(tmp_path / "dataset", SMALL)
    return tmp_path / "dataset"


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


def test_only_who_is_in_the_cast_is_drawn(tmp_path: Path) -> None:
    """A study of one character is the quickstart's with two lines taken out of `cast`."""
    ensure_drawn_dataset(tmp_path / "two", SMALL, ["koharu", "kanachan"])
    assert sorted(path.stem for path in (tmp_path / "two").glob("*.png")) == [
        *("kanachan-001", "kanachan-002", "kanachan-koharu-001", "koharu-001", "koharu-002"),
    ]
    ensure_drawn_dataset(tmp_path / "two", SMALL, ["koharu"])
    assert [path.stem for path in (tmp_path / "two").glob("koharu-*.png")] != []
    assert list((tmp_path / "two").glob("*kanachan*")) == []
    with pytest.raises(DatasetError, match="nobody named 'ann'"):
        ensure_drawn_dataset(tmp_path / "three", SMALL, ["koharu", "ann"])


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
        (lambda r: (r / "koharu-001.txt").unlink(), r"koharu-001\.png: without a caption — write koharu-001\.txt or"),
        (lambda r: (r / "koharu-001.png").unlink(), r"koharu-001\.txt: caption without its picture"),
        (lambda r: (r / "koharu-001.txt").write_text("1girl, solo"), r"koharu-001\.txt: caption names no trigger"),
        (lambda r: (r / "koharu-001.txt").write_text(""), r"koharu-001\.txt: empty caption"),
        (lambda r: (r / "koharu-001.txt").write_bytes(b"\xff\xfe\x00"), r"koharu-001\.txt: caption is not UTF-8"),
        (lambda r: (r / "koharu-001.png").write_bytes(b"no picture"), r"koharu-001\.png: unreadable picture"),
        (lambda r: (r / "koharu-001.png").write_bytes(b""), r"koharu-001\.png: empty file"),
        (lambda r: Image.new("RGB", (4, 4)).save(r / "koharu-001.jpg"), r"koharu-001\.jpg: another picture shares its"),
        (
            lambda r: (r / "koharu-002.png").write_bytes((r / "koharu-001.png").read_bytes()),
            r"koharu-002\.png: the same picture as koharu-001\.png",
        ),
    ],
)
def test_what_is_wrong_is_named(root: Path, break_it, message: str) -> None:
    break_it(root)
    with pytest.raises(DatasetError, match=message):
        read(root)


def test_every_fault_has_its_own_line_and_can_be_skipped(root: Path) -> None:
    (root / "koharu-001.txt").write_text("1girl, solo")
    picture = root / "koharu-002.png"
    picture.write_bytes(picture.read_bytes()[:-40])
    (root / "notes.caption").write_text("kanachan")
    with pytest.raises(DatasetError) as refused:
        read(root)
    lines = str(refused.value).splitlines()
    assert [line.rpartition("/")[2].partition(":")[0] for line in lines] == [
        "koharu-001.txt",
        "koharu-002.png",
        "notes.caption",
    ]
    dataset = read(root, faulty="skip")
    assert len(dataset) == SMALL_COUNT - 2
    assert dataset.skipped == tuple(lines)


def test_no_folder_and_no_pictures_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no pictures"):
        read(tmp_path)


def test_folders_named_like_kohyas_repeat_their_pictures(tmp_path: Path) -> None:
    put(tmp_path / "3_kanachan", "a", "kanachan, 1girl", colour="red")
    put(tmp_path / "1_keichan" / "2_deeper", "b", "keichan, 1girl", colour="blue")
    put(tmp_path / "plain", "c", "koharu, 1girl", colour="green")
    dataset = read(tmp_path)
    assert {item.file: item.repeats for item in dataset.items} == {
        "1_keichan/2_deeper/b.png": 1,
        "3_kanachan/a.png": 3,
        "plain/c.png": 1,
    }
    # repeats: 2 on top.
    assert sorted(showings(dataset, "none", 1)) == [0] * 2 + [1] * 6 + [2] * 2


def test_folders_have_their_own_repeats_and_hold_captions_to_role_and_cast(tmp_path: Path) -> None:
    put(tmp_path / "k", "a", "kanachan, 1girl", colour="red")
    put(tmp_path / "pairs", "a", "keichan and koharu", colour="blue")
    put(tmp_path / "people", "a", "1girl, street", colour="green")
    put(tmp_path / "elsewhere", "a", "nobody of the cast", colour="black")
    folders = [
        {"path": "k", "repeats": 4, "role": "solo", "cast": ["kanachan"]},
        {"path": "pairs", "role": "pair"},
        {"path": "people", "role": "regularisation"},
    ]
    dataset = read(tmp_path, folders=folders)
    assert [(i.file, i.repeats, i.triggers, i.regularisation) for i in dataset.items] == [
        ("k/a.png", 4, ("kanachan",), False),
        ("pairs/a.png", 1, ("keichan", "koharu"), False),
        ("people/a.png", 1, (), True),
    ]
    told = read_all_captions(tmp_path, DatasetConfig.model_validate({"folders": folders}), TRIGGERS)
    assert [(t.triggers, t.repeats) for t in told] == [(("kanachan",), 4), (("keichan", "koharu"), 1), ((), 1)]


@pytest.mark.parametrize(
    ("folder", "caption", "message"),
    [
        ({"role": "solo"}, "kanachan, keichan", "names kanachan and keichan in a solo folder"),
        ({"role": "trio"}, "kanachan, keichan", "in a trio folder"),
        ({"cast": ["kanachan"]}, "keichan, 1girl", "caption names keichan, not kanachan"),
        ({"role": "regularisation"}, "keichan, 1girl", "names keichan in a regularisation folder"),
        ({"cast": ["kanachan"]}, "1girl", "names no trigger — write one of kanachan into it"),
    ],
)
def test_a_caption_that_belongs_elsewhere_is_named(tmp_path: Path, folder: dict, caption: str, message: str) -> None:
    put(tmp_path / "f", "a", caption)
    with pytest.raises(DatasetError, match=rf"a\.txt: caption {message.removeprefix('caption ')}|{message}"):
        read(tmp_path, folders=[{"path": "f", **folder}])


def test_a_role_must_fit_its_cast() -> None:
    with pytest.raises(ValidationError, match="role solo means 1 of the cast, not 2"):
        FolderConfig(path="x", role="solo", cast=("kanachan", "keichan"))


def test_folders_outside_the_root_are_named_whole(tmp_path: Path) -> None:
    put(tmp_path / "outside", "a", "kanachan")
    (tmp_path / "root").mkdir()
    dataset = read(tmp_path / "root", folders=[{"path": str(tmp_path / "outside")}])
    assert dataset.items[0].file == (tmp_path / "outside" / "a.png").as_posix()
    with pytest.raises(MissingError, match="root/inside: there is no such folder"):
        read(tmp_path / "root", folders=[{"path": "inside"}])


def test_repeats_roles_and_captions_are_part_of_the_identity(tmp_path: Path) -> None:
    put(tmp_path / "a", "a", "kanachan, smiling\nkanachan smiles")
    plain = read(tmp_path)
    others = [
        read(tmp_path, repeats=3),
        read(tmp_path, folders=[{"path": "a", "repeats": 2}]),
        read(tmp_path, caption_lines="each"),
    ]
    assert len({plain.sha256, *(other.sha256 for other in others)}) == 4
    assert read(tmp_path, folders=[{"path": "a"}]).sha256 == plain.sha256


def test_caption_files_are_taken_in_the_order_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "a", "kanachan by text")
    (tmp_path / "a.json").write_text(json.dumps({"character": "kanachan", "nl": "She waves."}))
    assert read(tmp_path).items[0].caption == "kanachan by text"
    assert read(tmp_path, captions=["json", "txt"]).items[0].caption == "kanachan, She waves."


def test_lines_may_be_captions_of_their_own_but_name_the_same_people(tmp_path: Path) -> None:
    put(tmp_path, "a", "kanachan, smiling\n\nkanachan smiles")
    assert [c.text for c in read(tmp_path, caption_lines="each").items[0].captions] == [
        "kanachan, smiling",
        "kanachan smiles",
    ]
    put(tmp_path, "a", "kanachan, smiling\nShe smiles.")
    with pytest.raises(DatasetError, match=r"a\.txt: its captions name different characters"):
        read(tmp_path, caption_lines="each")


def test_hidden_files_are_not_looked_at_and_others_are_counted(root: Path) -> None:
    put(root / ".thumbs", "a", None)
    (root / "movie.mp4").write_bytes(b"")
    (root / "clip.mp4").write_bytes(b"")
    dataset = read(root)
    assert len(dataset) == SMALL_COUNT
    assert dataset.ignored == {".mp4": 2}


def test_triggers_are_whole_words_in_caption_order() -> None:
    assert named_triggers("3girls, left side: koharu, right side: kanachan", TRIGGERS) == ("koharu", "kanachan")
    assert named_triggers("kanachans, mykoharu", TRIGGERS) == ()


def test_the_field_notes_steps_per_epoch() -> None:
    assert steps_per_epoch(images=294, repeats=2, batch=1, grad_accum=4) == 147
    assert steps_per_epoch(images=10, repeats=1, batch=4, grad_accum=1) == 3
