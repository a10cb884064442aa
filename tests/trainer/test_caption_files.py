"""Caption files: text and the JSON of AnimaLoraToolkit, read as they were meant or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.caption_files import FaultyCaption, Sections, caption_file, read_captions, tags_of

TOOLKIT = {
    "quality": "newest, safe",
    "count": "1girl",
    "character": "kanachan",
    "series": "",
    "artist": "@someone",
    "appearance": ["smile", "open mouth"],
    "tags": ["singing", "microphone"],
    "environment": ["concert stage"],
    "nl": "She sings on a stage, happily.",
}


def write(folder: Path, content: object, name: str = "a.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_toolkit_caption_keeps_its_order_and_its_groups(tmp_path: Path) -> None:
    (caption,) = read_captions(write(tmp_path, TOOLKIT), each_line=False)
    assert caption.text == (
        "newest, safe, 1girl, kanachan, @someone, smile, open mouth, singing, microphone, concert stage,"
        " She sings on a stage, happily."
    )
    assert caption.sections == Sections(
        fixed=("newest", "safe", "1girl", "kanachan", "@someone"),
        groups=(("smile", "open mouth"), ("singing", "microphone"), ("concert stage",)),
        sentences="She sings on a stage, happily.",
    )


def test_plain_captions_in_json(tmp_path: Path) -> None:
    assert [c.text for c in read_captions(write(tmp_path, {"caption": " a b "}), each_line=False)] == ["a b"]
    two = write(tmp_path, {"captions": ["one", "two"]})
    assert [c.text for c in read_captions(two, each_line=False)] == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "caption is not JSON"),
        ("[" * 100_000, "caption is not JSON"),
        ("[1, 2]", "JSON without a caption"),
        ({"score": 4}, "JSON without a caption"),
        ({"tags": {"a": 1}}, "`tags` is neither text nor a list"),
        ({"tags": ["a", 1]}, "`tags` is neither text nor a list"),
        ({"tags": [], "nl": " "}, "empty caption"),
    ],
)
def test_json_that_says_nothing_is_refused(tmp_path: Path, content: object, what: str) -> None:
    with pytest.raises(FaultyCaption, match=what) as refused:
        read_captions(write(tmp_path, content), each_line=False)
    assert refused.value.file == tmp_path / "a.json"


def test_text_is_taken_literally_but_for_space_around_it(tmp_path: Path) -> None:
    text = "﻿kanachan,  1girl ,smile\nShe smiles.\n"
    (caption,) = read_captions(write(tmp_path, text, "a.txt"), each_line=False)
    assert caption.text == "kanachan,  1girl ,smile\nShe smiles."
    assert [c.text for c in read_captions(tmp_path / "a.txt", each_line=True)] == [
        "kanachan,  1girl ,smile",
        "She smiles.",
    ]


def test_the_preferred_kind_is_found(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    assert caption_file(picture, ("txt", "json")) is None
    json_file, text_file = write(tmp_path, TOOLKIT), write(tmp_path, "kanachan", "a.caption")
    assert caption_file(picture, ("txt", "caption", "json")) == text_file
    assert caption_file(picture, ("json", "caption")) == json_file


def test_tags_are_what_stands_between_commas() -> None:
    assert tags_of(" a b, ,c,") == ("a b", "c")
