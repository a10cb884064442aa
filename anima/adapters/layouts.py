"""Deltas to the tensors of a file: in the names ComfyUI, kohya or diffusers give them.

A LoRA is written in any layout. LoKr, LoHa and full differences keep their form in ComfyUI's and kohya's layout, which
read it; diffusers reads none of them for Anima, and no adapter of the text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from anima.adapters.deltas import Delta, Full, Hadamard, Kronecker, LowRank
from anima.adapters.names import Layer, layer_of
from anima.adapters.reading import refuse

Layout = Literal["comfy", "kohya", "diffusers"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
# A tenth of the 1e-6 within which layouts must merge to the same weights. Halving fp16 numbers passes, thirds do not.
_UNSEEN = 1e-7


def tensors_in(layout: Layout, deltas: Mapping[str, Delta], *, where: str = "adapter") -> dict[str, Tensor]:
    """The tensors of a file in `layout`; key -> tensor, in the stored dtypes wherever those hold the numbers.

    deltas: by layer name, as `deltas_of` gives them. In comfy and diffusers layout the scale of a LoRA is folded into
    lora_B, which becomes fp32 if rounding it to its dtype could be seen; kohya's layout has `.alpha` tensors.
    Raises AdapterError naming `where` and the layers that the layout has no form for.
    """
    if layout == "diffusers":
        _check_diffusers(deltas, where)
    tensors: dict[str, Tensor] = {}
    for name, delta in deltas.items():
        layer = layer_of(name)
        if layer is None:
            raise ValueError(f"{name} is no layer of Anima")
        tensors |= {_name(layout, layer) + suffix: t for suffix, t in _parts(layout, delta).items()}
    return tensors


def canonical(deltas: Mapping[str, Delta]) -> dict[str, Tensor]:
    """The tensors in comfy layout with nothing folded: a scale other than 1 is an `.alpha` tensor. Loses nothing."""
    tensors: dict[str, Tensor] = {}
    for name, delta in deltas.items():
        tensors |= {name + suffix: t for suffix, t in _factors(delta, "lora_A", "lora_B").items()}
        if delta.scale != 1 and delta.rank is not None:
            tensors[f"{name}.alpha"] = _alpha(delta)
    return tensors


def _name(layout: Layout, layer: Layer) -> str:
    return {"comfy": layer.comfy, "kohya": layer.kohya, "diffusers": layer.diffusers}[layout]


def _parts(layout: Layout, delta: Delta) -> dict[str, Tensor]:
    """Suffix -> tensor."""
    if isinstance(delta, LowRank) and layout != "kohya":
        return _factors(LowRank(delta.a, _folded(delta.b, delta.scale, delta.a)), "lora_A", "lora_B")
    parts = _factors(delta, "lora_down", "lora_up")
    if delta.rank is not None:
        parts[".alpha"] = _alpha(delta)
    return parts


def _factors(delta: Delta, down: str, up: str) -> dict[str, Tensor]:
    match delta:
        case LowRank(a=a, b=b):
            return {f".{down}.weight": a, f".{up}.weight": b}
        case Kronecker(w1=w1, w2=w2):
            # Two plain matrices have no rank, so no alpha: their scale goes into the smaller one.
            w1 = (_folded(w1[0], delta.scale, w2[0]),) if delta.rank is None else w1
            return _sides("lokr_w1", w1) | _sides("lokr_w2", w2)
        case Hadamard(w1=w1, w2=w2):
            return _sides("hada_w1", w1) | _sides("hada_w2", w2)
        case Full(diff=diff):
            return {".diff": diff}
    raise TypeError(f"no layout for {type(delta).__name__}")


def _sides(name: str, factors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    if len(factors) == 1:
        return {f".{name}": factors[0]}
    return {f".{name}_{side}": factor for side, factor in zip("ab", factors, strict=True)}


def _alpha(delta: Delta) -> Tensor:
    return torch.tensor(delta.scale * (delta.rank or 0), dtype=torch.float32)


def _folded(tensor: Tensor, scale: float, other: Tensor) -> Tensor:
    """tensor * scale, in the dtype of `tensor` if its rounding moves no entry of the product with `other` by more than
    _UNSEEN, else fp32.
    """
    if scale == 1:
        return tensor
    exact = tensor.double() * scale
    same = exact.to(tensor.dtype)
    rounding = (same.double() - exact).abs().sum(1).max() * other.double().abs().max()
    return same if rounding <= _UNSEEN else exact.float()


def _check_diffusers(deltas: Mapping[str, Delta], where: str) -> None:
    layers = {name: layer_of(name) for name in deltas}
    encoder = [name for name, layer in layers.items() if layer is not None and layer.component == "text_encoder"]
    comfy = "keep it in comfy or kohya layout"
    refuse(encoder, "adapts the text encoder, for which diffusers reads no adapter", where, fix=comfy)
    other = [name for name, delta in deltas.items() if not isinstance(delta, LowRank)]
    refuse(other, "is no plain LoRA, the one form diffusers reads for Anima", where, fix=comfy)
