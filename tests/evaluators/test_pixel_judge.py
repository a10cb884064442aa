"""The pixel judge: it passes the cast and nobody else, names each known defect, and admits what it cannot see."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydantic import ValidationError

from anima.pocket.cast import CAST
from anima.pocket.world import HEIGHT, WIDTH, Figure, Place, Scene, render
from evaluators.judges.look import CharacterLook
from evaluators.judges.pixel import PixelJudge
from evaluators.judges.validate import TRIO, look_of, looks, outcomes, recall
from orchestrator.core.errors import ConfigError
from orchestrator.core.study import COUNTED_KINDS, Finding, FindingKind, Prompt, Verdict

KANACHAN, KEICHAN, KOHARU = (CAST[name] for name in TRIO)
JUDGE = PixelJudge(looks())


def picture(*people: Figure) -> Image.Image:
    """People side by side, without chance."""
    middle, gap = 47.5, 31.0
    places = tuple(Place(middle + (i - (len(people) - 1) / 2) * gap) for i in range(len(people)))
    return render(Scene(people, places, "white")).image


def verdict_on(image: Image.Image, names: Sequence[str] = TRIO) -> Verdict:
    """The judge's word on a picture that should show `names`."""
    return JUDGE.judge(image, Prompt("test", "text", tuple(names)), "a-key")


def findings(*people: Figure, names: Sequence[str] = TRIO) -> list[Finding]:
    """What the judge has against these people in the places of `names`."""
    verdict = verdict_on(picture(*people), names)
    assert verdict.outcome == ("fail" if verdict.findings else "pass")
    return list(verdict.findings)


def test_the_cast_passes_in_any_shirt() -> None:
    assert outcomes(TRIO, 100)["pass"] >= 99


@pytest.mark.parametrize("names", [TRIO[:2], TRIO[1:], TRIO[::2], TRIO[::-1], *((name,) for name in TRIO)])
def test_pairs_solos_and_other_orders_pass(names: tuple[str, ...]) -> None:
    assert outcomes(names, 20) == {"pass": 20}


def test_the_cast_passes_through_blur_and_noise() -> None:
    assert outcomes(TRIO, 40, degraded=True)["pass"] >= 39


@pytest.mark.parametrize("names", [TRIO, TRIO[:2], TRIO[2:]])
def test_strangers_never_pass(names: tuple[str, ...]) -> None:
    assert outcomes(names, 40, cast=False)["pass"] == 0


@pytest.mark.parametrize("kind", COUNTED_KINDS)
def test_known_defects_are_called_by_their_name(kind: FindingKind) -> None:
    recalled = recall(kind, 40)
    assert recalled.failed == recalled.drawings
    assert recalled.named >= 0.95 * recalled.drawings


@pytest.mark.parametrize("kind", COUNTED_KINDS)
def test_known_defects_are_called_by_their_name_through_blur_and_noise(kind: FindingKind) -> None:
    recalled = recall(kind, 10, degraded=True)
    assert recalled.failed == recalled.drawings
    assert recalled.named >= 0.9 * recalled.drawings


def test_a_lost_ahoge_is_missing() -> None:
    (found,) = findings(replace(KANACHAN, ahoge=False), KEICHAN, KOHARU)
    assert (found.kind, found.character, found.attribute, found.position) == ("missing", "kanachan", "ahoge", 0)
    assert found.confidence > 0.5


def test_a_lost_ribbon_is_missing_though_another_wears_the_same() -> None:
    (found,) = findings(KANACHAN, KEICHAN, replace(KOHARU, accessory=None))
    assert (found.kind, found.character, found.expected, found.seen) == ("missing", "koharu", "blue ribbon", "")


def test_loose_hair_instead_of_a_ponytail_is_missing() -> None:
    found = findings(replace(KANACHAN, style="long hair", accessory=None), KEICHAN, KOHARU)
    assert {(f.kind, f.attribute) for f in found} == {("missing", "style"), ("missing", "accessory")}


def test_an_ahoge_that_moved_is_migrated_once() -> None:
    (found,) = findings(replace(KANACHAN, ahoge=False), KEICHAN, replace(KOHARU, ahoge=True))
    assert (found.kind, found.character, found.other, found.position) == ("migrated", "kanachan", "koharu", 0)
    assert found.sentence() == "kanachan's ahoge moved to koharu"


def test_an_ahoge_on_two_is_duplicated() -> None:
    (found,) = findings(KANACHAN, replace(KEICHAN, ahoge=True), KOHARU)
    assert (found.kind, found.character, found.other, found.position) == ("duplicated", "kanachan", "keichan", 1)


def test_an_ahoge_and_a_scrunchie_that_moved_together_are_two_findings() -> None:
    lost = replace(KANACHAN, ahoge=False, accessory=None)
    found = findings(lost, replace(KEICHAN, ahoge=True, accessory=KANACHAN.accessory), KOHARU)
    migrated = {f.attribute for f in found if f.kind == "migrated" and f.other == "keichan"}
    assert migrated == {"ahoge", "accessory"}
    assert [f.attribute for f in found if f.kind == "missing" and f.character == "keichan"] == ["accessory"]


def test_a_scrunchie_that_changed_its_colour_on_the_way_still_migrated() -> None:
    lost = replace(KANACHAN, accessory=None)
    found = findings(lost, KEICHAN, replace(KOHARU, accessory=("scrunchie", "red")))
    assert ("migrated", "kanachan", "koharu") in {(f.kind, f.character, f.other) for f in found}


def test_another_colour_is_drift_even_if_another_character_has_it() -> None:
    (found,) = findings(replace(KANACHAN, hair="orange"), KEICHAN, KOHARU)
    assert (found.kind, found.attribute, found.expected, found.seen) == ("drift", "hair", "brown", "orange")
    (found,) = findings(replace(KANACHAN, hair="blonde"), KEICHAN, KOHARU)
    assert (found.kind, found.attribute, found.seen) == ("drift", "hair", "blonde")


def test_hair_colours_that_changed_places_are_migrated() -> None:
    found = findings(replace(KANACHAN, hair="blonde"), replace(KEICHAN, hair="brown"), KOHARU)
    assert {(f.kind, f.character, f.other) for f in found} == {
        ("migrated", "kanachan", "keichan"),
        ("migrated", "keichan", "kanachan"),
    }


def test_a_character_drawn_as_another_is_absorbed() -> None:
    (found,) = findings(KEICHAN, KEICHAN, KOHARU)
    assert (found.kind, found.character, found.seen, found.other) == ("absorbed", "kanachan", "keichan", "")
    assert found.sentence() == "kanachan is drawn as keichan"


def test_two_who_changed_places_are_both_absorbed_and_found_again() -> None:
    found = findings(KEICHAN, KANACHAN, KOHARU)
    assert [(f.kind, f.character, f.seen, f.other) for f in found] == [
        ("absorbed", "kanachan", "keichan", "keichan"),
        ("absorbed", "keichan", "kanachan", "kanachan"),
    ]


def test_one_of_the_cast_may_leak_into_a_prompt_without_her() -> None:
    (found,) = findings(replace(KEICHAN, ahoge=True), names=("keichan",))
    assert (found.kind, found.character, found.other) == ("migrated", "kanachan", "keichan")
    (found,) = findings(KEICHAN, names=("koharu",))
    assert (found.kind, found.character, found.seen) == ("absorbed", "koharu", "keichan")


def test_what_nobody_is_known_by_is_drift_from_nothing() -> None:
    (found,) = findings(KOHARU, KEICHAN, replace(KANACHAN, style="twintails"), names=("koharu", "keichan", "kanachan"))
    assert (found.kind, found.attribute, found.seen) == ("missing", "style", "twintails")


def test_a_wrong_count_says_who_is_not_there() -> None:
    found = findings(KANACHAN, KOHARU)
    assert [(f.kind, f.character) for f in found] == [("count", ""), ("missing", "keichan")]
    assert found[0].sentence() == "2 people instead of 3"


def test_a_twin_too_many_is_counted_and_duplicated() -> None:
    found = findings(KANACHAN, KEICHAN, KEICHAN, names=("kanachan", "keichan"))
    assert [(f.kind, f.character) for f in found] == [("count", ""), ("duplicated", "keichan")]


def test_an_empty_picture_shows_nobody() -> None:
    verdict = verdict_on(picture())
    assert verdict.outcome == "fail"
    assert verdict.findings[0] == Finding("count", expected="3", seen="0")


def test_a_verdict_says_what_it_saw_and_survives_json() -> None:
    verdict = verdict_on(picture(KANACHAN, KEICHAN, replace(KOHARU, eyes="green")))
    assert (verdict.judge, verdict.judge_version, verdict.cell_key) == ("pixel", PixelJudge.version, "a-key")
    assert len(verdict.seen) == 3
    assert verdict.seen[2].startswith("black hair (#26222c), short hair, green eyes, blue ribbon")
    assert Verdict.from_json(verdict.to_json()) == verdict
    assert verdict == verdict_on(picture(KANACHAN, KEICHAN, replace(KOHARU, eyes="green")))


@pytest.mark.parametrize("seed", range(5))
def test_what_is_no_picture_of_the_world_is_unscored(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    stripes = Image.new("RGB", (WIDTH, HEIGHT), "white")
    for x in range(0, WIDTH, 8):
        colour = tuple(int(level) for level in rng.integers(0, 256, 3))
        ImageDraw.Draw(stripes).rectangle((x, 0, x + 3, HEIGHT), fill=colour)
    for image in (Image.fromarray(noise), stripes):
        verdict = verdict_on(image)
        assert verdict.outcome == "unscored"
        assert "drawn world" in verdict.reason


def test_another_size_and_an_empty_cast_are_unscored() -> None:
    assert "64x64" in verdict_on(Image.new("RGB", (64, 64))).reason
    verdict = verdict_on(picture(KANACHAN), names=())
    assert (verdict.outcome, verdict.findings) == ("unscored", ())


def test_between_pass_and_fail_lies_unscored() -> None:
    drawn, otherwise = (picture(KANACHAN, replace(KEICHAN, style=s), KOHARU) for s in ("long hair", "short hair"))
    verdicts = [verdict_on(Image.blend(drawn, otherwise, share / 20)) for share in range(21)]
    order = ["pass", "unscored", "fail"]
    assert [v.outcome for v in verdicts] == sorted((v.outcome for v in verdicts), key=order.index)
    assert {v.outcome for v in verdicts} == set(order)
    assert all("keichan" in v.reason and "style" in v.reason for v in verdicts if v.outcome == "unscored")


def test_hidden_eyes_alone_fail_nobody() -> None:
    drawn = picture(KANACHAN, KEICHAN, KOHARU)
    ImageDraw.Draw(drawn).rectangle((72, 25, 85, 32), fill=(255, 222, 196))
    verdict = verdict_on(drawn)
    assert verdict.outcome == "pass"
    assert "eyes not visible" in verdict.seen[2]


def test_mirrored_pictures_have_mirrored_verdicts() -> None:
    """When neighbours change sides, a finding's place does too."""
    rng = Random(1)
    for _ in range(10):
        people = [KANACHAN, KEICHAN, KOHARU]
        place = rng.randrange(3)
        people[place] = replace(people[place], eyes="green")
        (ahead,) = findings(*people)
        (back,) = findings(*people[::-1], names=TRIO[::-1])
        assert (ahead.kind, ahead.character, ahead.seen) == (back.kind, back.character, back.seen)
        assert ahead.position == 2 - back.position


def test_a_stranger_in_the_prompt_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="'kanchan', whose look is unknown — did you mean 'kanachan'"):
        verdict_on(picture(KANACHAN), names=("kanchan",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hair": "bronw"}, r"cast\.kanachan\.hair: .*'bronw' — did you mean 'brown'"),
        ({"style": "bun"}, r"cast\.kanachan\.style: .*choose from short hair"),
        ({"eyes": "grene"}, r"cast\.kanachan\.eyes: .*'green'"),
        ({"accessory": "blue hat"}, r"cast\.kanachan\.accessory: .*'hat'"),
        ({"accessory": "mauve ribbon"}, r"cast\.kanachan\.accessory: .*'mauve'"),
    ],
)
def test_words_the_world_does_not_have_are_refused(change: dict[str, str], message: str) -> None:
    look = looks()["kanachan"].model_copy(update=change)
    with pytest.raises(ConfigError, match=message):
        PixelJudge({"kanachan": look})


def test_a_look_is_what_the_yaml_says() -> None:
    said = {"hair": "brown", "style": "side ponytail", "eyes": "brown", "accessory": "blue scrunchie", "ahoge": True}
    assert CharacterLook.model_validate(said) == look_of(KANACHAN)
    assert CharacterLook.model_validate({k: said[k] for k in ("hair", "style", "eyes")}).wears("ribbon") == "none"
    for wrong in ({**said, "accessory": "scrunchie"}, {**said, "hat": "red"}):
        with pytest.raises(ValidationError):
            CharacterLook.model_validate(wrong)


def test_where_order_does_not_matter_everybody_may_stand_anywhere() -> None:
    swapped = picture(KOHARU, KANACHAN, KEICHAN)
    ordered = Prompt("test", "text", TRIO)
    anywhere = replace(ordered, ordered=False)
    assert JUDGE.judge(swapped, ordered, "a-key").outcome == "fail"
    assert JUDGE.judge(swapped, anywhere, "a-key").outcome == "pass"
    bald = JUDGE.judge(picture(KOHARU, replace(KANACHAN, ahoge=False), KEICHAN), anywhere, "a-key")
    assert [(f.kind, f.character, f.position) for f in bald.findings] == [("missing", "kanachan", 1)]
    assert JUDGE.judge(picture(KOHARU, KANACHAN), anywhere, "a-key").findings[0].kind == "count"
