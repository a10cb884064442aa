"""`python -m evaluators grid`, from a folder of adapters to a table that `analyse` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from anima.adapter_files import AdapterMetadata, write_adapter
from anima.base import POCKET
from anima.load import load_transformer
from anima.lora import adapter_state, inject
from evaluators.__main__ import main
from orchestrator.core.errors import ConfigError, MissingError
from tests.evaluators.comfyui.server import FakeComfyUI, serving

CONF = """
study: small
base: pocket
volume: {volume}
cast:
  kanachan: {{hair: brown, style: side ponytail, eyes: brown, accessory: blue scrunchie, ahoge: true}}
  keichan: {{hair: blonde, style: long hair, eyes: blue, accessory: blue ribbon}}
grid:
  prompts:
    - {{name: pair, format: positional, cast: [kanachan, keichan], add: [white background]}}
    - {{name: base, role: control, adapter: false, text: "1girl", seeds: [1]}}
  seeds: [1, 2]
  drawing: {{steps: 2, width: 96, height: 64}}
  batch: 2
train: {{rank: 4}}
"""


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs as sd-scripts would leave them."""
    folder = tmp_path_factory.mktemp("loras")
    for epoch, name in ((1, "kei-000001"), (2, "kei")):
        transformer = load_transformer(POCKET / "transformer")
        adapter = inject(transformer, rank=2, alpha=2.0, seed=epoch)
        for parameter in adapter.parameters:
            parameter.data.normal_(0, 0.02, generator=torch.Generator().manual_seed(epoch))
        metadata = AdapterMetadata(2, 2.0, "b" * 64, "none", "main", epoch, 1, 1.0, ("kanachan",), "test")
        write_adapter(folder / f"{name}.safetensors", adapter_state(transformer), metadata)
    return folder


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conf")
    path = folder / "small.yaml"
    path.write_text(CONF.format(volume=folder / "runs"))
    return path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    return out + err


def test_a_folder_of_another_trainer_is_drawn_judged_resumed_verified_and_analysed(
    conf: Path, loras: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["grid", str(conf), "--adapters", str(loras), "--threads", "1"]
    assert main([*command, "grid.seeds=[1]"]) == 0
    first = said(capsys)
    assert "grid     3 pictures of 2 epochs, 0 of them there already" in first
    assert main(command) == 0
    assert "grid     5 pictures of 2 epochs, 3 of them there already" in said(capsys)
    assert main(command) == 0
    assert "5 of them there already" in said(capsys)
    grid = conf.parent / "runs" / "small" / "grid"
    table = (grid / "verdicts.csv").read_text().splitlines()
    assert [line.split(",")[:7] for line in table[1:]] == [
        *[["kei", epoch, "1", "pair", "96x64", "rate", seed] for epoch in "21" for seed in "12"],
        ["base", "0", "0", "base", "96x64", "control", "1"],
    ]
    assert (grid / "index.html").read_text().count("<img") == 5
    assert main([*command, "--verify", "4"]) == 0
    verified = said(capsys)
    assert "pixels   4 of 4 the same to the last bit; largest difference 0 of 255" in verified
    assert "verdicts 4 of 4 the same" in verified
    assert main(["analyse", str(grid / "verdicts.csv"), "--json"]) == 0
    (trial,) = json.loads(said(capsys))["trials"]
    assert (trial["trial"], trial["images"]) == ("kei", 4)


def test_the_same_grid_is_drawn_by_a_comfyui(conf: Path, loras: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comfyui = FakeComfyUI(["kei-000001.safetensors", "kei.safetensors"])
    with serving(comfyui) as url:
        command = [
            "grid",
            str(conf),
            "--adapters",
            str(loras),
            "backend=comfyui",
            f"comfyui.url={url}",
            "study=by_comfyui",
        ]
        assert main(command) == 0
        assert "grid     5 pictures of 2 epochs, 0 of them there already" in said(capsys)
        assert main([*command, "--verify", "2"]) == 0
        assert "pixels   2 of 2 the same to the last bit" in said(capsys)
    assert len(comfyui.drawn) == 7
    assert main(command) == 0, "nothing lacks, so nobody is asked"
    pictures = list((conf.parent / "runs" / "by_comfyui" / "grid").rglob("*.png"))
    assert len(pictures) == 5
    sidecar = json.loads(pictures[0].with_suffix(".json").read_text())
    assert (sidecar["backend"], sidecar["base"]) == ("comfyui", "the shipped workflow")


def test_a_file_that_is_no_adapter_is_told_and_the_others_are_drawn(
    conf: Path, loras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in loras.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "kei-000003.safetensors").write_bytes((loras / "kei.safetensors").read_bytes()[:-40])
    command = ["grid", str(conf), "study=faulty", "--adapters", str(tmp_path), "--threads", "1", "grid.seeds=[1]"]
    assert main(command) == 6
    text = said(capsys)
    assert "not drawn: kei epoch 3:" in text
    assert "grid     4 pictures of 3 epochs, 0 of them there already" in text
    assert main(command) == 6, "it is tried again, and the others are there"
    assert "4 pictures of 3 epochs, 3 of them there already" in said(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["grid.sedes=[1]"], "unknown key 'grid.sedes'"),
        (["base=''"], "no base to draw with"),
        (["volume=s3://bucket/x"], "a grid is drawn into a folder"),
        (["grid.epochs=[77]"], "grid.epochs names none of the epochs there are"),
        (["backend=comfyui", "comfyui.url=nowhere"], "an address like http://127.0.0.1:8188"),
        (["--verify", "0"], "--verify takes a number from 1 on"),
        (["grid.prompts=[{name: x, text: '{lefft}', cast: [kanachan]}]"], "unknown variable {lefft} in a prompt"),
        (["gird={}"], "unknown key 'gird' — did you mean 'grid'?"),
    ],
)
def test_bad_input_is_one_line(
    conf: Path, loras: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["grid", str(conf), "--adapters", str(loras), *arguments]) == ConfigError.exit_code
    assert words in said(capsys).splitlines()[-1]


def test_what_is_missing_is_said(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grid", str(conf), "study=untrained"]) == MissingError.exit_code
    assert "the study has no adapters yet" in said(capsys)
    assert main(["grid", str(conf), "--adapters", str(tmp_path / "none")]) == MissingError.exit_code
    assert "there is no such folder" in said(capsys)
