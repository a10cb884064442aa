"""`python -m anima draw` as a person meets it: pictures that say how they were drawn, or one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image

from anima import pictures
from anima.__main__ import main
from anima.adapter_files import AdapterMetadata, write_adapter
from anima.base import POCKET, base_sha256
from anima.load import load_transformer
from anima.lora import adapter_state, inject
from anima.order import AdapterUse, read_adapter_use, read_seeds, read_size
from orchestrator.core.errors import ConfigError
from tests.anima.single_files import write_single_files

PROMPT = "1girl, blue hair, twintails, white background"
SMALL = ("--size", "64x48", "--steps", "2", "--threads", "1")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that changes pictures, trained on `koharu`."""
    transformer = load_transformer(POCKET / "transformer")
    injected = inject(transformer, rank=2, alpha=2.0, seed=1)
    generator = torch.Generator().manual_seed(1)
    for parameter in injected.parameters:
        parameter.data.normal_(0, 0.1, generator=generator)
    metadata = AdapterMetadata(2, 2.0, "base", "none", "main", 1, 1, 1.0, ("koharu",), "test")
    path = tmp_path_factory.mktemp("adapters") / "koharu-12.safetensors"
    return write_adapter(path, adapter_state(transformer), metadata).path


def drawn(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str) -> list[Path]:
    """The pictures the command says it made."""
    assert main(["draw", "--out", str(out), *SMALL, *arguments]) == 0
    return [Path(line) for line in capsys.readouterr().out.splitlines() if line.endswith(".png")]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line the command ends in."""
    assert main(["draw", *arguments]) > 0
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_the_base_may_be_single_files_or_a_studys(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = write_single_files(tmp_path / "models")
    sources = tmp_path / "sources.yaml"
    sources.write_text(
        f"transformer: {files.transformer}\ntext_encoder: {files.text_encoder}\nvae: {files.vae}\n"
        f"tokenizers: {POCKET}\nconfigs: {POCKET}\n"
    )
    study = tmp_path / "study.yaml"
    study.write_text("study: any\nbase: pocket\n")
    shipped, of_study, put_together = (
        drawn(capsys, tmp_path / str(number), PROMPT, "--cfg", "1", "--negative", "", *base)[0]
        for number, base in enumerate(((), ("--base", str(study)), ("--base", str(sources))))
    )
    assert of_study.name == shipped.name
    with Image.open(shipped) as wanted, Image.open(put_together) as got:
        assert wanted.tobytes() == got.tobytes()
    assert json.loads(put_together.with_suffix(".json").read_text())["base"] == str(sources)
    (again,) = drawn(capsys, tmp_path / "again", "--like", str(put_together))
    assert again.read_bytes() == put_together.read_bytes()


def text_of(path: Path) -> str:
    with Image.open(path) as image:
        return str(image.text["parameters"])  # type: ignore[attr-defined]


def test_every_prompt_with_every_seed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("koharu, 1girl\n\n")
    paths = drawn(capsys, tmp_path / "out", PROMPT, "--prompts", str(prompts), "--seeds", "1-2,42")
    sidecars = [json.loads(path.with_suffix(".json").read_text()) for path in paths]
    assert [(s["prompt"], s["seed"]) for s in sidecars] == [
        (p, s) for p in (PROMPT, "koharu, 1girl") for s in (1, 2, 42)
    ]
    assert len({path.read_bytes() for path in paths}) == 6
    assert sorted(tmp_path.glob("out/*")) == sorted([*paths, *(path.with_suffix(".json") for path in paths)])
    with Image.open(paths[0]) as image:
        assert image.size == (64, 48)


def test_a_picture_says_how_it_was_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path, adapter: Path) -> None:
    options = ("--adapter", f"{adapter}:0.8", "--cfg", "2.5", "--negative", "2girls: red", "--sampler", "euler")
    (path,) = drawn(capsys, tmp_path, "koharu, (1girl:1.2)", *options, "--seeds", "7", "--schedule", "linspace")
    lines = text_of(path).splitlines()
    assert lines[:2] == ["koharu, (1girl:1.2)", "Negative prompt: 2girls: red"]
    file = sha256(adapter.read_bytes()).hexdigest()
    for words in (
        "Steps: 2, Sampler: euler, Schedule type: linspace, CFG scale: 2.5, Seed: 7, Size: 64x48, ",
        'Lora weights: "koharu-12: 0.8", ',
        f'Lora hashes: "koharu-12: {file[:10]}", ',
        "Model: pocket, ",
    ):
        assert words in lines[2]
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["adapters"] == [{"path": str(adapter), "weight": 0.8, "sha256": file}]
    assert sidecar["base_sha256"] == base_sha256(POCKET)
    assert sidecar["image_sha256"] == sha256(path.read_bytes()).hexdigest()
    assert sidecar["sigmas"] == [1.0, 0.75, 0.0]
    assert {"batch", "halves", "device", "dtype", "threads", "versions", "numerics"} <= sidecar.keys()


def test_several_adapters_are_drawn_together_each_with_its_weight(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, adapter: Path
) -> None:
    """Two halves of one adapter are the whole: what is drawn is the sum."""
    halves = tmp_path / "half.safetensors"
    halves.write_bytes(adapter.read_bytes())
    alone = drawn(capsys, tmp_path / "alone", PROMPT, "--adapter", f"{adapter}:1")
    both = drawn(capsys, tmp_path / "both", PROMPT, "--adapter", f"{adapter}:0.5", "--adapter", f"{halves}:0.5")
    other = drawn(capsys, tmp_path / "other", PROMPT, "--adapter", f"{adapter}:0.5", "--adapter", f"{halves}:-0.5")
    plain = drawn(capsys, tmp_path / "plain", PROMPT)
    one, two, three, none = (torch.tensor(list(Image.open(p[0]).tobytes())) for p in (alone, both, other, plain))
    assert (one - two).abs().max() <= 1
    assert (three - none).abs().max() <= 1
    assert (one - none).abs().max() > 20
    assert 'Lora weights: "koharu-12: 0.5, half: 0.5"' in text_of(both[0])


def test_a_picture_is_drawn_again_from_what_it_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, adapter: Path
) -> None:
    options = (
        "--adapter",
        f"{adapter}:0.8",
        "--cfg",
        "2",
        "--negative",
        "2girls",
        "--seeds",
        "1-5",
        "--noise",
        "comfyui",
    )
    first = drawn(capsys, tmp_path / "a", "koharu", *options)[3]
    assert main(["draw", "--like", str(first), "--out", str(tmp_path / "b")]) == 0
    (again,) = (tmp_path / "b").glob("*.png")
    assert (again.name, again.read_bytes()) == (first.name, first.read_bytes())
    sidecar = str(first.with_suffix(".json"))
    assert main(["draw", "--like", sidecar, "--out", str(tmp_path / "c"), "--adapter", f"{adapter}:0.2"]) == 0
    (other,) = (tmp_path / "c").glob("*.png")
    assert other.name != first.name
    assert text_of(other).replace("koharu-12: 0.2", "koharu-12: 0.8") == text_of(first)
    assert other.read_bytes() != first.read_bytes()


def test_a_changed_adapter_is_not_passed_off_as_the_one_before(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, adapter: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(adapter.read_bytes())
    (path,) = drawn(capsys, tmp_path / "out", "koharu", "--adapter", str(copy))
    copy.write_bytes(copy.read_bytes() + b" ")
    assert "is not the recorded file" in refused(capsys, "--like", str(path), "--out", str(tmp_path / "out"))


def test_an_adapter_changes_the_picture_and_weight_zero_does_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, adapter: Path
) -> None:
    pixels = []
    for options in ((), ("--adapter", f"{adapter}:0"), ("--adapter", str(adapter))):
        (path,) = drawn(capsys, tmp_path, "koharu", *options)
        with Image.open(path) as image:
            pixels.append(image.tobytes())
    assert pixels[0] == pixels[1] != pixels[2]


def test_pocket_has_its_own_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["draw", PROMPT, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.png")
    drawing = json.loads(path.with_suffix(".json").read_text())["drawing"]
    assert (drawing["sampler"], drawing["steps"], drawing["cfg"]) == ("er_sde", 12, 1.0)
    assert (drawing["width"], drawing["height"]) == (96, 64)
    assert "1 picture in " in capsys.readouterr().out


def test_early_warnings(capsys: pytest.CaptureFixture[str], tmp_path: Path, adapter: Path) -> None:
    def warnings(*arguments: str) -> list[str]:
        assert main(["draw", "--out", str(tmp_path), *SMALL, *arguments]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]

    (unseen,) = warnings("1girl, é, (é桜:1.2)")
    assert "cannot see 'é', 'é桜': T5 has no token for it" in unseen
    (unused,) = warnings("1girl", "--negative", "é")
    assert "cfg 1 draws without the negative prompt" in unused
    (away,) = warnings("1girl", "--negative", "é", "--cfg", "2")
    assert "cannot see 'é'" in away
    (nobody,) = warnings("1girl", "--adapter", str(adapter))
    assert "no prompt names a trigger of koharu-12: 'koharu'" in nobody
    assert warnings("koharu", "--adapter", str(adapter)) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["nothing to draw", "python -m anima draw"]),
        (("a", "--size", "100x64"), ["--size: width 100 must be divisible by 8", "nearest is 96"]),
        (("a", "--size", "96x62"), ["--size: height 62 must be divisible by 8", "nearest is 64"]),
        (("a", "--size", "8000"), ["--size: height 8000 must be at most 256", "nearest is 256"]),
        (("a", "--size", "big"), ["--size: cannot read 'big'", "1024x1024"]),
        (("a", "--seeds", "8-1"), ["--seeds: cannot read '8-1'", "1-8,42"]),
        (("a", "--seeds", "1,,2"), ["--seeds: cannot read ''"]),
        (("a", "--seeds", "one"), ["--seeds: cannot read 'one'"]),
        (("a", "--seeds", "-5"), ["--seeds: cannot read '-5'"]),
        (("a", "--seeds", "0-999999999"), ["more than 10000 seeds"]),
        (("a", "--seeds", str(2**64)), ["too large"]),
        (("a", "--sampler", "eulr"), ["--sampler: unknown sampler 'eulr'", "did you mean euler?", "er_sde, euler"]),
        (("a", "--sampler", "ER-SDE"), ["did you mean er_sde?"]),
        (("a", "--sampler", "zzz"), ["unknown sampler 'zzz' — known: er_sde, euler"]),
        (("a", "--schedule", "linspce"), ["--schedule", "did you mean linspace?"]),
        (("a", "--noise", "comfy"), ["--noise", "did you mean comfyui?"]),
        (("a", "--steps", "0"), ["--steps: steps must be 1 to 1000, not 0"]),
        (("a", "--steps", "x"), ["argument --steps", "invalid int value: 'x'"]),
        (("a", "--cfg", "0.5"), ["--cfg: cfg must be at least 1"]),
        (("a", "--cfg", "nan"), ["--cfg: cfg must be at least 1"]),
        (("a", "--shift", "0"), ["--shift: shift must be above 0"]),
        (("a", "--batch", "0"), ["--batch"]),
        (("a", "--base", "nowhere"), ["nowhere: there is no base model", "--base pocket"]),
        (("a", "--base", "nowhere.yaml"), ["nowhere.yaml: there is no such file"]),
        (("a", "--base", "conf/rates.yaml"), ["conf/rates.yaml: ", "base"]),
        (("a", "--base", "hf://owner"), ["cannot read 'hf://owner'", "hf://owner/model"]),
        (("a", "--base", "tests"), ["tests: the base model is incomplete: no transformer"]),
        (("a", "--prompts", "nowhere.txt"), ["nowhere.txt: cannot be read"]),
        (("a", "--like", "nowhere.png"), ["nowhere.json: cannot be read"]),
        (("(a:nan)",), ["prompt: the weight of (a:nan) is not finite"]),
        (("a", "--prompt", "b"), ["unrecognized arguments: --prompt b"]),
        (("a", "--adapter", "nowhere.safetensors"), ["nowhere.safetensors: there is no such adapter"]),
        (("a", "--adapter", "x.safetensors:inf"), ["--adapter x.safetensors:inf: weight inf is not finite"]),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: list[str]
) -> None:
    line = refused(capsys, *arguments)
    assert all(part in line for part in words), line


def test_a_mistyped_adapter_names_the_nearest(capsys: pytest.CaptureFixture[str], adapter: Path) -> None:
    mistyped = adapter.with_name("koharu-13.safetensors")
    assert f"did you mean {adapter}?" in refused(capsys, "a", "--adapter", f"{mistyped}:0.8")
    assert f"is a folder — did you mean {adapter}?" in refused(capsys, "a", "--adapter", str(adapter.parent))


def test_a_file_that_is_no_adapter_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"not one")
    assert f"{path}: is cut short" in refused(capsys, "a", "--adapter", str(path), "--out", str(tmp_path))


def test_a_sidecar_of_something_else_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"prompt": "a"}')
    assert "is no sidecar of `draw`" in refused(capsys, "--like", str(tmp_path / "other.json"))


def test_a_folder_that_cannot_be_made_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refused(capsys, "a", "--out", str(tmp_path / "file" / "out"))


def test_too_large_a_batch_for_the_gpu_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(pictures, "draw", full)
    assert main(["draw", "a", "--batch", "3", *SMALL, "--out", str(tmp_path)]) == 2
    assert "--batch: 3 pictures of 64x48 at once do not fit" in capsys.readouterr().err


def test_the_exit_code_reaches_the_shell() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "anima", "draw", "a", "--size", "1x1"], capture_output=True, text=True
    )
    assert child.returncode == 2
    assert child.stderr.startswith("error: --size:")
    assert child.stderr.count("\n") == 1


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["draw", "--help"])
    assert ended.value.code == 0
    assert "--adapter runs/" in capsys.readouterr().out


def test_seeds_sizes_and_adapters_are_read() -> None:
    assert read_seeds("1-3, 42,2") == (1, 2, 3, 42)
    assert read_seeds(f"{2**64 - 1}") == (2**64 - 1,)
    assert read_size("96x64") == read_size("96X64") == read_size("96×64") == (96, 64)
    assert read_size("1024") == (1024, 1024)
    assert read_adapter_use("a/b.safetensors:0.8") == AdapterUse(Path("a/b.safetensors"), 0.8)
    assert read_adapter_use("a:b.safetensors") == AdapterUse(Path("a:b.safetensors"))
    assert read_adapter_use("a.safetensors:-1") == AdapterUse(Path("a.safetensors"), -1.0)
    assert AdapterUse(Path("epoch-0007/adapter.safetensors")).name == "epoch-0007"
    with pytest.raises(ConfigError):
        read_size("0x64")
