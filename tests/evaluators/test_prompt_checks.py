"""Prompts are looked at before anything is drawn: contradictions are refused, written looks are told."""

from __future__ import annotations

import pytest

from evaluators.config import PromptConfig
from evaluators.judges.look import CharacterLook
from evaluators.prompt_checks import check_cast, look_warnings, written_looks
from orchestrator.core.errors import ConfigError

KANACHAN = CharacterLook(hair="brown", style="side ponytail", eyes="brown", accessory="blue scrunchie", ahoge=True)
KEICHAN = CharacterLook(hair="blonde", style="long hair with a half-up braid", eyes="blue", accessory="blue ribbon")


def prompt(text: str, *cast: str, **more: object) -> PromptConfig:
    return PromptConfig.model_validate({"name": "p", "text": text, "cast": cast, **more})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kanachan waves", []),
        ("kanachan, long brown hair", []),
        ("kanachan, brown hair, brown eyes", ["brown hair", "brown eyes"]),
        ("a brown-haired, brown-eyed girl", ["brown-haired", "brown-eyed"]),
        ("brown messy hair", ["brown messy hair"]),
        ("Side Ponytail with a scrunchie and an ahoge", ["Side Ponytail", "scrunchie", "ahoge"]),
        ("a brown coat, hair down, closed eyes", []),
    ],
)
def test_a_look_is_found_however_it_is_written(text: str, said: list[str]) -> None:
    expected = said if "long brown hair" not in text else ["brown hair"]
    assert written_looks(text, KANACHAN) == expected


def test_a_style_of_several_parts_is_found_by_each() -> None:
    assert written_looks("blond hair in a half-up braid, blue hair ribbon", KEICHAN) == [
        "blond hair",
        "half-up braid",
        "blue hair ribbon",
    ]


def test_only_what_the_trigger_holds_is_told() -> None:
    cast = {"kanachan": KANACHAN, "keichan": KEICHAN}
    written = prompt("kanachan, brown hair", "kanachan")
    (warning,) = look_warnings([written], cast)
    assert warning.startswith("prompt 'p' writes 'brown hair', the looks of kanachan")
    assert look_warnings([written], cast, described=["kanachan"]) == []
    assert look_warnings([prompt("kanachan, twintails", "kanachan", role="probe")], cast) == []
    alone = prompt("kanachan, brown hair", "kanachan", role="control", adapter=False)
    assert look_warnings([alone], cast) == [], "without the adapter the base must be told"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (prompt("keichan waves", "keichan"), "shows 'keichan', who is not in the cast — did you mean 'kanachan'"),
        (prompt("she waves", "kanachan"), "does not name 'kanachan'"),
        (prompt("kanachan waves", role="control"), "is a control of the adapter, and names 'kanachan'"),
    ],
)
def test_contradictions_are_refused(made: PromptConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_cast([made], ["kanachan"])


def test_a_control_may_name_triggers_where_there_is_no_adapter() -> None:
    check_cast([prompt("kanachan waves", "kanachan", role="control", adapter=False)], ["kanachan"])
    check_cast([prompt("two girls wave", role="control")], ["kanachan"])
