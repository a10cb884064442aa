"""What an exposure is trained with is drawn from (seed, epoch, position), and never loses whom it is about."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.errors import ConfigError
from orchestrator.planning.config import load_config
from tests.trainer.small_datasets import TRIGGERS, item
from trainer.caption_files import Caption, Sections
from trainer.captions import check_mirroring, drawn_caption, is_mirrored, may_be_mirrored, one_sided_marks
from trainer.config import TrainConfig
from trainer.dataset import Item

TAGS = item("a", "kanachan, 1girl, smile, waving, red shirt, street, night\nShe waves, smiling.")
SHUFFLED = TrainConfig(shuffle_caption=True)


def draw(picture: Item, train: TrainConfig, position: int, epoch: int = 1) -> str:
    return drawn_caption(picture, train, TRIGGERS, epoch=epoch, position=position)


def test_captions_are_trained_as_written_unless_asked_otherwise() -> None:
    assert {draw(TAGS, TrainConfig(), p) for p in range(20)} == {TAGS.caption}


def test_a_draw_depends_on_seed_epoch_and_position_alone() -> None:
    drawn = [draw(TAGS, SHUFFLED, p) for p in range(10)]
    assert [draw(TAGS, SHUFFLED, p) for p in reversed(range(10))] == drawn[::-1]
    assert len(set(drawn)) > 5
    assert [draw(TAGS, SHUFFLED, p, epoch=2) for p in range(10)] != drawn
    assert [draw(TAGS, SHUFFLED.model_copy(update={"seed": 1}), p) for p in range(10)] != drawn


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_shuffling_keeps_the_first_tags_and_the_sentences_in_place(keep: int) -> None:
    train = SHUFFLED.model_copy(update={"keep_tokens": keep})
    written = TAGS.caption.partition("\n")[0].split(", ")
    for position in range(20):
        tags, _, sentences = draw(TAGS, train, position).partition("\n")
        assert sentences == "She waves, smiling."
        assert tags.split(", ")[:keep] == written[:keep]
        assert sorted(tags.split(", ")) == sorted(written)


def test_dropout_takes_its_share_of_tags_but_never_a_trigger() -> None:
    train = TrainConfig(tag_dropout=0.3, keep_tokens=0)
    drawn = [draw(TAGS, train, p).partition("\n")[0].split(", ") for p in range(2000)]
    assert all("kanachan" in tags for tags in drawn)
    counts = Counter(tag for tags in drawn for tag in tags)
    for tag in ("1girl", "smile", "night"):
        assert counts[tag] / 2000 == pytest.approx(0.7, abs=0.04)
    assert all(tags == sorted(tags, key=TAGS.caption.index) for tags in drawn), "the order stays"


def test_what_would_be_empty_stays_as_it_is() -> None:
    picture = item("r", "street, night", regularisation=True)
    drawn = {draw(picture, TrainConfig(tag_dropout=0.9, keep_tokens=0), p) for p in range(200)}
    assert drawn == {"street, night", "street", "night"}


def test_groups_of_a_json_caption_shuffle_within_themselves() -> None:
    sections = Sections(("safe", "kanachan"), (("smile", "hat", "scarf"), ("street", "night")), "She waves.")
    picture = replace(TAGS, captions=(Caption("unused", sections),))
    drawn = {draw(picture, SHUFFLED, p) for p in range(200)}
    assert len(drawn) == 3 * 2 * 2
    for text in drawn:
        tags = text.split(", ")
        assert tags[:2] == ["safe", "kanachan"]
        assert sorted(tags[2:5]) == ["hat", "scarf", "smile"]
        assert sorted(tags[5:7]) == ["night", "street"]
        assert tags[7:] == ["She waves."]


def test_several_captions_are_drawn_evenly() -> None:
    picture = replace(TAGS, captions=(Caption("kanachan waves"), Caption("kanachan, waving"), Caption("kanachan")))
    counts = Counter(draw(picture, TrainConfig(), p) for p in range(3000))
    assert set(counts) == {c.text for c in picture.captions}
    assert all(abs(count - 1000) < 120 for count in counts.values())


def test_half_of_the_exposures_are_mirrored_but_no_caption_with_a_side() -> None:
    train = TrainConfig(flip_augment=True)
    mirrored = [is_mirrored(TAGS, train, epoch=1, position=p) for p in range(2000)]
    assert sum(mirrored) == pytest.approx(1000, abs=100)
    assert not any(is_mirrored(TAGS, TrainConfig(), epoch=1, position=p) for p in range(100))
    for words in ("left side: kanachan, center: keichan", "kanachan, looking to the Right"):
        assert not may_be_mirrored(item("b", words))
    assert may_be_mirrored(item("b", "kanachan, bright light, leftover cake"))


def test_marks_on_one_side_are_seen_in_the_looks_or_declared() -> None:
    cast = {
        "kanachan": {"style": "side ponytail", "accessory": "blue scrunchie"},
        "keichan": {"style": "long hair"},
        "koharu": {"style": "short hair"},
        "reina": None,
    }
    assert one_sided_marks(cast, {}) == {"kanachan": "side ponytail"}
    assert one_sided_marks(cast, {"koharu": "ribbon"}) == {"koharu": "ribbon", "kanachan": "side ponytail"}


def test_mirroring_a_mark_on_one_side_is_refused_unless_forced() -> None:
    marks = {"kanachan": "side ponytail"}
    check_mirroring(TrainConfig(), marks)
    check_mirroring(TrainConfig(flip_augment=True), {})
    check_mirroring(TrainConfig(flip_augment=True, flip_forced=True), marks)
    with pytest.raises(ConfigError, match="would teach kanachan's side ponytail on both sides"):
        check_mirroring(TrainConfig(flip_augment=True), marks)


def test_a_study_is_refused_before_it_starts() -> None:
    with pytest.raises(ConfigError, match="kanachan's side ponytail"):
        load_config(Path("conf/quickstart.yaml"), ["train.flip_augment=true"])
    load_config(Path("conf/quickstart.yaml"), ["train.flip_augment=true", "train.flip_forced=true"])
