"""Prompts written as data come out as the exact strings people would type."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from evaluators.config import PromptConfig
from evaluators.prompts import compose, fill, head_count_lock

TRIO = ("kanachan", "keichan", "koharu")


@pytest.mark.parametrize(
    ("form", "cast", "text"),
    [
        ("trigger", ("kanachan",), "kanachan"),
        ("tags", ("kanachan",), "kanachan, 1girl, solo, upper body"),
        ("tags", TRIO, "3girls, kanachan, keichan, koharu, hugging, upper body"),
        ("sentence", TRIO[:2], "two girls, a girl named kanachan and a girl named keichan, hugging, upper body"),
        ("sentence", TRIO[:1], "a girl named kanachan, upper body"),
        ("positional", TRIO, "3girls, left side: kanachan, center: keichan, right side: koharu, hugging, upper body"),
        ("positional", TRIO[:1], "kanachan, 1girl, solo, upper body"),
    ],
)
def test_each_format(form: str, cast: tuple[str, ...], text: str) -> None:
    add = () if form == "trigger" else ("upper body",)
    layout = None if form == "trigger" else "touching"
    assert PromptConfig(name="p", format=form, layout=layout, cast=cast, add=add).text == text


def test_json_names_everyone_and_the_head_count() -> None:
    said = json.loads(compose("json", TRIO, layout="side by side", add=["white background"]))
    assert said["scene"] == "side by side, white background"
    assert said["center_character"] == {"name": "keichan", "lora_trigger": "keichan", "position": "center"}
    assert said["rule"].startswith("exactly three girls")


def test_variables_are_filled_from_the_cast() -> None:
    assert fill("{count}, {left} hugs {right}; {1}; {triggers}; {cast}", TRIO[:2]) == (
        "2girls, kanachan hugs keichan; kanachan; kanachan, keichan; kanachan and keichan"
    )
    assert fill("{cast}", TRIO) == "kanachan, keichan and koharu"


def test_braces_of_json_stay() -> None:
    assert fill('{"scene": "{left} waves", "n": {}}', TRIO) == '{"scene": "kanachan waves", "n": {}}'


def test_an_unknown_variable_is_named_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match=r"unknown variable \{lefft\} in a prompt: did you mean \{left\}\?"):
        PromptConfig(name="p", text="{lefft} waves", cast=TRIO)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "needs a `text` or a `format`"),
        ({"text": "kanachan", "format": "tags"}, "not both; the format makes: kanachan, 1girl, solo"),
        ({"text": "kanachan", "layout": "touching"}, "go with a `format`"),
        ({"format": "tag"}, "'tags'"),
    ],
)
def test_what_does_not_go_together_is_said(fields: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PromptConfig.model_validate({"name": "p", "cast": ["kanachan"], **fields})


def test_writing_a_prompt_out_again_changes_nothing() -> None:
    once = PromptConfig(name="p", format="positional", cast=TRIO, add=("white background",), lock_count=True)
    assert PromptConfig.model_validate(once.model_dump()) == once


@pytest.mark.parametrize(
    ("count", "tags"),
    [(1, "2girls, multiple girls"), (2, "1girl, solo, 3girls"), (3, "1girl, solo, 2girls, 4girls")],
)
def test_the_head_count_is_locked_by_its_neighbours(count: int, tags: str) -> None:
    assert head_count_lock(count) == tags
    prompt = PromptConfig(name="p", format="tags", cast=TRIO[:count], negative="blurry", lock_count=True).prompt()
    assert prompt.negative == f"blurry, {tags}"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cast": []}, "`cast` is missing"),
        ({"adapter": False}, "goes with `role: control`"),
        ({"adapter": False, "role": "probe"}, "goes with `role: control`"),
        ({"seeds": [1]}, "`seeds` goes with a control or a probe"),
        ({"weights": [0.5], "role": "control", "adapter": False}, "the base alone has no weights"),
        ({"size": [100, 64]}, "multiple of 16"),
        ({"cast": [], "role": "control", "format": "tags", "text": ""}, "a format is filled from the cast"),
    ],
)
def test_a_prompt_fits_its_role(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PromptConfig.model_validate({"name": "p", "text": "kanachan", "cast": ["kanachan"], **fields})


def test_the_three_formats_of_the_field() -> None:
    """K: trigger and framing tags; N: with a sentence in plain words; KT: with a hard tag."""
    said = {
        "K": compose("trigger", ["keichan"], add=["upper body"]),
        "N": compose("trigger", ["keichan"], add=["upper body"], sentence="She looks at the viewer."),
        "KT": compose("trigger", ["keichan"], add=["upper body", "hair intakes"]),
    }
    assert said == {
        "K": "keichan, upper body",
        "N": "keichan, upper body. She looks at the viewer.",
        "KT": "keichan, upper body, hair intakes",
    }
    assert json.loads(compose("json", ["keichan"], sentence="She waves."))["description"] == "She waves."
