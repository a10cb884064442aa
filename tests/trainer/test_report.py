"""The report says of every picture what becomes of it, and why."""

from __future__ import annotations

from pathlib import Path

from tests.trainer.small_datasets import put, read
from trainer.buckets import training_fits
from trainer.config import BucketConfig, TrainConfig
from trainer.report import dataset_report


def test_it_tells_who_how_often_at_which_size_and_what_is_lost(tmp_path: Path) -> None:
    put(tmp_path / "3_kanachan", "square", "kanachan", size=(128, 128))
    put(tmp_path / "3_kanachan", "slim", "kanachan", size=(400, 100))
    put(tmp_path, "small", "keichan and koharu", size=(32, 48))
    put(tmp_path, "mute", None, size=(64, 64), colour="red")
    (tmp_path / "notes.md").write_text("")
    dataset = read(tmp_path, faulty="skip")
    train = TrainConfig(resolution=(96, 96), buckets=BucketConfig(step=16, min_side=48))
    report = dataset_report(dataset, training_fits(dataset, train))
    assert report.splitlines()[0] == f"3 pictures taken from {tmp_path}, 14 shown per epoch"
    for line in (
        "      2  kanachan",
        "      1  keichan + koharu",
        "      2  shown 6 times",
        "      1  96x96",
        "      1  128x64",
        "    50%  3_kanachan/slim.png (400x100)",
        "   2.50  small.png (32x48)",
        f"  {tmp_path}/mute.png: without a caption — write mute.txt or mute.caption or mute.json",
        "      1  .md files",
    ):
        assert line in report.splitlines(), report
