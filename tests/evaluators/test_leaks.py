"""Controls without triggers: the pixel judge finds the cast's marks on strangers, and knows what was asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from PIL import Image

from anima.pocket.cast import CAST, dressed
from anima.pocket.world import HEIGHT, WIDTH, Figure, Place, Scene, random_figure, render, scene
from evaluators.critic import judge_of
from evaluators.judges.casting import TIED
from evaluators.judges.leaks import leaks
from evaluators.judges.look import PIXEL_VERSION, STRANGERS_VERSION
from evaluators.judges.pixel import PixelJudge
from evaluators.judges.reading import read
from evaluators.judges.validate import degrade, look_of, looks
from orchestrator.core.study import Finding, Prompt, Verdict

KANACHAN, KEICHAN, KOHARU = CAST.values()
JUDGE = PixelJudge(looks())
CONTROL = Prompt("strangers", "2girls, side by side", (), role="control")
ONE = Figure("pink", "long hair", "green", None)
OTHER = Figure("silver", "twintails", "purple", ("ribbon", "red"))


def picture(*people: Figure) -> Image.Image:
    places = tuple(Place(47.5 + (i - (len(people) - 1) / 2) * 31) for i in range(len(people)))
    return render(Scene(people, places, "white")).image


def verdict_on(*people: Figure, text: str = CONTROL.text) -> Verdict:
    return JUDGE.judge(picture(*people), replace(CONTROL, text=text), "a-key")


def told(verdict: Verdict) -> list[tuple[str, str, str, int]]:
    """Kind, whose, which mark, on which place."""
    return [(f.kind, f.character, f.attribute, f.position) for f in verdict.findings]


def is_marked(figure: Figure) -> bool:
    """Whether a figure has, as it was drawn, something that one of the cast is told by."""
    look = look_of(figure)
    return any(
        (look.hair, look.style) == (her.hair, her.style)
        or (look.accessory is not None and look.accessory == her.accessory)
        or (look.ahoge and her.ahoge)
        or (look.style == her.style and look.style in TIED)
        for her in looks().values()
    )


def test_strangers_with_nothing_of_the_cast_pass() -> None:
    verdict = verdict_on(ONE, OTHER)
    assert (verdict.outcome, verdict.findings) == ("pass", ())
    assert len(verdict.seen) == 2


def test_each_mark_is_named_with_whose_it_is_and_where() -> None:
    assert told(verdict_on(ONE, replace(OTHER, ahoge=True))) == [("leak", "kanachan", "ahoge", 1)]
    worn = verdict_on(ONE, replace(OTHER, accessory=KANACHAN.accessory))
    assert told(worn) == [("leak", "kanachan", "accessory", 1)]
    assert worn.findings[0].sentence() == "stranger 2 of 2 has kanachan's accessory (blue scrunchie)"
    looks_like = verdict_on(Figure("black", "short hair", "green"), OTHER)
    assert told(looks_like) == [("leak", "koharu", "identity", 0)]
    assert looks_like.findings[0].sentence() == "stranger 1 of 2 has koharu's looks (black hair, short hair)"


def test_the_whole_of_somebody_is_all_of_her_marks() -> None:
    verdict = verdict_on(ONE, KANACHAN)
    assert verdict.outcome == "fail"
    assert told(verdict) == [("leak", "kanachan", mark, 1) for mark in ("identity", "accessory", "ahoge")]
    assert verdict.findings[2].sentence() == "stranger 2 of 2 has kanachan's ahoge"


def test_what_two_of_the_cast_wear_is_hers_whom_the_stranger_resembles() -> None:
    assert told(
        verdict_on(replace(ONE, hair="blonde", style="twintails", eyes="blue", accessory=("ribbon", "blue")))
    ) == [("leak", "keichan", "accessory", 0)]
    assert told(verdict_on(replace(ONE, hair="black", eyes="red", accessory=("ribbon", "blue")))) == [
        ("leak", "koharu", "accessory", 0)
    ]


def test_a_tied_style_is_a_mark_in_any_colour() -> None:
    tied = replace(OTHER, style="side ponytail")
    assert told(verdict_on(ONE, tied)) == [("leak", "kanachan", "style", 1)]
    assert verdict_on(ONE, tied).findings[0].sentence() == "stranger 2 of 2 has kanachan's style (side ponytail)"
    assert verdict_on(ONE, tied, text="2girls, side ponytail").outcome == "pass"


def test_a_colour_a_loose_style_or_eyes_alone_are_nobodys() -> None:
    assert verdict_on(replace(ONE, hair="brown"), replace(OTHER, style="long hair", eyes="brown")).outcome == "pass"
    assert verdict_on(ONE, replace(OTHER, accessory=("scrunchie", "red"))).outcome == "pass"


def test_what_the_prompt_asks_for_is_no_leak() -> None:
    ribbon = replace(ONE, accessory=("ribbon", "blue"))
    assert verdict_on(ribbon).outcome == "fail"
    assert verdict_on(ribbon, text="1girl, pink hair, blue ribbon").outcome == "pass"
    assert verdict_on(replace(ONE, ahoge=True), text="1girl, ahoge").outcome == "pass"
    twin = replace(KOHARU, accessory=None)
    assert verdict_on(twin).outcome == "fail"
    assert verdict_on(twin, text="a girl with black hair").outcome == "pass"
    assert verdict_on(twin, text="a girl with black shoes and pink hair").outcome == "fail"


def test_what_cannot_be_seen_is_unscored() -> None:
    nobody = Image.new("RGB", (WIDTH, HEIGHT), (244, 244, 246))
    assert (JUDGE.judge(nobody, CONTROL, "k").outcome, JUDGE.judge(nobody, CONTROL, "k").reason) == (
        "unscored",
        "nobody is there",
    )
    large = JUDGE.judge(nobody.resize((192, 128)), CONTROL, "k")
    assert "the picture is 192x128" in large.reason
    cut_off = JUDGE.judge(render(Scene((ONE,), (Place(6, 8),), "white")).image, CONTROL, "k")
    assert (cut_off.outcome, cut_off.reason) == (
        "unscored",
        "too little of person 1 is certain: scrunchie, ahoge not visible",
    )


def test_controls_have_a_version_of_their_own_and_all_others_keep_theirs() -> None:
    """Verdicts that were given before strangers were looked at stay valid, but those on strangers."""
    shown = Prompt("trio", "kanachan", ("kanachan",))
    assert verdict_on(ONE).judge_version == STRANGERS_VERSION
    assert JUDGE.judge(picture(KANACHAN), shown, "k").judge_version == PIXEL_VERSION == 1
    named = replace(shown, role="control")
    assert JUDGE.judge(picture(KANACHAN), named, "k").judge_version == PIXEL_VERSION
    probe = replace(CONTROL, role="probe")
    assert JUDGE.judge(picture(ONE), probe, "k").reason == "the prompt asks for nobody of the cast"
    assert judge_of(("pixel-1", 1), CONTROL) == ("pixel-1", STRANGERS_VERSION)
    assert {judge_of(("pixel-1", 1), p) for p in (shown, named, probe)} == {("pixel-1", 1)}
    assert judge_of(("people", 3), CONTROL) == ("people", 3)


def test_a_cast_without_marks_of_a_kind_watches_for_none() -> None:
    plain = PixelJudge({"koharu": look_of(replace(KOHARU, accessory=None))})
    assert plain.judge(picture(replace(OTHER, ahoge=True)), CONTROL, "k").outcome == "pass"


def outcomes(count: int, *, degraded: bool) -> Counter[tuple[bool, str]]:
    """Verdicts on random passers-by in random places, by whether one of them has a mark."""
    counted: Counter[tuple[bool, str]] = Counter()
    for index in range(count):
        rng = Random(f"strangers/{index}")
        people = [random_figure(rng) for _ in range(1 + index % 2)]
        if index % 4 < 2:
            people = [replace(p, style="short hair", accessory=None, ahoge=index % 8 == 0) for p in people]
        if index % 4 == 3:
            people[-1] = dressed(rng.choice(list(CAST.values())), rng)
        image = render(scene(people, rng, touching=False)).image
        verdict = JUDGE.judge(degrade(image, index) if degraded else image, CONTROL, str(index))
        counted[any(map(is_marked, people)), verdict.outcome] += 1
    return counted


def test_among_passers_by_it_finds_the_marks_there_are_and_no_others() -> None:
    for degraded, share in ((False, 0.95), (True, 0.9)):
        counted = outcomes(48, degraded=degraded)
        marked, clean = (sum(n for (m, _), n in counted.items() if m is which) for which in (True, False))
        assert min(marked, clean) >= 12
        assert counted[True, "fail"] >= share * marked
        assert counted[False, "fail"] <= (1 - share) * clean


def test_positions_and_order_come_from_the_picture() -> None:
    found: tuple[Finding, ...] = leaks(read(picture(KEICHAN, ONE, KANACHAN)), "3girls", looks())
    assert [f.position for f in found] == sorted(f.position for f in found)
    assert {(f.character, f.position) for f in found} == {("keichan", 0), ("kanachan", 2)}
