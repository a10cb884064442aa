"""Training sizes: about one area, whole steps, the nearest shape, and no enlarging where that is asked for."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from trainer.buckets import bucket_sizes, choose, fit
from trainer.config import BucketConfig, TrainConfig

DEFAULT = BucketConfig()
SIZES = bucket_sizes((1024, 1024), DEFAULT)


def test_buckets_share_area_steps_and_limits() -> None:
    assert (1024, 1024) in SIZES
    assert (832, 1216) in SIZES
    assert (1216, 832) in SIZES
    for width, height in SIZES:
        assert width % 64 == height % 64 == 0
        assert 0.85 * 1024**2 <= width * height <= 1024**2
        assert min(width, height) >= 512
        assert max(width, height) <= 2 * min(width, height)


def test_steps_of_sixteen_give_finer_shapes() -> None:
    fine = bucket_sizes((1024, 1024), BucketConfig(step=16, max_aspect=3, min_side=256))
    assert len(fine) > 3 * len(SIZES)
    assert min(w * h for w, h in fine) > 0.95 * 1024**2


def test_no_bucket_when_the_area_is_too_small() -> None:
    assert bucket_sizes((256, 256), DEFAULT) == ()


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((1024, 1024), (1024, 1024)),
        ((3000, 3100), (1024, 1024)),
        ((832, 1216), (832, 1216)),
        ((1000, 1500), (832, 1216)),
        ((900, 5000), (704, 1408)),
    ],
)
def test_the_nearest_shape_is_chosen(picture: tuple[int, int], size: tuple[int, int]) -> None:
    chosen = choose(picture, SIZES, DEFAULT)
    assert chosen.size == size
    assert picture[0] * chosen.scale >= size[0] - 1e-6
    assert picture[1] * chosen.scale >= size[1] - 1e-6


def test_what_is_cut_off_is_told() -> None:
    assert fit((200, 100), (64, 64)).cropped == pytest.approx(0.5)
    assert fit((200, 100), (64, 64)).scale == pytest.approx(0.64)
    assert fit((64, 64), (64, 64)).cropped == 0


def test_small_pictures_are_enlarged_unless_that_is_refused() -> None:
    assert choose((640, 480), SIZES, DEFAULT).scale > 1
    kept = BucketConfig(upscale=False)
    assert choose((640, 480), SIZES, kept).size == (640, 448)
    assert choose((640, 480), SIZES, kept).scale <= 1
    assert choose((1024, 1024), SIZES, kept) == choose((1024, 1024), SIZES, DEFAULT)
    # A very slim one is cropped like any other; a tiny one is trained at whole patches.
    width, height = choose((300, 2000), SIZES, kept).size
    assert height <= 2 * width
    assert choose((50, 40), SIZES, kept).size == (48, 32)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="step must be a multiple of 16"):
        BucketConfig(step=24)
    with pytest.raises(ValidationError, match="no picture fits"):
        BucketConfig(min_side=1024, max_side=512)
    with pytest.raises(ValidationError, match="multiples of 16"):
        TrainConfig(resolution=(1000, 1024))
