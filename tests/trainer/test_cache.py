"""Caches on the real miniature: made once, verified when read, and never another picture's, size's or side's entry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from anima.base import POCKET, base_sha256
from anima.load import Base, load_base
from anima.text import pad_rows
from orchestrator.core.errors import DatasetError
from tests.trainer.small_datasets import read
from trainer.cache import LatentCache, View, identities
from trainer.config import DrawnDataset
from trainer.dataset import Dataset
from trainer.drawn import ensure_drawn_dataset
from trainer.tensor_files import TensorFiles
from trainer.text import FrozenText, TrainedText

SIZE = (96, 64)
CAPTIONS = ["", "kanachan, 1girl", "keichan and koharu, side by side, white background"]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(POCKET)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    ensure_drawn_dataset(tmp_path / "dataset", DrawnDataset(solo=1, pair=0, trio=0))
    return read(tmp_path / "dataset")


def latents(base: Base, dataset: Dataset, folder: Path, vae: str = "vae") -> LatentCache:
    return LatentCache(folder, base, vae, dataset.root)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_entries_are_written_once_and_read_back_bit_for_bit(base: Base, dataset: Dataset, tmp_path: Path) -> None:
    views = [View(item, SIZE, flip=False) for item in dataset.items]
    first = latents(base, dataset, tmp_path)
    first.prepare(views)
    stamps = {path: path.stat().st_mtime_ns for path in entries(tmp_path)}
    assert len(stamps) == 3
    again = latents(base, dataset, tmp_path)
    again.prepare(views)
    assert {path: path.stat().st_mtime_ns for path in entries(tmp_path)} == stamps
    assert torch.equal(again.get(views), first.get(views))
    assert first.get(views).shape == (3, *base.codec.latent_shape(*SIZE))


def test_size_side_and_vae_have_entries_of_their_own(base: Base, dataset: Dataset, tmp_path: Path) -> None:
    item = dataset.items[0]
    plain, mirrored, small = View(item, SIZE, flip=False), View(item, SIZE, flip=True), View(item, (64, 64), flip=False)
    cache = latents(base, dataset, tmp_path)
    cache.prepare([plain, mirrored, small])
    latents(base, dataset, tmp_path, vae="another").prepare([plain])
    assert len(entries(tmp_path)) == 4
    picture = Image.open(dataset.root / item.file).convert("RGB")
    mirror = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirror.save(dataset.root / "mirror.png")
    (dataset.root / "mirror.txt").write_text("kanachan")
    mirror_item = next(i for i in read(dataset.root).items if i.file == "mirror.png")
    assert torch.equal(cache.get([View(mirror_item, SIZE, flip=False)]), cache.get([mirrored]))
    assert not torch.equal(cache.get([plain]), cache.get([mirrored]))


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda _: b""])
def test_a_damaged_entry_is_made_again(base: Base, dataset: Dataset, tmp_path: Path, damage) -> None:
    view = View(dataset.items[0], SIZE, flip=False)
    latents(base, dataset, tmp_path).prepare([view])
    (entry,) = entries(tmp_path)
    sound = entry.read_bytes()
    entry.write_bytes(damage(sound))
    latents(base, dataset, tmp_path).prepare([view])
    assert entry.read_bytes() == sound


def test_an_entry_under_anothers_name_is_not_believed(tmp_path: Path) -> None:
    files = TensorFiles(tmp_path, memory_bytes=0)
    files.put("aa1", torch.ones(3))
    (tmp_path / "bb").mkdir()
    (tmp_path / "aa" / "aa1.safetensors").rename(tmp_path / "bb" / "bb1.safetensors")
    assert files.get("bb1") is None


def test_memory_is_bounded_and_forgotten_entries_are_read_again(tmp_path: Path) -> None:
    files = TensorFiles(tmp_path, memory_bytes=3 * 4 * 100)
    for number in range(10):
        files.put(f"{number:02}", torch.full((100,), float(number)))
    assert files.held_bytes <= 3 * 4 * 100
    assert [float(files.get(f"{number:02}")[0]) for number in range(10)] == list(range(10))  # type: ignore[index]


def test_a_picture_that_changed_since_it_was_looked_at_is_refused(base: Base, dataset: Dataset, tmp_path: Path) -> None:
    item = replace(dataset.items[0], picture=replace(dataset.items[0].picture, sha256="0" * 64))
    with pytest.raises(DatasetError, match="changed while it was being read"):
        latents(base, dataset, tmp_path).prepare([View(item, SIZE, flip=False)])
    assert entries(tmp_path) == []


def test_conditionings_are_those_the_drawing_side_uses(base: Base, tmp_path: Path) -> None:
    FrozenText(tmp_path, base, "text").prepare(CAPTIONS)
    assert len(entries(tmp_path)) == 3
    assert torch.equal(
        FrozenText(tmp_path, base, "text").get(CAPTIONS), pad_rows([base.text.condition(c) for c in CAPTIONS])
    )


def test_a_caption_that_was_not_prepared_is_encoded_and_not_kept(base: Base, tmp_path: Path) -> None:
    assert torch.equal(FrozenText(tmp_path, base, "text").get(["koharu"])[0], base.text.condition("koharu"))
    assert entries(tmp_path) == []


def test_states_through_the_conditioner_are_the_same_conditionings(base: Base, tmp_path: Path) -> None:
    """What a trained conditioner starts from is what drawing feeds the transformer, the empty prompt included."""
    trained, frozen = TrainedText(tmp_path, base, "text"), FrozenText(tmp_path, base, "text")
    trained.prepare(CAPTIONS)
    frozen.prepare(CAPTIONS)
    assert len(entries(tmp_path)) == 6, "states and conditionings never share an entry"
    assert torch.equal(trained.get(CAPTIONS), frozen.get(CAPTIONS))


def test_identities_follow_the_parts_concerned(tmp_path: Path) -> None:
    import shutil

    mine = identities(POCKET, base_sha256(POCKET))
    shutil.copytree(POCKET, tmp_path / "base")
    with (tmp_path / "base" / "transformer" / "config.json").open("a") as stream:
        stream.write("\n")
    assert identities(tmp_path / "base", "another") == mine
    with (tmp_path / "base" / "vae" / "config.json").open("a") as stream:
        stream.write("\n")
    changed = identities(tmp_path / "base", "another")
    assert changed.text == mine.text
    assert changed.vae != mine.vae
    assert identities(tmp_path / "not a folder of parts", "whole").vae == "whole"
