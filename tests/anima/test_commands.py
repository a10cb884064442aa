"""python -m anima: what it says of files of any model and in any state, and how it converts them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from anima.__main__ import main
from anima.adapter_files import AdapterMetadata, read_adapter, write_adapter
from anima.adapters.describe import describe
from anima.adapters.families import family_of
from tests.anima.random_adapter import linear_layers, peft_state, random_lora
from tests.anima.tiny_transformer import tiny_transformer

METADATA = AdapterMetadata(4, 2.0, "b" * 64, "d" * 64, "trio", 7, 91, 14.5, ("kanachan", "小春"), "0.1.0")


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[Tensor, Tensor]]:
    model = tiny_transformer()
    return random_lora(model, linear_layers("transformer", model), ranks=(4,), seed=3)


@pytest.fixture
def own(tmp_path: Path, pairs: dict[str, tuple[Tensor, Tensor]]) -> Path:
    return write_adapter(tmp_path / "own.safetensors", peft_state(pairs), METADATA).path


def lora(layers: dict[str, tuple[int, int]], rank: int = 4, alpha: float | None = None) -> dict[str, Tensor]:
    """kohya's tensors: layer name -> (out, in)."""
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    for name, (out, inputs) in layers.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, rank, generator=generator)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def save(path: Path, tensors: dict[str, Tensor], **strings: str) -> Path:
    safetensors.torch.save_file(tensors, path, metadata=strings or None)
    return path


def say(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_inspect_tells_what_an_own_file_is(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = say(capsys, "inspect", own)
    assert (code, err) == (0, "")
    for said in ("Anima", "comfy", "38 LoRA", "4 (38 layers)", "float32", "merges where the sizes fit"):
        assert said in out
    assert "trained   trio, epoch 7, step 91, 14.5 exposures per image" in out
    assert "kanachan, 小春" in out
    assert "ss_network_dim" in out
    rows = [line.split() for line in out.splitlines() if line.startswith("    self_attn.q_proj")]
    assert [row[:3] for row in rows] == [["self_attn.q_proj", "2", "4"]]


def test_inspect_as_json_has_every_layer_and_its_norm(
    own: Path, pairs: dict[str, tuple[Tensor, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = say(capsys, "inspect", own, "--json")
    told: dict[str, Any] = json.loads(out)
    assert code == 0
    assert (told["family"], told["layout"], told["kinds"]) == ("Anima", "comfy", {"LoRA": 38})
    assert (told["merges_on_anima"], told["refusal"], told["checksum"]) == (True, None, True)
    assert told["sha256"] == read_adapter(own).file.sha256
    norms = {layer["name"]: layer["norm"] for layer in told["layers"]}
    assert norms.keys() == pairs.keys()
    for name, (a, b) in pairs.items():
        assert norms[name] == pytest.approx(float((b.double() @ a.double()).norm()), rel=1e-4)
    groups = {group["group"]: group for group in told["groups"]}
    q = [norms[f"diffusion_model.blocks.{i}.self_attn.q_proj"] for i in (0, 1)]
    assert groups["self_attn.q_proj"]["mean_norm"] == pytest.approx(sum(q) / 2)
    assert groups["self_attn.q_proj"]["max_norm"] == pytest.approx(max(q))
    assert groups["final_layer.linear"]["layers"] == 1
    assert told["metadata"]["adapter.trial"] == '"trio"'


def test_the_norm_of_each_form_is_that_of_its_expansion(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    q, k, v = (f"lora_unet_blocks_0_self_attn_{side}_proj" for side in "qkv")
    w1, w2a, w2b = draw(4, 8), draw(32, 3), draw(3, 16)
    h1a, h1b, h2a, h2b = draw(128, 2), draw(2, 128), draw(128, 2), draw(2, 128)
    diff = draw(128, 128)
    tensors = {f"{q}.lokr_w1": w1, f"{q}.lokr_w2_a": w2a, f"{q}.lokr_w2_b": w2b, f"{q}.alpha": torch.tensor(6.0)}
    tensors |= {f"{k}.hada_w1_a": h1a, f"{k}.hada_w1_b": h1b, f"{k}.hada_w2_a": h2a, f"{k}.hada_w2_b": h2b}
    tensors |= {f"{v}.diff": diff, f"{k}.alpha": torch.tensor(1.0)}
    description = describe(save(tmp_path / "mixed.safetensors", tensors))
    norms = {layer.kind: layer.norm for layer in description.layers}
    assert description.kinds() == {"LoKr": 1, "LoHa": 1, "full": 1}
    assert norms["LoKr"] == pytest.approx(float((2 * torch.kron(w1, w2a @ w2b)).norm()), rel=1e-5)
    assert norms["LoHa"] == pytest.approx(float((0.5 * (h1a @ h1b) * (h2a @ h2b)).norm()), rel=1e-5)
    assert norms["full"] == pytest.approx(float(diff.norm()), rel=1e-5)
    assert description.refusal is None


SDXL = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (640, 640),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 2048),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": (3072, 768),
    "lora_te2_text_model_encoder_layers_0_mlp_fc1": (5120, 1280),
}
FAMILIES: list[tuple[str, dict[str, tuple[int, int]]]] = [
    ("SDXL", SDXL),
    ("SDXL", {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v": (640, 2048)}),
    ("Stable Diffusion 1", {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (320, 768)}),
    ("FLUX", {"lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072)}),
    ("FLUX", {"transformer.single_transformer_blocks.0.attn.to_q": (3072, 3072)}),
    ("HunyuanVideo", {"transformer.double_blocks.0.img_mlp.fc1": (64, 64)}),
    ("Stable Diffusion 3", {"lora_unet_joint_blocks_0_x_block_attn_qkv": (64, 64)}),
    ("Qwen-Image", {"transformer_blocks.0.img_mlp.net.0.proj": (64, 64)}),
    ("Wan", {"diffusion_model.blocks.0.self_attn.q": (64, 64), "diffusion_model.blocks.0.ffn.0": (64, 64)}),
    ("Lumina 2 or Z-Image", {"diffusion_model.layers.0.attention.qkv": (64, 64)}),
    ("a language model", {"base_model.model.model.layers.0.self_attn.q_proj": (64, 64)}),
    ("Anima", {"transformer.transformer_blocks.0.attn1.to_q": (2048, 2048)}),
    (
        "a transformer of diffusers with Anima's layer names (LTX-Video, PixArt)",
        {
            "transformer.transformer_blocks.0.attn1.to_q": (2048, 2048),
            "transformer.transformer_blocks.0.attn2.to_k": (2048, 2048),
        },
    ),
    ("unknown", {"lora_unet_something_else": (64, 64)}),
]


@pytest.mark.parametrize(("family", "layers"), FAMILIES)
def test_families_are_told_from_their_layers(family: str, layers: dict[str, tuple[int, int]]) -> None:
    assert family_of({name: inputs for name, (_, inputs) in layers.items()}) == family


def test_a_file_for_another_model_is_described_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = lora(SDXL, rank=8, alpha=4)
    conv = "lora_unet_input_blocks_1_0_in_layers_2"
    tensors |= {
        f"{conv}.lora_down.weight": torch.ones(8, 320, 3, 3),
        f"{conv}.lora_up.weight": torch.ones(320, 8, 1, 1),
    }
    path = save(tmp_path / "sdxl.safetensors", tensors, ss_base_model_version="sdxl_base_v1-0")
    code, out, _ = say(capsys, "inspect", path)
    assert code == 0
    for said in ("SDXL", "kohya", "5 LoRA", "8 (5 layers)", "0.5 (4 layers)", "sdxl_base_v1-0", "text encoder 2"):
        assert said in out
    assert "on Anima  no: it adapts no layer of Anima: its 5 layers are of SDXL" in out
    description = describe(path)
    norm = next(layer.norm for layer in description.layers if layer.name == conv)
    assert norm == pytest.approx(8 * math.sqrt(320 * 320 * 9), rel=1e-5)
    assert {layer.group for layer in description.layers} >= {"attn1_to_q", "attn2_to_k", "mlp_fc1"}


def test_a_dora_is_described_and_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "lora_unet_blocks_0_self_attn_q_proj"
    path = save(tmp_path / "d.safetensors", lora({name: (128, 128)}) | {f"{name}.dora_scale": torch.ones(1, 128)})
    code, out, _ = say(capsys, "inspect", path)
    assert code == 0
    assert "1 DoRA" in out
    assert "no: it is a DoRA, which rescales" in out


def test_what_is_wrong_inside_a_sound_container_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"lora_unet_blocks_{i}_mlp_layer1" for i in range(4)]
    tensors = lora(dict.fromkeys(names, (512, 128)))
    tensors[f"{names[0]}.lora_up.weight"][3, 1] = math.nan
    tensors[f"{names[1]}.lora_up.weight"].zero_()
    del tensors[f"{names[2]}.lora_up.weight"]
    path = save(tmp_path / "broken.safetensors", tensors | {"stray.weight": torch.ones(2)})
    code, out, _ = say(capsys, "inspect", path)
    assert code == 0
    assert f"note      {names[0]}.lora_up.weight holds NaN or infinite torch.float32 numbers" in out
    assert f"note      1 layers change nothing (norm 0), the first is {names[1]}" in out
    assert "note      1 tensors are no part of an adapter, the first is stray.weight" in out
    assert "on Anima  no: it has keys other than those of an adapter: stray.weight" in out
    told = json.loads(say(capsys, "inspect", path, "--json")[1])
    assert [layer["norm"] is None for layer in told["layers"]] == [True, False, True, False]
    assert [layer["rank"] for layer in told["layers"]] == [4, 4, 4, 4]


def test_whole_models_are_no_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "model.safetensors", {"net.blocks.0.self_attn.q_proj.weight": torch.ones(4, 4)})
    code, out, _ = say(capsys, "inspect", path)
    assert code == 0
    assert "no adapter" in out
    assert "none of its 1 tensors is part of one (the first is net.blocks.0.self_attn.q_proj.weight)" in out
    empty = save(tmp_path / "empty.safetensors", {})
    assert "holds no LoRA tensors at all" in say(capsys, "inspect", empty)[1]


def test_words_out_of_a_file_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07[red]x[/red]\n"
    tensors = lora({f"lora_unet_{evil}": (8, 8), "lora_unet_blocks_0_mlp_layer1": (8, 8)})
    path = save(tmp_path / "evil.safetensors", tensors, ss_training_comment=evil, **{evil: "x"})
    target = str(tmp_path / "o.safetensors")
    for arguments in (
        ["inspect", str(path)],
        ["inspect", str(path), "--json"],
        ["convert", str(path), target, "--format", "comfy"],
    ):
        _, out, err = say(capsys, *arguments)
        assert "\x1b" not in out + err
        assert "\x07" not in out + err
        if "--json" not in arguments:
            assert "[red]x[/red]" in out + err


def test_convert_there_and_back(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kohya, back = tmp_path / "new folder" / "kohya.safetensors", tmp_path / "back.safetensors"
    code, out, err = say(capsys, "convert", own, kohya, "--format", "kohya")
    assert (code, err) == (0, "")
    assert f"read     {own} | comfy | 38 LoRA layers" in out
    assert f"written  {kohya} | kohya | " in out
    assert read_adapter(kohya).file.sha256 in out
    assert "note" not in out
    assert say(capsys, "convert", kohya, back, "--format", "comfy")[0] == 0
    before, after = read_adapter(own), read_adapter(back)
    assert after.metadata == before.metadata == METADATA
    assert all(torch.equal(after.state[key], tensor) for key, tensor in before.state.items())


def test_convert_says_when_numbers_need_a_wider_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = lora({"lora_unet_blocks_0_mlp_layer1": (512, 128)}, rank=3)
    half = {key: t.bfloat16() for key, t in tensors.items()} | {
        "lora_unet_blocks_0_mlp_layer1.alpha": torch.tensor(1.0)
    }
    code, out, _ = say(
        capsys, "convert", save(tmp_path / "h.safetensors", half), tmp_path / "o.safetensors", "--format", "comfy"
    )
    assert code == 0
    assert "note     1 tensors are fp32 now" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["inspect", "missing.safetensors"], 3, "missing.safetensors: there is no such adapter"),
        (["convert", "wn.safetensors", "o.safetensors", "--format", "kohya"], 3, "did you mean"),
        (["inspect", "short.safetensors"], 6, "short.safetensors: is cut short: 0 bytes"),
        (["inspect", "folder.safetensors"], 3, "folder.safetensors: is a folder"),
        (["inspect", "own.pt"], 6, "is a .pt file, a pickle by its name"),
        (["convert", "sdxl.safetensors", "o.safetensors", "--format", "kohya"], 6, "are of SDXL"),
        (["convert", "own.safetensors", "own.safetensors", "--format", "kohya"], 2, "exists already"),
        (
            ["convert", "own.safetensors", "short.safetensors/o.safetensors", "--format", "kohya"],
            4,
            "cannot write",
        ),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    own: Path,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(own.parent)
    Path("short.safetensors").write_bytes(b"")
    Path("own.pt").write_bytes(b"")
    Path("folder.safetensors").mkdir()
    save(Path("sdxl.safetensors"), lora(SDXL))
    found, out, err = say(capsys, *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_the_command_line_itself(own: Path) -> None:
    """As a person starts it, from a shell."""
    asked = [sys.executable, "-m", "anima", "--help"]
    assert "convert" in subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    target = own.with_name("kohya.safetensors")
    command = [sys.executable, "-m", "anima", "convert", str(own), str(target), "--format", "kohya"]
    child = subprocess.run(command, capture_output=True, text=True)
    assert (child.returncode, child.stderr) == (0, "")
    assert read_adapter(target).layers == 38
