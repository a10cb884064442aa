"""Which tensors each component has: its name in the diffusers or transformers module, its key in the published single
files (without the prefix of the file), and its shape; all of it follows from the component's config.json.

Nothing here needs torch, so a study's weights can be checked, to the last tensor, before anything heavy is loaded.
The real sizes have 567 (transformer), 118 (text conditioner), 194 (VAE) and 310 (text encoder) tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from orchestrator.core.errors import WeightsError

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: `name` in the module, `original` in single files, and its shape there and here."""

    name: str
    original: str
    shape: tuple[int, ...]


def component_tensors(part: str, config: Config, *, where: str) -> dict[str, TensorSpec]:
    """Every tensor of a component, by its name in the module.

    Raises WeightsError when the configuration lacks a size or asks for a variant that Anima does not have.
    """
    for key, usual in _ONE_VARIANT[part].items():
        if config.get(key, usual) != usual:
            raise WeightsError(f"{key} is {config[key]!r}; only {usual!r} is supported", where=where)
    try:
        return {spec.name: spec for spec in _SPECS[part](config)}
    except KeyError as error:
        raise WeightsError(f"the configuration has no {error}", where=where) from error
    except (TypeError, ValueError, IndexError) as error:
        raise WeightsError(f"the configuration makes no {part}: {error}", where=where) from error


def _transformer(config: Config) -> Iterator[TensorSpec]:
    """CosmosTransformer3DModel. All its linear layers are without bias."""
    width, text = config["num_attention_heads"] * config["attention_head_dim"], config["text_embed_dim"]
    inner, head, low = int(width * config["mlp_ratio"]), config["attention_head_dim"], config["adaln_lora_dim"]
    patch = prod(config["patch_size"])
    channels = config["in_channels"] + bool(config.get("concat_padding_mask", True))
    pairs: list[tuple[str, str, tuple[int, ...]]] = [
        ("patch_embed.proj", "x_embedder.proj.1", (width, channels * patch)),
        ("time_embed.t_embedder.linear_1", "t_embedder.1.linear_1", (width, width)),
        ("time_embed.t_embedder.linear_2", "t_embedder.1.linear_2", (3 * width, width)),
        ("time_embed.norm", "t_embedding_norm", (width,)),
        ("norm_out.linear_1", "final_layer.adaln_modulation.1", (low, width)),
        ("norm_out.linear_2", "final_layer.adaln_modulation.2", (2 * width, low)),
        ("proj_out", "final_layer.linear", (config["out_channels"] * patch, width)),
    ]
    block: list[tuple[str, str, tuple[int, ...]]] = [
        ("ff.net.0.proj", "mlp.layer1", (inner, width)),
        ("ff.net.2", "mlp.layer2", (width, inner)),
    ]
    for number, layer in enumerate(("self_attn", "cross_attn", "mlp"), start=1):
        block.append((f"norm{number}.linear_1", f"adaln_modulation_{layer}.1", (low, width)))
        block.append((f"norm{number}.linear_2", f"adaln_modulation_{layer}.2", (3 * width, low)))
    for here, there, source in (("attn1", "self_attn", width), ("attn2", "cross_attn", text)):
        block += [
            (f"{here}.to_q", f"{there}.q_proj", (width, width)),
            (f"{here}.to_k", f"{there}.k_proj", (width, source)),
            (f"{here}.to_v", f"{there}.v_proj", (width, source)),
            (f"{here}.to_out.0", f"{there}.output_proj", (width, width)),
            (f"{here}.norm_q", f"{there}.q_norm", (head,)),
            (f"{here}.norm_k", f"{there}.k_norm", (head,)),
        ]
    for index in range(config["num_layers"]):
        pairs += [(f"transformer_blocks.{index}.{n}", f"blocks.{index}.{o}", shape) for n, o, shape in block]
    for name, original, shape in pairs:
        yield TensorSpec(f"{name}.weight", f"{original}.weight", shape)


def _text_conditioner(config: Config) -> Iterator[TensorSpec]:
    """AnimaTextConditioner, `llm_adapter` in single files. Both give its tensors the same names."""
    source, target, width = config["source_dim"], config["target_dim"], config["model_dim"]
    head, inner = width // config["num_attention_heads"], int(width * config["mlp_ratio"])
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (config["target_vocab_size"], target)}
    if width != target:
        shapes |= {"in_proj.weight": (width, target), "in_proj.bias": (width,)}
    block: dict[str, tuple[int, ...]] = {
        "mlp.0.weight": (inner, width),
        "mlp.0.bias": (inner,),
        "mlp.2.weight": (width, inner),
        "mlp.2.bias": (width,),
        "norm_mlp.weight": (width,),
    }
    for attention, context in (("self_attn", width), ("cross_attn", source)):
        block |= {
            f"norm_{attention}.weight": (width,),
            f"{attention}.q_proj.weight": (width, width),
            f"{attention}.k_proj.weight": (width, context),
            f"{attention}.v_proj.weight": (width, context),
            f"{attention}.o_proj.weight": (width, width),
            f"{attention}.q_norm.weight": (head,),
            f"{attention}.k_norm.weight": (head,),
        }
    for index in range(config["num_layers"]):
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    shapes |= {"out_proj.weight": (target, width), "out_proj.bias": (target,), "norm.weight": (target,)}
    for name, shape in shapes.items():
        yield TensorSpec(name, name, shape)


def _text_encoder(config: Config) -> Iterator[TensorSpec]:
    """Qwen3Model without its language head; single files say `model.` in front of every name."""
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    block: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (config["vocab_size"], width), "norm": (width,)}
    for index in range(config["num_hidden_layers"]):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        yield TensorSpec(f"{name}.weight", f"model.{name}.weight", shape)


def _vae(config: Config) -> Iterator[TensorSpec]:
    """AutoencoderKLQwenImage; single files use the names of Wan's VAE, with one flat list of layers per side."""
    base, z = config["base_dim"], config["z_dim"]
    mult, depth, times = list(config["dim_mult"]), config["num_res_blocks"], list(config["temperal_downsample"])
    pixels, last = config.get("input_channels", 3), len(mult) - 1
    yield from _conv("quant_conv", "conv1", 2 * z, 2 * z, (1, 1, 1))
    yield from _conv("post_quant_conv", "conv2", z, z, (1, 1, 1))

    yield from _conv("encoder.conv_in", "encoder.conv1", base, pixels)
    width, flat = base, 0
    for level, factor in enumerate(mult):
        for _ in range(depth):
            layer = (f"encoder.down_blocks.{flat}", f"encoder.downsamples.{flat}")
            yield from _residual(*layer, width, base * factor)
            width, flat = base * factor, flat + 1
        if level != last:
            layer = (f"encoder.down_blocks.{flat}", f"encoder.downsamples.{flat}")
            yield from _resample(*layer, width, width, time=width if times[level] else 0)
            flat += 1
    yield from _ends("encoder", width, 2 * z)

    yield from _conv("decoder.conv_in", "decoder.conv1", base * mult[-1], z)
    width, flat = base * mult[-1], 0
    for level, factor in enumerate(reversed(mult)):
        # Every up-sampler but the last level's halves the channels, whatever the next level makes of them.
        width = width // 2 if level else width
        for row in range(depth + 1):
            layer = (f"decoder.up_blocks.{level}.resnets.{row}", f"decoder.upsamples.{flat}")
            yield from _residual(*layer, width, base * factor)
            width, flat = base * factor, flat + 1
        if level != last:
            layer = (f"decoder.up_blocks.{level}.upsamplers.0", f"decoder.upsamples.{flat}")
            yield from _resample(*layer, width, width // 2, time=2 * width if times[last - 1 - level] else 0)
            flat += 1
    yield from _ends("decoder", width, pixels, middle=base * mult[-1])


def _conv(name: str, original: str, out: int, into: int, kernel: tuple[int, ...] = (3, 3, 3)) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", f"{original}.weight", (out, into, *kernel))
    yield TensorSpec(f"{name}.bias", f"{original}.bias", (out,))


def _residual(name: str, original: str, into: int, out: int) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.norm1.gamma", f"{original}.residual.0.gamma", (into, 1, 1, 1))
    yield from _conv(f"{name}.conv1", f"{original}.residual.2", out, into)
    yield TensorSpec(f"{name}.norm2.gamma", f"{original}.residual.3.gamma", (out, 1, 1, 1))
    yield from _conv(f"{name}.conv2", f"{original}.residual.6", out, out)
    if into != out:
        yield from _conv(f"{name}.conv_shortcut", f"{original}.shortcut", out, into, (1, 1, 1))


def _resample(name: str, original: str, into: int, out: int, *, time: int) -> Iterator[TensorSpec]:
    yield from _conv(f"{name}.resample.1", f"{original}.resample.1", out, into, (3, 3))
    if time:
        yield from _conv(f"{name}.time_conv", f"{original}.time_conv", time, into, (3, 1, 1))


def _ends(side: str, width: int, out: int, *, middle: int = 0) -> Iterator[TensorSpec]:
    """The middle of one side, `middle` (or `width`) channels wide, and its head."""
    wide = middle or width
    yield from _residual(f"{side}.mid_block.resnets.0", f"{side}.middle.0", wide, wide)
    here, there = f"{side}.mid_block.attentions.0", f"{side}.middle.1"
    yield TensorSpec(f"{here}.norm.gamma", f"{there}.norm.gamma", (wide, 1, 1))
    yield from _conv(f"{here}.to_qkv", f"{there}.to_qkv", 3 * wide, wide, (1, 1))
    yield from _conv(f"{here}.proj", f"{there}.proj", wide, wide, (1, 1))
    yield from _residual(f"{side}.mid_block.resnets.1", f"{side}.middle.2", wide, wide)
    yield TensorSpec(f"{side}.norm_out.gamma", f"{side}.head.0.gamma", (width, 1, 1, 1))
    yield from _conv(f"{side}.conv_out", f"{side}.head.2", out, width)


_SPECS: Mapping[str, Callable[[Config], Iterator[TensorSpec]]] = {
    "transformer": _transformer,
    "text_conditioner": _text_conditioner,
    "vae": _vae,
    "text_encoder": _text_encoder,
}
_ONE_VARIANT: Mapping[str, Mapping[str, Any]] = {
    "transformer": {
        "extra_pos_embed_type": None,
        "use_crossattn_projection": False,
        "controlnet_block_every_n": None,
        "img_context_dim_in": None,
    },
    "text_conditioner": {"use_self_attention": True, "use_layer_norm": False},
    "vae": {"attn_scales": []},
    "text_encoder": {"model_type": "qwen3", "attention_bias": False},
}
"""Settings of the classes that would add or change tensors, and the one value every Anima has."""
