"""The tables of names and shapes are those of the classes that are loaded, and of the converters others load with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AnimaTextConditioner, AutoencoderKLQwenImage, CosmosTransformer3DModel
from diffusers.loaders.single_file_utils import (
    convert_cosmos_transformer_checkpoint_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from anima.adapters.names import COMPONENTS, Component, layer_at
from anima.base import POCKET
from anima.sources.assemble import CONFIGS, DEPTHS
from anima.tensors import component_tensors
from orchestrator.core.errors import WeightsError

PUBLISHED = {
    "transformer-2b": ("transformer", 567, 1_956_405_248),
    "transformer-2.9b": ("transformer", 807, 2_786_883_584),
    "text_conditioner": ("text_conditioner", 118, 134_663_680),
    "vae": ("vae", 194, 126_892_531),
    "text_encoder": ("text_encoder", 310, 596_049_920),
}
PARTS = ("transformer", "text_conditioner", "vae", "text_encoder")


def published(name: str) -> dict[str, Any]:
    return dict(json.loads((CONFIGS / f"{name}.json").read_text()))


def pocket(part: str) -> dict[str, Any]:
    return dict(json.loads((POCKET / part / "config.json").read_text()))


def empty_module(part: str, config: dict[str, Any]) -> nn.Module:
    """The class that is loaded, without memory for its weights."""
    classes = {
        "transformer": CosmosTransformer3DModel,
        "text_conditioner": AnimaTextConditioner,
        "vae": AutoencoderKLQwenImage,
    }
    with init_empty_weights(include_buffers=False):
        if part == "text_encoder":
            return Qwen3Model(Qwen3Config(**config))
        module: nn.Module = classes[part].from_config(config)
        return module


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_every_published_configuration_is_counted_here() -> None:
    assert {path.stem for path in CONFIGS.glob("*")} == set(PUBLISHED)
    for depth, name in DEPTHS.items():
        assert published(Path(name).stem)["num_layers"] == depth


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes_have_the_known_counts(name: str) -> None:
    part, tensors, parameters = PUBLISHED[name]
    specs = component_tensors(part, published(name), where=name)
    assert len(specs) == tensors
    assert sum(torch.Size(spec.shape).numel() for spec in specs.values()) == parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_table_is_the_state_of_its_class(name: str) -> None:
    part, config = PUBLISHED[name][0], published(name)
    specs = component_tensors(part, config, where=name)
    assert {n: spec.shape for n, spec in specs.items()} == shapes(empty_module(part, config))


ODD: list[tuple[str, dict[str, Any]]] = [
    ("transformer", {"mlp_ratio": 2.5, "num_layers": 2, "patch_size": [1, 1, 1], "concat_padding_mask": True}),
    ("text_conditioner", {"model_dim": 64, "num_attention_heads": 2, "mlp_ratio": 3.0}),
    ("vae", {"dim_mult": [1, 1, 3], "num_res_blocks": 3, "temperal_downsample": [True, False]}),
    ("vae", {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}),
    ("text_encoder", {"head_dim": 24, "num_key_value_heads": 1, "num_hidden_layers": 1, "layer_types": None}),
]


@pytest.mark.parametrize(("part", "changes"), [*((part, {}) for part in PARTS), *ODD])
def test_the_table_of_any_size_is_the_state_of_its_class(part: str, changes: dict[str, Any]) -> None:
    config = pocket(part) | changes
    specs = component_tensors(part, config, where=part)
    assert {n: spec.shape for n, spec in specs.items()} == shapes(empty_module(part, config))
    assert len({spec.original for spec in specs.values()}) == len(specs)


@pytest.mark.parametrize("name", ["transformer-2b", "transformer-2.9b"])
def test_transformer_keys_are_those_diffusers_converts(name: str) -> None:
    specs = component_tensors("transformer", published(name), where=name)
    theirs = convert_cosmos_transformer_checkpoint_to_diffusers({f"net.{s.original}": s.name for s in specs.values()})
    assert theirs == {spec.name: spec.name for spec in specs.values()}


def test_vae_keys_are_those_diffusers_converts() -> None:
    specs = component_tensors("vae", published("vae"), where="vae")
    theirs = convert_wan_vae_to_diffusers({spec.original: spec.name for spec in specs.values()})
    assert theirs == {spec.name: spec.name for spec in specs.values()}


def test_text_encoder_keys_are_those_transformers_reads(tmp_path: Path) -> None:
    """transformers takes `model.` off by itself; a key it did not know would be left at its random initial value."""
    from safetensors.torch import save_file

    config = pocket("text_encoder")
    specs = component_tensors("text_encoder", config, where="")
    state = {spec.original: torch.rand(spec.shape) for spec in specs.values()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    theirs = Qwen3Model.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    assert theirs.keys() == specs.keys()
    assert all(torch.equal(theirs[spec.name], state[spec.original]) for spec in specs.values())


@pytest.mark.parametrize("part", COMPONENTS)
def test_adapter_files_name_linear_layers_as_files_of_weights_do(part: Component) -> None:
    name = "transformer-2.9b" if part == "transformer" else part
    specs = component_tensors(part, published(name), where="")
    front = {"transformer": "", "text_conditioner": "llm_adapter.", "text_encoder": ""}[part]
    linear = [s for s in specs.values() if len(s.shape) == 2 and s.name not in ("embed.weight", "embed_tokens.weight")]
    for spec in linear:
        layer = layer_at(part, spec.name.removesuffix(".weight"))
        assert layer is not None
        assert f"{layer.original}.weight" == front + spec.original.removeprefix("model.")
    assert len(linear) == {"transformer": 40 * 16 + 6, "text_conditioner": 6 * 10 + 1, "text_encoder": 28 * 7}[part]


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("transformer", {"extra_pos_embed_type": "learnable"}, "extra_pos_embed_type is 'learnable'"),
        ("transformer", {"use_crossattn_projection": True}, "only False is supported"),
        ("text_conditioner", {"use_layer_norm": True}, "use_layer_norm"),
        ("vae", {"attn_scales": [0.5]}, "attn_scales"),
        ("text_encoder", {"model_type": "llama"}, "model_type is 'llama'"),
        ("transformer", {"num_layers": "many"}, "the configuration makes no transformer"),
        ("vae", {"temperal_downsample": []}, "the configuration makes no vae"),
    ],
)
def test_what_anima_does_not_have_is_refused(part: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(WeightsError, match=r"^place: ") as error:
        component_tensors(part, pocket(part) | change, where="place")
    assert words in str(error.value)


def test_a_size_that_is_not_given_is_named() -> None:
    config = pocket("transformer")
    del config["adaln_lora_dim"]
    with pytest.raises(WeightsError, match="the configuration has no 'adaln_lora_dim'"):
        component_tensors("transformer", config, where="place")
