"""Keys of adapter files, taken apart: which layer, and which part of its change. Knows no model family."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["LoRA", "LoKr", "LoHa", "full", "DoRA", "other"]
Part = Literal[
    "a", "b", "alpha", "w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
    "diff", "magnitude", "unread",
]  # fmt: skip
"""What a tensor is to its layer. `unread` is a known part of a change that cannot be merged here."""

_SUFFIXES: tuple[tuple[str, Part], ...] = (
    # PEFT writes the adapter's name between: lora_A.default.weight.
    (r"\.lora_A(?:\.[A-Za-z]\w*)?\.weight", "a"),
    (r"\.lora_B(?:\.[A-Za-z]\w*)?\.weight", "b"),
    (r"\.lora_down\.weight|\.lora\.down\.weight|\.lora_linear_layer\.down\.weight|_lora\.down\.weight", "a"),
    (r"\.lora_up\.weight|\.lora\.up\.weight|\.lora_linear_layer\.up\.weight|_lora\.up\.weight", "b"),
    (r"\.alpha", "alpha"),
    (r"\.lokr_w1", "w1"),
    (r"\.lokr_w1_a", "w1_a"),
    (r"\.lokr_w1_b", "w1_b"),
    (r"\.lokr_w2", "w2"),
    (r"\.lokr_w2_a", "w2_a"),
    (r"\.lokr_w2_b", "w2_b"),
    (r"\.hada_w1_a", "hada_w1_a"),
    (r"\.hada_w1_b", "hada_w1_b"),
    (r"\.hada_w2_a", "hada_w2_a"),
    (r"\.hada_w2_b", "hada_w2_b"),
    (r"\.diff", "diff"),
    (r"\.dora_scale|\.lora_magnitude_vector(?:\.\w+)*|\.magnitude", "magnitude"),
    (
        r"\.diff_b|\.set_weight|\.reshape_weight|\.w_norm|\.b_norm|\.lora_B(?:\.\w+)?\.bias|\.lora_up\.bias"
        r"|\.lora_mid\.weight|\.lokr_t[12]|\.hada_t[12]|\.oft_blocks|\.oft_diag|\.oft_R(?:\.\w+)*|\.rescale"
        r"|\.[ab][12]\.weight|\.bm\.weight|\.on_input",
        "unread",
    ),
)
_KEY = re.compile(
    r"(?P<layer>.+?)(?:" + "|".join(f"(?P<p{i}>{pattern})" for i, (pattern, _) in enumerate(_SUFFIXES)) + ")"
)


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a file: `<layer><suffix>`."""

    text: str
    layer: str
    part: Part


def split_key(text: str) -> Key | None:
    """Take a key apart; None if it does not end like a part of an adapter."""
    found = _KEY.fullmatch(text)
    if found is None:
        return None
    index = next(i for i in range(len(_SUFFIXES)) if found[f"p{i}"] is not None)
    return Key(text, found["layer"], _SUFFIXES[index][1])


def kind_of(parts: Iterable[Part]) -> Kind:
    """What kind of change a layer's parts make together."""
    found = set(parts)
    kinds: tuple[tuple[set[Part], Kind], ...] = (
        ({"unread"}, "other"),
        ({"magnitude"}, "DoRA"),
        ({"a", "b"}, "LoRA"),
        ({"w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b"}, "LoKr"),
        ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}, "LoHa"),
        ({"diff"}, "full"),
    )
    return next((kind for marks, kind in kinds if found & marks), "other")
