"""Which image model an adapter was made for, told from the names of its layers.

Names are all a file has; families that share them are told apart by the width of the text that cross-attention reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from anima.adapters.names import layer_of

# In this order: the first whose pattern is found in any layer's name, its dots written as underscores.
_FAMILIES: tuple[tuple[str, str], ...] = (
    ("Wan", r"blocks_\d+_((self|cross)_attn_[qkvo]$|ffn_([02]$|net_)|attn2_add_[kv]_proj)"),
    ("HiDream", r"double_stream_blocks_|single_stream_blocks_"),
    ("HunyuanVideo", r"double_blocks_\d+_(img|txt)_mlp_fc\d|txt_in_individual_token"),
    ("FLUX", r"(double|single)_blocks_\d+_|single_transformer_blocks_\d+_|transformer_blocks_\d+_norm1_context_linear"),
    ("Stable Diffusion 3", r"joint_blocks_\d+_|context_block_"),
    ("Qwen-Image", r"transformer_blocks_\d+_(img|txt)_(mlp|mod)_"),
    ("FLUX or Stable Diffusion 3", r"transformer_blocks_\d+_attn_add_[qkv]_proj"),
    ("Lumina 2 or Z-Image", r"(noise|context)_refiner_|layers_\d+_(attention_|feed_forward_w|adaLN)"),
    ("Stable Diffusion", r"(down|up|input|output|mid|middle)_block"),
    ("Stable Diffusion's text encoder", r"text_model_encoder_layers_|text_projection"),
    ("a language model", r"layers_\d+_(self_attn_[qkvo]_proj|mlp_(gate|up|down)_proj)"),
)
_CROSS_ATTENTION = re.compile(r"attn2[._](processor[._])?to_[kv]")


def family_of(widths: Mapping[str, int | None]) -> str:
    """The family whose layers these are.

    widths: layer name as the file has it -> inputs of the layer (in), where they are known.
    """
    names = list(widths)
    if names and anima_layers(names) > len(names) / 2:
        return _anima(widths)
    flat = [name.replace(".", "_") for name in names]
    family = next((f for f, pattern in _FAMILIES if any(re.search(pattern, name) for name in flat)), "unknown")
    return _stable_diffusion(widths) if family.startswith("Stable Diffusion") and "3" not in family else family


def _anima(widths: Mapping[str, int | None]) -> str:
    """Other transformers of diffusers have the same names; their cross-attention reads text as wide as themselves."""
    groups = {group_of(name): width for name, width in widths.items()}
    hidden, text = groups.get("self_attn.q_proj"), groups.get("cross_attn.k_proj")
    if hidden is not None and hidden == text:
        return "a transformer of diffusers with Anima's layer names (LTX-Video, PixArt)"
    return "Anima"


def _stable_diffusion(widths: Mapping[str, int | None]) -> str:
    """SD 1 reads text 768 wide, SD 2 1024, SDXL 2048 (from two encoders, the second of them named)."""
    by_width = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}
    read = {width for name, width in widths.items() if _CROSS_ATTENTION.search(name)}
    found = {by_width[width] for width in read if width in by_width}
    if len(found) == 1:
        return found.pop()
    return "SDXL" if any(name.startswith(("lora_te2", "text_encoder_2")) for name in widths) else "Stable Diffusion"


def group_of(name: str) -> str:
    """The kind of layer within a block, without the block's number: `self_attn.q_proj`, `attn2_to_k`."""
    layer = layer_of(name)
    if layer is not None:
        return re.sub(r"^(?:llm_adapter\.)?(?:(?:blocks|layers)\.\d+\.)?", "", layer.original)
    return re.split(r"(?:blocks?|layers|attentions|resnets|refiner)[._]\d+(?:[._]\d+)*[._]", name)[-1]


def component_of(name: str) -> str:
    """The part of the model a layer belongs to, in words."""
    layer = layer_of(name)
    if layer is not None:
        return layer.component.replace("_", " ")
    encoder = re.match(r"(?:lora_te|text_encoders?[._]?|te)(\d?)", name)
    return f"text encoder {encoder[1]}".rstrip() if encoder else "image model"


def anima_layers(names: Iterable[str]) -> int:
    """How many of the names are layers of Anima."""
    return sum(layer_of(name) is not None for name in names)
