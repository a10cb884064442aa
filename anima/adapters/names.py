"""Every linear layer of Anima, by the names adapter files give it.

A layer has three names: the one of the original weights (ComfyUI, diffusion-pipe), the same with underscores (kohya)
and the module of diffusers. Files put different prefixes before them; `layer_of` reads any, a `Layer` writes each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal

Component = Literal["transformer", "text_conditioner", "text_encoder"]
COMPONENTS: tuple[Component, ...] = ("transformer", "text_conditioner", "text_encoder")

TARGETS: tuple[tuple[str, str], ...] = (
    ("self_attn.q_proj", "attn1.to_q"),
    ("self_attn.k_proj", "attn1.to_k"),
    ("self_attn.v_proj", "attn1.to_v"),
    ("self_attn.output_proj", "attn1.to_out.0"),
    ("cross_attn.q_proj", "attn2.to_q"),
    ("cross_attn.k_proj", "attn2.to_k"),
    ("cross_attn.v_proj", "attn2.to_v"),
    ("cross_attn.output_proj", "attn2.to_out.0"),
    ("mlp.layer1", "ff.net.0.proj"),
    ("mlp.layer2", "ff.net.2"),
)
"""The layers of one block that are trained: the original name, and the module of diffusers. 280 in the real model."""

_MODULATION = tuple(
    (f"adaln_modulation_{part}.{i}", f"norm{n}.linear_{i}")
    for n, part in enumerate(("self_attn", "cross_attn", "mlp"), start=1)
    for i in (1, 2)
)
_OUTSIDE_BLOCKS = (
    ("x_embedder.proj.1", "patch_embed.proj"),
    ("t_embedder.1.linear_1", "time_embed.t_embedder.linear_1"),
    ("t_embedder.1.linear_2", "time_embed.t_embedder.linear_2"),
    ("final_layer.adaln_modulation.1", "norm_out.linear_1"),
    ("final_layer.adaln_modulation.2", "norm_out.linear_2"),
    ("final_layer.linear", "proj_out"),
)
_CONDITIONER = (
    *(f"blocks.#.{a}_attn.{side}_proj" for a in ("self", "cross") for side in "qkvo"),
    "blocks.#.mlp.0",
    "blocks.#.mlp.2",
    "in_proj",
    "out_proj",
)
_ENCODER = (
    *(f"layers.#.self_attn.{side}_proj" for side in "qkvo"),
    *(f"layers.#.mlp.{side}_proj" for side in ("gate", "up", "down")),
)
_COMFY_ENCODER = "text_encoders.qwen3_06b.transformer.model."


@dataclass(frozen=True, slots=True, order=True)
class Layer:
    """One linear layer. `original` is its name in the released weights, `module` its path within the component."""

    component: Component
    original: str
    module: str

    @property
    def comfy(self) -> str:
        """Its name in ComfyUI's and this project's files; everywhere in the project, a layer is called this."""
        return (_COMFY_ENCODER if self.component == "text_encoder" else "diffusion_model.") + self.original

    @property
    def kohya(self) -> str:
        """Its name in the files of sd-scripts and its relatives."""
        prefix = "lora_te_" if self.component == "text_encoder" else "lora_unet_"
        return prefix + self.original.replace(".", "_")

    @property
    def diffusers(self) -> str:
        """Its name in diffusers' files. diffusers itself reads no adapter of the text encoder."""
        return f"{self.component}.{self.module}"


# original name, module; the number of a block is written #.
_TEMPLATES: tuple[tuple[Component, str, str], ...] = (
    *(("transformer", f"blocks.#.{o}", f"transformer_blocks.#.{m}") for o, m in (*TARGETS, *_MODULATION)),
    *(("transformer", o, m) for o, m in _OUTSIDE_BLOCKS),
    *(("text_conditioner", f"llm_adapter.{m}", m) for m in _CONDITIONER),
    *(("text_encoder", m, m) for m in _ENCODER),
)
_BY_MODULE = {(component, module): original for component, original, module in _TEMPLATES}
# Bare module names of the conditioner are names of the transformer's blocks too: only `llm_adapter.` names it.
_BY_NAME = {original: (component, original, module) for component, original, module in _TEMPLATES}
_BY_NAME |= {module: (c, original, module) for c, original, module in _TEMPLATES if c == "transformer"}
_BY_FLAT_NAME = {name.replace(".", "_"): template for name, template in _BY_NAME.items()}

_DIT: tuple[Component, ...] = ("transformer", "text_conditioner")
_DOTTED: tuple[tuple[str, str, tuple[Component, ...]], ...] = (
    (_COMFY_ENCODER, "", ("text_encoder",)),
    ("text_encoders.transformer.model.", "", ("text_encoder",)),
    ("text_encoder.model.", "", ("text_encoder",)),
    ("text_encoder.", "", ("text_encoder",)),
    ("text_conditioner.", "llm_adapter.", ("text_conditioner",)),
    ("model.diffusion_model.", "", _DIT),
    ("diffusion_model.", "", _DIT),
    ("transformer.", "", _DIT),
    ("net.", "", _DIT),
    ("", "", _DIT),
)
_FLAT: tuple[tuple[str, str, tuple[Component, ...]], ...] = (
    ("lora_te_", "", ("text_encoder",)),
    ("lora_text_conditioner_", "llm_adapter_", ("text_conditioner",)),
    ("lora_llm_adapter_", "llm_adapter_", ("text_conditioner",)),
    ("lora_transformer_", "", _DIT),
    ("lora_unet_", "", _DIT),
    ("lycoris_", "", _DIT),
)
_PEFT = "base_model.model."
_NUMBER = re.compile(r"(?<=blocks[._])\d{1,4}(?=[._])|(?<=layers[._])\d{1,4}(?=[._])")


@lru_cache(maxsize=2**14)
def layer_of(name: str) -> Layer | None:
    """The layer a file means by `name` (a key without its `.lora_A.weight` or the like); None if Anima has no such."""
    name = name.removeprefix(_PEFT)
    for prefixes, known in ((_FLAT, _BY_FLAT_NAME), (_DOTTED, _BY_NAME)):
        prefix, replacement, components = next((p for p in prefixes if name.startswith(p[0])), ("", "", ()))
        path = replacement + name.removeprefix(prefix)
        number = _NUMBER.search(path)
        template = known.get(path if number is None else f"{path[: number.start()]}#{path[number.end() :]}")
        if template is not None and template[0] in components:
            # Leading zeros would give one layer two names.
            block = "" if number is None else str(int(number[0]))
            return Layer(template[0], template[1].replace("#", block), template[2].replace("#", block))
    return None


def layer_at(component: Component, module: str) -> Layer | None:
    """The layer at a module path of a component; None for modules that adapter files have no name for."""
    number = _NUMBER.search(module)
    template = module if number is None else f"{module[: number.start()]}#{module[number.end() :]}"
    original = _BY_MODULE.get((component, template))
    return None if original is None else Layer(component, original.replace("#", number[0] if number else ""), module)


def nearest(name: str) -> str | None:
    """The name of a layer that `name` may be a slip of, written in the style of `name`."""
    number = _NUMBER.search(name)
    block = "0" if number is None else number[0]
    layers = [Layer(c, o.replace("#", block), m.replace("#", block)) for c, o, m in _TEMPLATES]
    candidates = [style for layer in layers for style in (layer.comfy, layer.kohya, layer.diffusers)]
    return next(iter(get_close_matches(name, candidates, n=1, cutoff=0.85)), None)


def position(layer: Layer) -> tuple[int, int]:
    """Where a layer stands in the model: its kind, then its block."""
    number = _NUMBER.search(layer.original)
    template = layer.original if number is None else _NUMBER.sub("#", layer.original, count=1)
    kinds = [original for component, original, _ in _TEMPLATES if component == layer.component]
    return kinds.index(template), int(number[0]) if number else 0


def layout_of(names: Iterable[str]) -> str:
    """How a file names its layers: comfy, kohya, diffusers, lycoris, onetrainer, peft or bare; all it mixes."""
    return " + ".join(sorted({_style(name) for name in names}))


def _style(name: str) -> str:
    styles = {
        "comfy": ("diffusion_model.", "model.diffusion_model.", "text_encoders."),
        "kohya": ("lora_unet_", "lora_te"),
        "onetrainer": ("lora_transformer_", "lora_llm_adapter_", "lora_text_conditioner_"),
        "lycoris": ("lycoris_",),
        "peft": (_PEFT,),
        "diffusers": ("transformer.", "text_conditioner.", "unet.", "text_encoder"),
    }
    return next((style for style, prefixes in styles.items() if name.startswith(prefixes)), "bare")
