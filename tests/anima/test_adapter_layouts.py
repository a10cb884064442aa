"""Files of every layout in use: each merges to the same weights, and each writes back to any other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import CosmosTransformer3DModel
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from torch import Tensor

from anima.adapter_files import AdapterMetadata, read_adapter, write_adapter
from anima.adapters.container import read_content
from anima.adapters.convert import convert
from anima.adapters.names import Layer, layer_at, layer_of
from anima.lora import Merger, target_names
from orchestrator.core.errors import AdapterError, ConfigError
from tests.anima.random_adapter import linear_layers, peft_state, random_lora, weight_of, weights
from tests.anima.tiny_transformer import forward, tiny_transformer

METADATA = AdapterMetadata(6, 2.0, "b" * 64, "d" * 64, "trio", 7, 91, 14.5, ("kanachan",), "0.1.0")
Q = "blocks.0.self_attn.q_proj"
DIFFUSERS_Q = "transformer_blocks.0.attn1.to_q"


def merged(path: Path, weight: float = 1.0) -> dict[str, Tensor]:
    """The layers' weights after the file was read and merged into a fresh transformer."""
    model = tiny_transformer()
    layers = linear_layers("transformer", model)
    Merger(model).merge(read_adapter(path).state, weight)
    return weights(model, layers)


def formula(pairs: dict[str, tuple[Tensor, Tensor]], scale: float, weight: float = 1.0) -> dict[str, Tensor]:
    """W0 + weight * scale * B A in fp64."""
    model = tiny_transformer()
    before = weights(model, linear_layers("transformer", model))
    return {
        name: w.double()
        + (weight * scale * (pairs[name][1].double() @ pairs[name][0].double()) if name in pairs else 0)
        for name, w in before.items()
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor.double() - expected[name].double()).abs().max() <= tolerance, name


@pytest.fixture(scope="module")
def layers() -> dict[str, Layer]:
    return linear_layers("transformer", tiny_transformer())


@pytest.fixture(scope="module")
def pairs(layers: dict[str, Layer]) -> dict[str, tuple[Tensor, Tensor]]:
    return random_lora(tiny_transformer(), layers, ranks=(6, 4), seed=3)


def save(path: Path, tensors: dict[str, Tensor], **strings: str) -> Path:
    safetensors.torch.save_file({key: t.clone() for key, t in tensors.items()}, path, metadata=strings)
    return path


@pytest.mark.parametrize("layout", ["comfy", "kohya", "diffusers"])
def test_each_layout_merges_to_the_formula_and_to_what_the_others_do(
    tmp_path: Path, pairs: dict[str, tuple[Tensor, Tensor]], layout: Any
) -> None:
    own = write_adapter(tmp_path / "own.safetensors", peft_state(pairs), METADATA).path
    there = convert(own, tmp_path / "there.safetensors", layout)
    assert (there.layers, there.kinds, there.source_layout, there.widened) == (38, ("LoRA",), "comfy", 0)
    assert read_adapter(there.target.path).layout == layout
    back = convert(there.target.path, tmp_path / "back.safetensors", "comfy").target.path
    expected = formula(pairs, 1.0, 0.8)
    for path in (own, there.target.path, back):
        assert_same(merged(path, 0.8), expected)
    assert_same(merged(back), merged(own), tolerance=0)
    assert read_content(back).tensors.keys() == read_content(own).tensors.keys()
    assert {adapter.metadata for adapter in map(read_adapter, (own, there.target.path, back))} == {METADATA}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_kohya_files_with_alpha(
    tmp_path: Path, pairs: dict[str, tuple[Tensor, Tensor]], layers: dict[str, Layer], dtype: torch.dtype, alpha: float
) -> None:
    """1/6 fits no binary fraction: folding it into bf16 would cost eight bits, so lora_B becomes fp32."""
    rank6 = {name: (a.to(dtype), b.to(dtype)) for name, (a, b) in pairs.items() if a.shape[0] == 6}
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in rank6.items():
        flat = "lora_unet_" + layers[name].original.replace(".", "_")
        tensors |= {f"{flat}.lora_down.weight": a, f"{flat}.lora_up.weight": b, f"{flat}.alpha": torch.tensor(alpha)}
    path = save(
        tmp_path / "source.safetensors", tensors, ss_network_alpha=str(alpha), sshash_model_hash="of these bytes"
    )
    expected = formula(rank6, alpha / 6)
    assert_same(merged(path), expected)
    for layout in ("comfy", "diffusers", "kohya"):
        done = convert(path, tmp_path / f"{layout}.safetensors", layout)
        assert_same(merged(done.target.path), expected)
        content = read_content(done.target.path)
        assert content.strings["ss_network_alpha"] == str(alpha)
        assert "sshash_model_hash" not in content.strings
        assert content.strings["converted_from_sha256"] == read_content(path).file.sha256
        halves = dtype != torch.float32 and layout != "kohya" and alpha == 1
        assert (done.widened > 0) == halves
        kept = {t.dtype for key, t in content.tensors.items() if "lora_A" in key or "lora_down" in key}
        assert kept == {dtype}


def test_other_spellings_of_a_lora(tmp_path: Path, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
    name = f"diffusion_model.{Q}"
    a, b = pairs[name]
    expected = formula({name: (a, b)}, 3 / a.shape[0])
    alpha = torch.tensor(3)
    for layer in (
        name,
        f"transformer.{DIFFUSERS_Q}",
        DIFFUSERS_Q,
        f"model.{name}",
        "lycoris_" + DIFFUSERS_Q.replace(".", "_"),
    ):
        for down, up in (
            ("lora_A.weight", "lora_B.weight"),
            ("lora_A.default.weight", "lora_B.default.weight"),
            ("lora_down.weight", "lora_up.weight"),
            ("lora.down.weight", "lora.up.weight"),
        ):
            path = save(
                tmp_path / "spelt.safetensors", {f"{layer}.{down}": a, f"{layer}.{up}": b, f"{layer}.alpha": alpha}
            )
            assert_same(merged(path), expected)


# peft's own LyCORIS layers, which decompose a layer when the rank is small against its factors.
LYCORIS = [
    (LoHaConfig(r=3, alpha=2, init_weights=False), "hada_w1_a"),
    (LoKrConfig(r=2, alpha=3, init_weights=False, decompose_both=True, decompose_factor=8), "lokr_w1_a"),
    (LoKrConfig(r=2, alpha=3, init_weights=False, decompose_factor=8), "lokr_w2_a"),
    (LoKrConfig(r=64, alpha=64, init_weights=False), "lokr_w2"),
]


@pytest.mark.parametrize(("config", "part"), LYCORIS)
@pytest.mark.parametrize("prefix", ["lora_unet_", "lycoris_", "diffusion_model."])
def test_lycoris_files_merge_to_what_pefts_own_layers_do(
    tmp_path: Path, config: LoHaConfig | LoKrConfig, part: str, prefix: str
) -> None:
    torch.manual_seed(5)
    injected = tiny_transformer()
    config.target_modules = list(target_names(injected).values())
    inject_adapter_in_model(config, injected)
    tensors: dict[str, Tensor] = {}
    for key, tensor in get_peft_model_state_dict(injected).items():
        module, _, name = key.rpartition(".")
        layer = layer_at("transformer", module)
        assert layer is not None
        flat = layer.diffusers.removeprefix("transformer.") if prefix == "lycoris_" else layer.original
        own = prefix + (flat if prefix.endswith(".") else flat.replace(".", "_"))
        tensors |= {f"{own}.{name}": tensor, f"{own}.alpha": torch.tensor(float(config.alpha))}
    assert any(key.endswith(part) for key in tensors)
    path = save(tmp_path / "lycoris.safetensors", tensors)
    model = tiny_transformer()
    base = forward(model)
    assert Merger(model).merge(read_adapter(path).state) == 20
    torch.testing.assert_close(forward(model), forward(injected), rtol=1e-4, atol=1e-5)
    assert (forward(model) - base).abs().max() > 0.005
    expected = merged(path)
    for layout in ("comfy", "kohya"):
        written = convert(path, tmp_path / f"{layout}.safetensors", layout).target.path
        assert_same(merged(written), expected)
    with pytest.raises(AdapterError, match="is no plain LoRA, the one form diffusers reads for Anima"):
        convert(path, tmp_path / "diffusers.safetensors", "diffusers")


def test_a_full_difference(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    diff = torch.randn(128, 128, generator=generator)
    path = save(tmp_path / "full.safetensors", {"lora_unet_blocks_0_self_attn_q_proj.diff": diff})
    model = tiny_transformer()
    weight = model.get_submodule(DIFFUSERS_Q).weight
    expected = weight.detach() + 0.5 * diff
    Merger(model).merge(read_adapter(path).state, 0.5)
    torch.testing.assert_close(weight, expected)
    written = convert(path, tmp_path / "comfy.safetensors", "comfy").target.path
    assert read_content(written).tensors.keys() == {f"diffusion_model.{Q}.diff"}
    assert_same(merged(written), merged(path), tolerance=0)


def with_lora(config: LoraConfig) -> CosmosTransformer3DModel:
    """A transformer into which diffusers itself put an adapter, none of it zero."""
    model = tiny_transformer()
    model.add_adapter(config)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"lora_alpha": 4},
        {"lora_alpha": 1},
        {"lora_alpha": 3, "use_rslora": True},
        {
            "lora_alpha": 2,
            "rank_pattern": {"attn1.to_q": 7},
            "alpha_pattern": {"attn1.to_q": 5, "^transformer_blocks.0.ff.net.2": 9},
        },
    ],
)
def test_files_of_diffusers_own_writer(tmp_path: Path, options: dict[str, Any]) -> None:
    """diffusers leaves alpha to the configuration it puts into the metadata."""
    injected = with_lora(
        LoraConfig(r=4, target_modules=["attn1.to_q", "ff.net.2", "norm1.linear_1", "proj_out"], **options)
    )
    injected.save_lora_adapter(str(tmp_path))
    adapter = read_adapter(tmp_path / "pytorch_lora_weights.safetensors")
    assert (adapter.layers, adapter.layout, adapter.metadata) == (7, "bare", None)
    model = tiny_transformer()
    Merger(model).merge(adapter.state)
    torch.testing.assert_close(forward(model), forward(injected), rtol=1e-4, atol=2e-6)
    for layout in ("comfy", "kohya", "diffusers"):
        written = convert(adapter.file.path, tmp_path / f"{layout}.safetensors", layout).target.path
        assert_same(merged(written), merged(adapter.file.path))


def test_files_of_pefts_own_writer_need_the_configuration_beside_them(tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=2, target_modules=["attn2.to_v"], init_lora_weights=False)
    torch.manual_seed(1)
    injected = get_peft_model(tiny_transformer(), config)
    injected.save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_model.safetensors"
    adapter = read_adapter(path)
    assert (adapter.layers, adapter.layout) == (2, "peft")
    model = tiny_transformer()
    Merger(model).merge(adapter.state)
    torch.testing.assert_close(forward(model), forward(injected.base_model.model), rtol=1e-4, atol=2e-6)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors: is PEFT's own file, whose alpha is in"):
        read_adapter(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("not json", "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"r": 4, "lora_alpha": "much"}', "r=4, alpha='much'"),
        ('{"r": 4, "lora_alpha": Infinity}', "alpha=inf"),
        ('{"r": 4, "lora_alpha": 4, "alpha_pattern": {".*(a+)+": 8}}', "rule not read here"),
        ('{"r": 4, "lora_alpha": 4, "use_dora": true}', "is a DoRA"),
    ],
)
def test_configurations_that_cannot_be_followed_are_refused(
    tmp_path: Path, pairs: dict[str, tuple[Tensor, Tensor]], config: str, message: str
) -> None:
    path = save(tmp_path / "a.safetensors", peft_state(pairs), lora_adapter_metadata=config)
    with pytest.raises(AdapterError, match=message):
        read_adapter(path)


def one(**parts: Tensor) -> dict[str, Tensor]:
    return {f"diffusion_model.{Q}.{name.replace('__', '.')}": tensor for name, tensor in parts.items()}


A, B = torch.ones(4, 128), torch.ones(128, 4)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (one(lora_A__weight=A, lora_B__weight=B, dora_scale=torch.ones(1, 128)), r"is a DoRA.*q_proj\.dora_scale"),
        (one(lora_A__weight=A, lora_B__weight=B, lora_magnitude_vector=torch.ones(128)), "is a DoRA"),
        (one(lora_A__weight=A, lora_B__weight=B, diff_b=torch.ones(128)), r"not merged here.*q_proj\.diff_b"),
        (one(lora_A__weight=A, lora_B__weight=B, lora_mid__weight=torch.ones(4, 4)), r"not merged here"),
        (one(oft_blocks=torch.ones(2, 4, 4)), r"not merged here.*oft_blocks"),
        (one(lora_A__weight=A, lora_B__weight=B, diff=torch.ones(128, 128)), "mixes forms"),
        (one(lora_A__weight=A, lora_B__weight=B, alpha=torch.tensor(0.0)), r"alpha that is not one number.*q_proj"),
        (one(alpha=torch.tensor(1.0)), r"not merged here.*q_proj\.alpha"),
        (one(lokr_w1=torch.ones(2, 2), lokr_w2_a=torch.ones(64, 2)), "only one half"),
        (one(lokr_w1=torch.ones(2, 2), lokr_w2_a=torch.ones(64, 2), lokr_w2_b=torch.ones(3, 64)), "do not multiply"),
        (
            one(hada_w1_a=B, hada_w1_b=A, hada_w2_a=torch.ones(64, 4), hada_w2_b=A),
            "two factors of different sizes",
        ),
        (one(hada_w1_a=B, hada_w1_b=A, hada_w2_a=B), "only one half"),
        (one(lora_A__weight=torch.ones(4, 128, 1, 1), lora_B__weight=torch.ones(128, 4, 1, 1)), "no matrices"),
        (one(lora_A__weight=torch.ones(0, 128), lora_B__weight=torch.ones(128, 0)), "no matrices"),
        (
            one(lora_A__weight=A, lora_B__weight=B) | {f"transformer.{DIFFUSERS_Q}.lora.down.weight": A},
            r"names a layer a second time: transformer\.",
        ),
        (
            one(lora_A__weight=A, lora_B__weight=B) | one(lora_down__weight=A),
            r"one part of a layer twice: .*lora_A\.weight, .*lora_down\.weight",
        ),
        (
            one(lora_A__weight=A, lora_B__weight=B) | {"diffusion_model.blocks.0.self_attn.q_norm.lora_A.weight": A},
            r"no linear layer of Anima: diffusion_model\.blocks\.0\.self_attn\.q_norm",
        ),
        ({"net.blocks.0.self_attn.q_proj.weight": A}, r"is no adapter: none of its 1 tensors"),
        (
            {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": A},
            r"adapts no layer of Anima: its 1 layers are of Stable Diffusion",
        ),
        ({"transformer.single_transformer_blocks.0.proj_out.lora_A.weight": A}, "layers are of FLUX"),
        ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": A}, "Stable Diffusion"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(AdapterError, match=message) as refusal:
        read_adapter(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


def damaged(path: Path, kind: str, state: dict[str, Tensor]) -> None:
    """One defect in a whole file."""
    key = f"diffusion_model.{Q}.lora_A.weight"
    changed = dict(state)
    match kind:
        case "renamed":
            changed[key.replace("q_proj", "q_porj")] = changed.pop(key)
        case "shape":
            changed[key] = torch.ones(5, 128)
        case "nan":
            changed[key] = changed[key].clone()
            changed[key][1, 2] = math.nan
    if kind == "pickle":
        torch.save(state, path)
        return
    save(path, changed)
    kept = {"truncated": -100, "zero bytes": 0}.get(kind)
    if kept is not None:
        path.write_bytes(path.read_bytes()[:kept])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("renamed", r"no linear layer of Anima: diffusion_model\.blocks\.0\.self_attn\.q_porj — is .*q_proj meant\?"),
        ("shape", r"lora_B and lora_A that do not multiply \(\(128, 4\) and \(5, 128\)\): .*q_proj\.lora_A\.weight"),
        (
            "nan",
            r"holds NaN or infinite torch\.float32 numbers in diffusion_model\.blocks\.0\.self_attn\.q_proj\.lora_A",
        ),
        ("truncated", r"is cut short: 100 of \d+ bytes are missing"),
        ("zero bytes", r"is cut short: 0 bytes, less than a header"),
        ("pickle", r"is a pickle, which can run code"),
    ],
)
def test_each_damage_has_its_own_clear_line(tmp_path: Path, layers: dict[str, Layer], kind: str, message: str) -> None:
    path = tmp_path / "trio.safetensors"
    damaged(path, kind, peft_state(random_lora(tiny_transformer(), layers)))
    for act in (read_adapter, lambda p: convert(p, tmp_path / "out.safetensors", "kohya")):
        with pytest.raises(AdapterError, match=message) as refusal:
            act(path)
        assert str(refusal.value).startswith(f"{path}: ")
        assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == [path]


def test_a_shape_that_only_the_base_can_judge_is_named_with_both_sizes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", one(lora_A__weight=torch.ones(4, 2048), lora_B__weight=torch.ones(2048, 4)))
    adapter = read_adapter(path)
    with pytest.raises(AdapterError, match=r"q_proj \(2048, 2048\) on \(128, 128\)"):
        Merger(tiny_transformer()).merge(adapter.state, where=str(path))


def test_text_side_keys_are_kept_through_every_layout_that_has_them(tmp_path: Path) -> None:
    conditioner, encoder = torch.ones(128, 4), torch.ones(4, 128)
    state: dict[str, Tensor] = {}
    for name in (
        "diffusion_model.llm_adapter.blocks.0.cross_attn.o_proj",
        "diffusion_model.llm_adapter.out_proj",
        "text_encoders.qwen3_06b.transformer.model.layers.2.mlp.up_proj",
    ):
        state |= {f"{name}.lora_A.weight": encoder, f"{name}.lora_B.weight": conditioner}
    path = save(tmp_path / "text.safetensors", state)
    kohya = convert(path, tmp_path / "flat.safetensors", "kohya").target.path
    assert "lora_te_layers_2_mlp_up_proj.lora_down.weight" in read_content(kohya).tensors
    back = read_content(convert(kohya, tmp_path / "comfy.safetensors", "comfy").target.path).tensors
    assert back.keys() == state.keys()
    with pytest.raises(AdapterError, match=r"adapts the text encoder, for which diffusers reads no adapter: text_enc"):
        convert(path, tmp_path / "diffusers.safetensors", "diffusers")
    transformer = {key: tensor for key, tensor in state.items() if key.startswith("diffusion_model.")}
    path = save(tmp_path / "conditioner.safetensors", transformer)
    written = convert(path, tmp_path / "written.safetensors", "diffusers").target.path
    assert {layer_of(k.removesuffix(".lora_A.weight")) for k in read_content(written).tensors if "lora_A" in k} == {
        layer_of(k.removesuffix(".lora_A.weight")) for k in transformer if "lora_A" in k
    }
    assert all(key.startswith("text_conditioner.") for key in read_content(written).tensors)


def test_converting_replaces_nothing_unless_told(tmp_path: Path, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
    path = write_adapter(tmp_path / "own.safetensors", peft_state(pairs), METADATA).path
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"own\.safetensors: exists already"):
        convert(path, path, "kohya")
    assert path.read_bytes() == before
    with pytest.raises(AdapterError, match=r"not named \.safetensors"):
        convert(path, tmp_path / "own.pt", "kohya")
    convert(path, path, "kohya", replace=True)
    assert read_adapter(path).layout == "kohya"
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_conversion_is_the_same_bytes(tmp_path: Path, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
    path = write_adapter(tmp_path / "own.safetensors", peft_state(pairs), METADATA).path
    written = {convert(path, tmp_path / f"{i}.safetensors", "kohya").target.sha256 for i in range(4)}
    assert len(written) == 1


def test_what_other_tools_show_is_in_the_file(tmp_path: Path, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
    strings = read_content(write_adapter(tmp_path / "own.safetensors", peft_state(pairs), METADATA).path).strings
    assert strings["ss_output_name"] == "trio-epoch0007"
    assert (strings["ss_network_dim"], strings["ss_network_alpha"]) == ("6", "2.0")
    assert (strings["ss_epoch"], strings["ss_steps"]) == ("7", "91")
    assert strings["modelspec.trigger_phrase"] == "kanachan"
    assert json.loads(strings["adapter.base_sha256"]) == "b" * 64


def test_every_target_weight_is_the_one_the_name_says(
    pairs: dict[str, tuple[Tensor, Tensor]], layers: dict[str, Layer]
) -> None:
    model = tiny_transformer()
    before = weights(model, layers)
    name = "diffusion_model.blocks.1.adaln_modulation_cross_attn.2"
    Merger(model).merge(peft_state({name: pairs[name]}))
    changed = [n for n, layer in layers.items() if not torch.equal(weight_of(model, layer), before[n])]
    assert changed == [name]
    assert layers[name].module == "transformer_blocks.1.norm2.linear_2"
