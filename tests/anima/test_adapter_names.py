"""Every linear layer of the model has a name in every layout, the one diffusers knows it by."""

from __future__ import annotations

import pytest
import torch
from diffusers import AnimaTextConditioner, CosmosTransformer3DModel
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_anima_lora_to_diffusers
from transformers import Qwen3Config, Qwen3Model

from anima.adapters.keys import kind_of, split_key
from anima.adapters.names import Layer, layer_of, layout_of, nearest, position
from tests.anima.random_adapter import linear_layers


@pytest.fixture(scope="module")
def layers() -> dict[str, Layer]:
    """All linear layers of the released model's sizes; no weight is made."""
    with torch.device("meta"):
        transformer = CosmosTransformer3DModel(
            num_attention_heads=16, num_layers=28, text_embed_dim=1024, adaln_lora_dim=256, extra_pos_embed_type=None
        )
        conditioner = AnimaTextConditioner()
        encoder = Qwen3Model(Qwen3Config(hidden_size=64, intermediate_size=64, num_hidden_layers=28, vocab_size=8))
    found = [
        linear_layers("transformer", transformer),
        linear_layers("text_conditioner", conditioner),
        linear_layers("text_encoder", encoder),
    ]
    assert [len(part) for part in found] == [28 * 16 + 6, 6 * 10 + 1, 28 * 7]
    return found[0] | found[1] | found[2]


def test_each_layer_is_found_again_by_each_of_its_names(layers: dict[str, Layer]) -> None:
    for layer in layers.values():
        assert {layer_of(name) for name in (layer.comfy, layer.kohya, layer.diffusers)} == {layer}
        assert layer_of(f"base_model.model.{layer.comfy}") == layer
    assert len({layer.kohya for layer in layers.values()}) == len(layers)
    assert len({(*position(layer), layer.component) for layer in layers.values()}) == len(layers)


def test_names_are_the_ones_diffusers_converts_to(layers: dict[str, Layer]) -> None:
    ours = {name: layer.diffusers for name, layer in layers.items() if layer.component != "text_encoder"}
    theirs = _convert_non_diffusers_anima_lora_to_diffusers({f"{name}.lora_A.weight": name for name in ours})
    assert {name: key.removesuffix(".lora_A.weight") for key, name in theirs.items()} == ours


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lora_unet_blocks_27_cross_attn_output_proj", "diffusion_model.blocks.27.cross_attn.output_proj"),
        ("lora_unet_llm_adapter_blocks_5_mlp_2", "diffusion_model.llm_adapter.blocks.5.mlp.2"),
        ("lora_unet_final_layer_adaln_modulation_1", "diffusion_model.final_layer.adaln_modulation.1"),
        ("lora_transformer_transformer_blocks_3_ff_net_0_proj", "diffusion_model.blocks.3.mlp.layer1"),
        ("lycoris_transformer_blocks_3_attn2_to_out_0", "diffusion_model.blocks.3.cross_attn.output_proj"),
        ("lora_llm_adapter_out_proj", "diffusion_model.llm_adapter.out_proj"),
        ("model.diffusion_model.t_embedder.1.linear_2", "diffusion_model.t_embedder.1.linear_2"),
        ("blocks.0.self_attn.q_proj", "diffusion_model.blocks.0.self_attn.q_proj"),
        ("lora_te_layers_9_mlp_gate_proj", "text_encoders.qwen3_06b.transformer.model.layers.9.mlp.gate_proj"),
        (
            "text_encoders.transformer.model.layers.0.self_attn.o_proj",
            "text_encoders.qwen3_06b.transformer.model.layers.0.self_attn.o_proj",
        ),
    ],
)
def test_names_other_programs_give(name: str, meant: str) -> None:
    layer = layer_of(name)
    assert layer is not None
    assert layer.comfy == meant


@pytest.mark.parametrize(
    "name",
    [
        "",
        "diffusion_model.blocks.0.self_attn.q_norm",
        "diffusion_model.blocks.x.self_attn.q_proj",
        "diffusion_model.llm_adapter.embed",
        "diffusion_model.blocks.0.self_attn.o_proj",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_te_blocks_0_self_attn_q_proj",
        "text_conditioner.out_proj.more",
        "model.layers.0.self_attn.q_proj",
        "layers.0.self_attn.q_proj",
    ],
)
def test_names_that_are_none_of_animas(name: str) -> None:
    assert layer_of(name) is None


def test_a_slip_is_led_back_to_the_name_it_may_mean() -> None:
    assert nearest("diffusion_model.blocks.7.self_attn.q_porj") == "diffusion_model.blocks.7.self_attn.q_proj"
    assert nearest("lora_unet_blocks_7_mlp_layer3") == "lora_unet_blocks_7_mlp_layer2"
    assert nearest("lora_unet_down_blocks_0_resnets_0_conv1") is None


def test_a_file_may_mix_layouts() -> None:
    assert layout_of(["lora_unet_x.alpha", "diffusion_model.y.alpha", "lora_te_z.alpha"]) == "comfy + kohya"


@pytest.mark.parametrize(
    ("key", "layer", "part"),
    [
        ("x.lora_A.weight", "x", "a"),
        ("x.lora_A.default.weight", "x", "a"),
        ("x.0.lora_up.weight", "x.0", "b"),
        ("x.lora.down.weight", "x", "a"),
        ("x.alpha", "x", "alpha"),
        ("x.lokr_w1", "x", "w1"),
        ("x.lokr_w2_b", "x", "w2_b"),
        ("x.hada_w2_a", "x", "hada_w2_a"),
        ("x.diff", "x", "diff"),
        ("x.dora_scale", "x", "magnitude"),
        ("x.lora_magnitude_vector", "x", "magnitude"),
        ("x.diff_b", "x", "unread"),
        ("x.lora_mid.weight", "x", "unread"),
    ],
)
def test_keys_are_taken_apart(key: str, layer: str, part: str) -> None:
    found = split_key(key)
    assert found is not None
    assert (found.layer, found.part) == (layer, part)


@pytest.mark.parametrize("key", ["x.weight", "x.bias", "lora_A.weight", "x.lora_A", ".alpha", "x.lokr_w3"])
def test_keys_that_are_no_part_of_an_adapter(key: str) -> None:
    assert split_key(key) is None


def test_a_magnitude_makes_a_lora_a_dora() -> None:
    assert kind_of(["a", "b", "alpha"]) == "LoRA"
    assert kind_of(["a", "b", "magnitude"]) == "DoRA"
    assert kind_of(["a", "b", "unread"]) == "other"
