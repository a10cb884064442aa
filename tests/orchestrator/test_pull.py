"""`pull`: what is taken home is what was recorded, says how to use it, and comes from wherever the study is kept."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch

from anima.adapter_files import read_adapter
from anima.adapters.container import write_content
from infra.mirror import checkpoint_group, publish, sample_group
from infra.open import open_volume
from infra.segments import Sealed, seal
from infra.volume import Volume
from orchestrator.__main__ import main
from orchestrator.core.errors import VolumeError
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.planning.config import to_data
from orchestrator.pulling.follow import Following, follow
from orchestrator.pulling.pull import Pulled
from orchestrator.pulling.sources import FolderSource, VolumeSource
from orchestrator.record.ledger import Ledger, read_events
from orchestrator.record.state import StudyState, replay
from tests.orchestrator.test_controller import run
from tests.orchestrator.test_run import study_config

TRIAL = "main-00000001"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scripted study that adopted epoch 5, opened with a configuration a person wrote."""
    root = tmp_path_factory.mktemp("finished") / "trio"
    run(root)
    config, file = to_data(study_config(root.parent)), root / "ledger.jsonl"
    scripted = file.read_text().splitlines(keepends=True)[1:]
    file.unlink()
    with closing(Ledger(file)) as ledger:
        ledger.record("study_opened", study="trio", base_sha256="b", dataset_sha256="d", config=config)
    file.write_text(file.read_text() + "".join(scripted))
    return root


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Layout:
    shutil.copytree(finished, tmp_path / "trio")
    return Layout(tmp_path / "trio")


def state_of(layout: Layout) -> StudyState:
    return replay(read_events(layout.ledger))


def keep(layout: Layout, volume: Volume) -> Volume:
    """Put a study on a volume, as a run does."""
    state = state_of(layout)
    publish(layout, volume, (checkpoint_group(layout, c) for c in state.checkpoints.values()))
    publish(layout, volume, (sample_group(layout, s) for s in state.samples.values()))
    seal(volume, layout.ledger.read_bytes(), Sealed())
    return volume


def test_the_best_epoch_comes_with_what_is_needed_to_use_it(
    study: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "home"
    assert main(["pull", str(study.root), "--to", str(to)]) == 0
    said = capsys.readouterr().out
    assert "pulled   epoch 5 of main-00000001" in said
    choice = state_of(study).choice
    assert choice is not None
    adapter = to / "trio-main-e0005.safetensors"
    assert file_sha256(adapter) == choice.adapter_sha256
    card = (to / "README.md").read_text()
    low, high = choice.interval
    assert f"4 of 5 fresh seeds (95 % interval {100 * low:.0f} to {100 * high:.0f} %)" in card
    assert "```text\na and b\n```" in card
    assert "| steps, CFG, shift | 8, 1, 3 |" in card
    assert choice.adapter_sha256 in card
    settings = json.loads((to / "settings.json").read_text())
    assert (settings["epoch"], settings["adopted"], settings["weight"]) == (5, True, 1.0)
    assert settings["trigger_words"] == ["kanachan", "keichan", "koharu"]
    pictures = sorted((to / "samples").glob("*.png"))
    assert len(pictures) == len(settings["pictures"]) == 6
    assert {p["sha256"] for p in settings["pictures"]} == {file_sha256(p) for p in pictures}
    assert all(p.with_suffix(".json").is_file() for p in pictures)
    outcomes = [p["outcome"] for p in settings["pictures"]]
    assert outcomes == ["pass"] * 6, "those that worked come first"
    assert card.count("![seed ") == 6


def test_pulling_again_fetches_nothing_and_mends_what_was_damaged(study: Layout, tmp_path: Path) -> None:
    to = tmp_path / "home"
    command = ["pull", str(study.root), "--to", str(to)]
    assert main(command) == 0
    adapter = to / "trio-main-e0005.safetensors"
    before = {p: p.stat().st_mtime_ns for p in [adapter, *(to / "samples").iterdir()]}
    assert main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    adapter.write_bytes(b"damaged")
    assert main(command) == 0
    assert adapter.read_bytes() == b"adapter of main-00000001 at epoch 5"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--epoch", "2"], 0, "pulled   epoch 2 of main-00000001 | asked for by number; 6 epochs are saved"),
        (["--epoch", "last"], 0, "pulled   epoch 6 of"),
        (["--epoch", "5", "--trial", "main"], 0, "pulled   epoch 5 of"),
        (["--epoch", "7"], 3, "error: trio: epoch 7 is not saved — there are: 1, 2, 3, 4, 5, 6"),
        (["--epoch", "first"], 2, "no epoch is called 'first'"),
        (["--trial", "other"], 2, "no trial 'other' has a saved epoch — there are: main-00000001"),
    ],
)
def test_an_epoch_is_named(
    study: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert main(["pull", str(study.root), "--to", str(tmp_path / "home"), *arguments]) == code
    told = capsys.readouterr()
    assert said in told.out + told.err


def test_while_nothing_is_chosen_the_best_so_far_is_taken_and_said_to_be(
    study: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = study.ledger.read_text().splitlines(keepends=True)
    before_choice = [line for line in lines if '"choice_made"' not in line and '"confirm"' not in line]
    study.ledger.write_text("".join(before_choice))
    assert main(["pull", str(study.root), "--to", str(tmp_path / "home"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["why"] == "the best so far: the study has not chosen yet"
    assert not told["adopted"]
    assert "on the hopeful side" in (tmp_path / "home" / "README.md").read_text()
    study.ledger.write_text("".join(line for line in before_choice if "verdict_given" not in line))
    assert main(["pull", str(study.root), "--to", str(tmp_path / "home")]) == 3
    assert "nothing is judged yet" in capsys.readouterr().err


def test_a_damaged_file_is_not_taken_home(study: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study.adapter(TRIAL, 5).write_bytes(b"damaged")
    assert main(["pull", str(study.root), "--to", str(tmp_path / "home")]) == 4
    assert "is not the file that was recorded" in capsys.readouterr().err
    assert [p for p in (tmp_path / "home").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_other_programs_get_their_names(
    study: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """An adapter of the real format, recorded in place of the scripted one."""
    layer = "diffusion_model.blocks.0.self_attn.q_proj"
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"{layer}.lora_A.weight": torch.randn(4, 64, generator=generator),
        f"{layer}.lora_B.weight": torch.randn(64, 4, generator=generator),
    }
    old = file_sha256(study.adapter(TRIAL, 5))
    new = write_content(study.adapter(TRIAL, 5), tensors, {}).sha256
    study.ledger.write_text(study.ledger.read_text().replace(old, new))
    to = tmp_path / "home"
    assert main(["pull", str(study.root), "--to", str(to), "--format", form, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    adapter = to / f"trio-main-e0005-{form}.safetensors"
    assert told["adapter"] == {
        "file": adapter.name,
        "format": form,
        "sha256": file_sha256(adapter),
        "recorded_sha256": new,
        "size_bytes": adapter.stat().st_size,
    }
    read = read_adapter(adapter)
    assert read.layout == form
    for side in ("lora_A", "lora_B"):
        assert f"{layer}.{side}.weight" in read.state
    assert [p.name for p in to.glob(".*")] == [], "the file it was converted from is gone"


def test_from_a_volume_without_the_machine_that_ran_it(
    study: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(study, open_volume(tmp_path / "kept"))
    shutil.rmtree(study.root)
    assert main(["pull", str(tmp_path / "kept"), "--to", str(tmp_path / "home")]) == 0
    assert (tmp_path / "home" / "trio-main-e0005.safetensors").read_bytes() == b"adapter of main-00000001 at epoch 5"
    assert len(list((tmp_path / "home" / "samples").glob("*.png"))) == 6
    capsys.readouterr()
    assert main(["pull", str(tmp_path / "nothing")]) == 3
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("kind", ["folder", "volume"])
def test_following_takes_each_epoch_as_it_appears(study: Layout, tmp_path: Path, kind: str) -> None:
    """The ledger grows while it is followed, in pieces that end anywhere between two facts; once it is out of reach."""
    lines = study.ledger.read_bytes().splitlines(keepends=True)
    pieces = [b"".join(lines[start : start + 7]) for start in range(0, len(lines), 7)]
    volume = open_volume(tmp_path / "kept")
    keep(study, volume)
    volume.delete("ledger/000001.jsonl")
    study.ledger.write_bytes(b"")
    sealed = [Sealed()]
    outages = [2]

    class Reachable(FolderSource):
        def news(self):
            if not outages[0]:
                outages[0] -= 1
                raise VolumeError("out of reach")
            outages[0] -= 1
            return super().news()

    def grow(_seconds: float) -> None:
        piece = pieces.pop(0)
        if kind == "folder":
            study.ledger.write_bytes(study.ledger.read_bytes() + piece)
        else:
            sealed[0] = seal(volume, piece, sealed[0])

    grow(0)
    source = Reachable(study) if kind == "folder" else VolumeSource(volume)
    brought, said = list[tuple[int, int]](), list[str]()

    def note(pulled: Pulled) -> None:
        brought.append((pulled.pick.checkpoint.epoch, len(pulled.pictures)))

    follow(Following(source, tmp_path / "home"), every_s=0, brought=note, say=said.append, sleep=grow)
    assert pieces == []
    assert [epoch for epoch, _ in dict(brought).items()] == [1, 2, 3, 4, 5, 6]
    assert dict(brought) == dict.fromkeys(range(1, 7), 2)
    for epoch in range(1, 7):
        folder = tmp_path / "home" / f"epoch-{epoch:04d}"
        assert file_sha256(folder / f"trio-main-e{epoch:04d}.safetensors") == file_sha256(study.adapter(TRIAL, epoch))
        assert len(list((folder / "samples").glob("*.png"))) >= 2
    if kind == "folder":
        assert said == ["waiting | out of reach", f"reachable again | {study.root}"]


def test_following_a_finished_study_ends_with_the_best(
    study: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "home"
    assert main(["pull", str(study.root), "--follow", "--to", str(to), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["epoch"] for one in told] == [1, 2, 3, 4, 5, 6, 5]
    assert (to / "best" / "README.md").exists()
    assert (to / "best" / "trio-main-e0005.safetensors").exists()
