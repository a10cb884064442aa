"""Reading the drawn world: names and numbers against what was drawn, and honesty where a picture does not say."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from anima.pocket.cast import CAST
from anima.pocket.world import EYES, HAIR, HEIGHT, SKIN, WIDTH, Figure, Place, Scene, render
from evaluators.judges.palette import ACCESSORY_PALETTE, EYES_PALETTE, HAIR_PALETTE, oklab
from evaluators.judges.reading import read, read_picture
from evaluators.judges.validate import misplaced, passers_by, tally_readings

ALICE = Figure("brown", "short hair", "blue", None, False, "green")


def alone(figure: Figure, x: float = 48.0) -> Image.Image:
    """One figure, in a place of her own."""
    return render(Scene((figure,), (Place(x, 25.0),), "grey")).image


def halves(left: Image.Image, right: Image.Image, x: int = 48) -> Image.Image:
    """The left part of one picture and the right part of another."""
    joined = left.copy()
    joined.paste(right.crop((x, 0, WIDTH, HEIGHT)), (x, 0))
    return joined


def test_clean_drawings_are_read_right() -> None:
    tally = tally_readings(passers_by(500, seed=11))
    assert tally.miscounted <= 2, tally
    assert tally.right >= 0.99 * tally.attributes, tally
    assert tally.confusions.total() <= 0.002 * tally.attributes, tally


def test_people_may_stand_elsewhere_and_be_of_another_size() -> None:
    tally = tally_readings(misplaced(s, Random(i)) for i, s in enumerate(passers_by(60, seed=12)))
    assert tally.miscounted <= 1, tally
    assert tally.right >= 0.99 * tally.attributes, tally


def test_blur_noise_and_blotches_are_read_through() -> None:
    tally = tally_readings(passers_by(120, seed=13), degraded=True)
    assert tally.miscounted <= 1, tally
    assert tally.right >= 0.97 * tally.attributes, tally
    assert tally.confusions.total() <= 0.005 * tally.attributes, tally


def test_four_people_are_four() -> None:
    places = tuple(Place(14 + 23 * i, 25.0) for i in range(4))
    assert len(read(render(Scene((ALICE,) * 4, places)).image)) == 4


@pytest.mark.parametrize("background", ["white", "blue", "green", "purple", "grey"])
def test_nobody_is_nobody(background: str) -> None:
    reading = read_picture(render(Scene((), (), background)).image)
    assert reading.figures == ()
    assert reading.is_empty


def test_words_say_everything_with_the_hair_in_numbers() -> None:
    words = read(alone(CAST["kanachan"]))[0].words()
    assert words.startswith("brown hair (#7e4a22), side ponytail, brown eyes, blue scrunchie, ahoge")


def test_confidence_falls_with_the_evidence() -> None:
    whole = alone(replace(ALICE, style="twintails"))
    half = Image.blend(whole, alone(replace(ALICE, style="short hair")), 0.45)
    sure, unsure = (read(picture)[0].style for picture in (whole, half))
    assert sure.confidence > 0.8
    assert unsure.confidence < 0.5 * sure.confidence


def test_eyes_that_are_not_drawn_are_not_visible() -> None:
    picture = alone(ALICE)
    ImageDraw.Draw(picture).rectangle((41, 25, 54, 32), fill=SKIN)
    figure = read(picture)[0]
    assert not figure.eyes.sure
    assert "eyes not visible" in figure.words()
    assert figure.hair.value == "brown"


def test_eyes_of_two_colours_are_named_both() -> None:
    picture = halves(alone(ALICE), alone(replace(ALICE, eyes="red")))
    assert read(picture)[0].eyes.value == "blue and red"


def test_hair_of_two_colours_is_named_both() -> None:
    picture = halves(alone(ALICE), alone(replace(ALICE, hair="blonde")))
    assert set(read(picture)[0].hair.value.split(" and ")) == {"brown", "blonde"}


def test_a_ribbon_and_a_scrunchie_are_read_together() -> None:
    tied = replace(ALICE, style="side ponytail", accessory=("scrunchie", "green"))
    picture = halves(alone(tied), alone(replace(tied, accessory=("ribbon", "red"))))
    figure = read(picture)[0]
    assert (figure.scrunchie.value, figure.ribbon.value) == ("green", "red")


def test_a_colour_no_accessory_has_keeps_its_own_name() -> None:
    levels = np.asarray(alone(replace(CAST["koharu"], eyes="green"))).copy()
    levels[(levels[..., 2] > 180) & (levels[..., 0] < 90)] = HAIR["orange"]
    ribbon = read(Image.fromarray(levels))[0].ribbon
    assert ribbon.sure
    assert ribbon.value == "orange"


def test_what_a_neighbour_hides_is_never_surely_wrong() -> None:
    for style in ("twintails", "side ponytail"):
        for neighbour in ("side ponytail", "twintails"):
            behind = replace(ALICE, hair="pink", style=style)
            front = replace(ALICE, hair="black", style=neighbour)
            picture = render(Scene((behind, front), (Place(35, 25), Place(59, 25)), "blue")).image
            read_style = read(picture)[0].style
            assert read_style.value == style or not read_style.sure


def test_half_a_face_beyond_the_edge_is_still_somebody() -> None:
    figures = read(alone(CAST["koharu"], x=91.0))
    assert [figure.hair.value for figure in figures] == ["black"]


def test_reading_does_not_depend_on_the_order_of_reading() -> None:
    pictures = [alone(CAST[name]) for name in CAST]
    assert [read(p) for p in pictures] == [read(p) for p in reversed(pictures)][::-1]


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="96x64"):
        read(Image.new("RGB", (64, 64)))


def test_palettes_name_their_own_colours_surely() -> None:
    for palette, colours in ((HAIR_PALETTE, HAIR), (EYES_PALETTE, EYES)):
        for name, rgb in colours.items():
            named = palette.name(np.array(rgb))
            assert named.name == name
            assert named.certainty > 0.99


def test_oklab_agrees_with_its_published_values() -> None:
    red = oklab(np.array([255, 0, 0]))
    assert red == pytest.approx([0.62796, 0.22486, 0.12585], abs=1e-4)
    assert oklab(np.array([255, 255, 255])) == pytest.approx([1, 0, 0], abs=1e-4)


def test_halfway_between_two_colours_is_uncertain() -> None:
    between = (np.array(HAIR["brown"]) + np.array(HAIR["red"])) / 2
    assert HAIR_PALETTE.name(between).certainty < 0.3
    assert ACCESSORY_PALETTE.name(np.array(HAIR["pink"])).name == "pink"
