"""Caches travel through the volume: what one machine computed of pictures and captions, another one fetches."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import pytest
import torch

import orchestrator.keeping.packs
from infra.config import S3Config
from infra.folder import FolderStore
from infra.mirror import Outcome
from infra.volume import Volume
from orchestrator.core.errors import VolumeError
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.keeping.packs import Packs
from orchestrator.run import INTERRUPTED
from tests.infra.conftest import impatient, store_at
from tests.infra.servers import Credentials
from tests.infra.test_elsewhere import config_on, run
from trainer.cache import Encoder, LatentCache, TextCache, View
from trainer.entries import entry_names, is_sound
from trainer.tensor_files import TensorFiles


def fill(layout: Layout, count: int, *, start: int = 0) -> None:
    """Entries as training writes them, in both folders."""
    for number in range(start, start + count):
        files = TensorFiles(layout.cache / ("latents" if number % 2 else "text"), memory_bytes=0)
        files.put(secrets.token_hex(16), torch.full((3, 40), float(number), dtype=torch.bfloat16))


def content(layout: Layout) -> dict[str, str]:
    return {name: file_sha256(layout.cache / name) for name in entry_names(layout.cache)}


def send_all(packs: Packs) -> int:
    """Send until nothing waits; returns how many packs."""
    sent: list[str] = []

    def note(outcome: Outcome) -> None:
        sent.extend(key for key in outcome.sent if key.endswith(".tar"))

    while packs.send(note):
        pass
    return len(sent)


def machines(tmp_path: Path) -> tuple[Layout, Layout]:
    return Layout(tmp_path / "here"), Layout(tmp_path / "there")


def test_entries_of_one_machine_reach_another(volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = machines(tmp_path)
    fill(here, 9)
    monkeypatch.setattr(orchestrator.keeping.packs, "PACK_BYTES", 1500)
    assert send_all(Packs(here, volume)) > 1, "in several packs"
    assert Packs(there, volume).fetch() == 9
    assert content(there) == content(here)
    assert not list(there.cache.glob("*.tar"))
    assert send_all(Packs(there, volume)) == 0, "what the volume has is not sent again"
    assert Packs(there, volume).fetch() == 0
    fill(there, 2, start=9)
    assert send_all(Packs(there, volume)) == 1
    assert Packs(here, volume).fetch() == 2
    assert content(there) == content(here)


def test_a_damaged_entry_is_neither_sent_nor_taken_for_sent(tmp_path: Path) -> None:
    here, there = machines(tmp_path)
    volume = Volume(FolderStore(tmp_path / "volume"))
    fill(here, 4)
    damaged, *_ = entry_names(here.cache)
    path = here.cache / damaged
    whole = path.read_bytes()
    for broken in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-9], b"", whole + b"\0"):
        assert not is_sound(damaged, broken)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    packs = Packs(here, volume)
    send_all(packs)
    assert Packs(there, volume).fetch() == 3
    path.write_bytes(whole)
    send_all(Packs(here, volume))
    assert Packs(there, volume).fetch() == 1
    assert content(there) == content(here)


def test_a_pack_that_is_damaged_on_the_volume_is_withdrawn_and_made_anew(tmp_path: Path) -> None:
    here, there = machines(tmp_path)
    volume = Volume(FolderStore(tmp_path / "volume"))
    fill(here, 30)
    send_all(Packs(here, volume))
    (stored,) = (tmp_path / "volume" / "files").rglob("*.tar")
    stored.write_bytes(stored.read_bytes()[:-1] + b"\1")
    told: list[str] = []
    packs = Packs(there, volume, told.append)
    assert packs.fetch() == 0
    assert any("of no use" in line for line in told)
    fill(there, 1)
    send_all(packs)
    assert Packs(here, volume).fetch() == 1
    assert send_all(Packs(here, volume)) == 1, "its entries are packed again"
    assert Packs(there, volume).fetch() == 30


def test_an_outage_is_told_and_is_the_end_of_it(credentials: Credentials, tmp_path: Path) -> None:  # noqa: ARG001 - without them nothing is asked
    here, _ = machines(tmp_path)
    fill(here, 2)
    away = impatient(Volume(store_at("http://127.0.0.1:9", "strict")))
    with pytest.raises(VolumeError):
        away.find("ledger/000001.jsonl")
    told: list[str] = []
    packs = Packs(here, away, told.append)
    assert packs.fetch() == 0
    assert packs.send() is False
    assert [line.split(" | ")[0] for line in told] == [
        "caches not fetched, what is missing is made again",
        "caches stay on this machine for now",
    ]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Everything that is computed for the caches while the test runs."""
    made: list[object] = []
    pictures, captions = LatentCache._encode, TextCache.__init__

    def encode(self: LatentCache, views: list[View]) -> None:
        made.extend(views)
        pictures(self, views)

    def begin(self: TextCache, folder: Path, kind: str, identity: str, encoder: Encoder) -> None:
        def noted(caption: str) -> torch.Tensor:
            made.append(caption)
            return encoder.encode(caption)

        captions(self, folder, kind, identity, Encoder(noted, encoder.modules, encoder.device))

    monkeypatch.setattr(LatentCache, "_encode", encode)
    monkeypatch.setattr(TextCache, "__init__", begin)
    return made


@pytest.mark.parametrize("kind", ["folder", "strict"])
def test_a_second_machine_computes_nothing_that_the_first_one_did(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, computed: list[object]
) -> None:
    """A real study is cut off while it trains, its machine is lost, and another one goes on to the end."""
    place: S3Config | None = None
    if kind == "strict":
        place = store_at(request.getfixturevalue("strict").endpoint, "strict").config

    def on(machine: str):
        config = config_on(tmp_path / machine, place)
        if place is not None:
            return config
        volume = {"folder": str(tmp_path / machine), "mount": str(tmp_path / "mounted"), "seal_every_s": 0.05}
        return config.model_copy(update={"volume": type(config.volume).model_validate(volume)})

    assert run(on("here"), after=5) == INTERRUPTED
    assert computed
    before = content(on("here").layout())
    shutil.rmtree(tmp_path / "here")
    computed.clear()
    assert run(on("there")) == 0
    assert list(on("there").layout().root.glob("trials/*/epoch-0002")), "it trained"
    assert computed == []
    assert content(on("there").layout()) == before
