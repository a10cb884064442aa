"""Tensors of an adapter file, in any of the layouts in use, to one delta per layer of Anima.

Nothing is dropped: a key that is not understood, a layer that Anima does not have and a form that cannot be merged are
refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice

from torch import Tensor

from anima.adapters.deltas import Delta, Full, Hadamard, Kronecker, LowRank
from anima.adapters.families import anima_layers, family_of
from anima.adapters.keys import Key, Kind, Part, kind_of, split_key
from anima.adapters.names import Layer, layer_of, nearest
from anima.adapters.peft_config import PeftConfig
from orchestrator.core.errors import AdapterError

Parts = dict[Part, tuple[str, Tensor]]
"""What a file holds for one layer: part -> (its key, the tensor)."""

_NEEDED: Mapping[Kind, tuple[tuple[tuple[Part, ...], ...], ...]] = {
    # Every group must be there in one of its spellings, and nothing else but alpha.
    "LoRA": ((("a",),), (("b",),)),
    "LoKr": ((("w1",), ("w1_a", "w1_b")), (("w2",), ("w2_a", "w2_b"))),
    "LoHa": ((("hada_w1_a", "hada_w1_b"),), (("hada_w2_a", "hada_w2_b"),)),
    "full": ((("diff",),),),
}


def deltas_of(
    tensors: Mapping[str, Tensor], *, where: str = "adapter", config: PeftConfig | None = None
) -> dict[str, Delta]:
    """One delta per adapted layer, by the layer's name (`diffusion_model.blocks.0.self_attn.q_proj`), in file order.

    config: gives the scale of layers that have no alpha tensor. Raises AdapterError naming `where` and the first keys.
    """
    found: dict[str, Delta] = {}
    wrong: dict[str, list[str]] = {}
    for layer, parts in by_layer(tensors, where).items():
        try:
            found[layer.comfy] = delta_of(parts, partial(config.scale, layer) if config else _unscaled)
        except ValueError as error:
            wrong.setdefault(str(error), []).extend(key for key, _ in parts.values())
    for what, keys in wrong.items():
        refuse(keys, what, where, fix="train it again, or have it exported as a plain LoRA")
    return found


def by_layer(tensors: Mapping[str, Tensor], where: str = "adapter") -> dict[Layer, Parts]:
    """The tensors by the layer of Anima they belong to.

    Raises AdapterError for keys of no adapter, layers of no Anima, and layers named twice.
    """
    if not tensors:
        raise AdapterError("holds no LoRA tensors at all", where=where, fix="use an adapter file")
    keys = [(text, split_key(text)) for text in tensors]
    strange = [text for text, key in keys if key is None]
    if len(strange) == len(keys):
        raise AdapterError(
            f"is no adapter: none of its {len(keys)} tensors is part of one (the first is {strange[0]})",
            where=where,
            fix="use a LoRA, LoKr or LoHa file",
        )
    refuse(strange, "has keys other than those of an adapter", where, fix="have it exported without them")
    layers = parts_by_layer((key for _, key in keys if key is not None), tensors, where)
    resolved = {name: layer_of(name) for name in layers}
    if not anima_layers(layers):
        family = family_of({name: width_of(parts) for name, parts in layers.items()})
        raise AdapterError(
            f"adapts no layer of Anima: its {len(layers)} layers are of {family}, the first is {next(iter(layers))}",
            where=where,
            fix="use an adapter trained on Anima",
        )
    foreign = [name for name, layer in resolved.items() if layer is None]
    close = nearest(min(foreign)) if foreign else None
    hint = f"is {close} meant? " if close else ""
    refuse(foreign, "adapts what is no linear layer of Anima", where, fix=f"{hint}use an adapter trained on Anima")
    first: dict[Layer | None, str] = {}
    twice = [name for name, layer in resolved.items() if first.setdefault(layer, name) != name]
    refuse(twice, "names a layer a second time", where, fix="have it exported in one layout")
    return {layer: layers[name] for name, layer in resolved.items() if layer is not None}


def parts_by_layer(keys: Iterable[Key], tensors: Mapping[str, Tensor], where: str) -> dict[str, Parts]:
    """The tensors by layer name, whatever model they are for. Raises AdapterError for a part that is there twice."""
    layers: dict[str, Parts] = {}
    for key in keys:
        parts = layers.setdefault(key.layer, {})
        if key.part in parts and key.part != "unread":
            refuse([parts[key.part][0], key.text], "has one part of a layer twice", where)
        parts[key.part] = (key.text, tensors[key.text])
    return layers


def _unscaled(_rank: int | None) -> float:
    return 1.0


def delta_of(parts: Parts, scale_without_alpha: Callable[[int | None], float] = _unscaled) -> Delta:
    """The delta of one layer, of any model. Raises ValueError saying what is wrong with the parts.

    scale_without_alpha: rank -> scale, asked where there is no alpha tensor.
    """
    kind = kind_of(parts)
    if kind == "DoRA":
        raise ValueError("is a DoRA, which rescales the merged weights column by column instead of adding to them, in")
    if kind not in _NEEDED:
        raise ValueError("has a form that is not merged here (only LoRA, LoKr, LoHa and full differences are), in")
    _check_complete(kind, parts)
    t: dict[Part, Tensor] = {part: tensor for part, (_, tensor) in parts.items() if part != "alpha"}
    _check_shapes(kind, t)

    def scale(rank: int | None) -> float:
        return _alpha(parts["alpha"][1]) / rank if "alpha" in parts and rank else scale_without_alpha(rank)

    if kind == "LoRA":
        return LowRank(t["a"], t["b"], scale(t["a"].shape[0]))
    if kind == "LoHa":
        w1, w2 = (t["hada_w1_a"], t["hada_w1_b"]), (t["hada_w2_a"], t["hada_w2_b"])
        return Hadamard(w1, w2, scale(w1[1].shape[0]))
    if kind == "full":
        return Full(t["diff"])
    delta = Kronecker(_factors(t, "w1", "w1_a", "w1_b"), _factors(t, "w2", "w2_a", "w2_b"))
    # Where both are plain matrices, alpha says nothing: LyCORIS trains and stores them unscaled.
    scaled = scale_without_alpha(None) if delta.rank is None else scale(delta.rank)
    return Kronecker(delta.w1, delta.w2, scaled)


def width_of(parts: Parts) -> int | None:
    """Inputs of the layer, where one tensor alone shows it."""
    for part in ("a", "hada_w1_b", "diff"):
        if part in parts and parts[part][1].ndim >= 2:
            return parts[part][1].shape[1]
    return None


def refuse(offenders: Iterable[str], what: str, where: str = "adapter", *, fix: str = "") -> None:
    """Raise an AdapterError with the first names and the count, if there are any."""
    names = sorted(offenders)
    if names:
        rest = f" and {len(names) - 2} more" if len(names) > 2 else ""
        raise AdapterError(f"{what}: {', '.join(islice(names, 2))}{rest}", where=where, fix=fix)


def _check_complete(kind: Kind, parts: Parts) -> None:
    used: set[Part] = {"alpha"}
    for spellings in _NEEDED[kind]:
        whole = [names for names in spellings if all(name in parts for name in names)]
        if not whole:
            raise ValueError("has only one half of layers")
        used |= set(whole[0])
    if parts.keys() - used:
        raise ValueError("mixes forms in one layer")


def _check_shapes(kind: Kind, t: Mapping[Part, Tensor]) -> None:
    flat = [tensor.ndim == 2 and min(tensor.shape) > 0 for tensor in t.values()]
    if not all(flat):
        raise ValueError("has tensors that are no matrices")
    pairs: tuple[tuple[Part, Part], ...] = (("b", "a"), ("w1_a", "w1_b"), ("w2_a", "w2_b"))
    pairs += (("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b"))
    for left, right in pairs:
        if left in t and t[left].shape[1] != t[right].shape[0]:
            shapes = f"{tuple(t[left].shape)} and {tuple(t[right].shape)}"
            names = "lora_B and lora_A" if kind == "LoRA" else "factors"
            raise ValueError(f"has {names} that do not multiply ({shapes})")
    if kind == "LoHa":
        outs = {(t[f"hada_w{i}_a"].shape[0], t[f"hada_w{i}_b"].shape[1]) for i in (1, 2)}  # type: ignore[index]
        if len(outs) > 1:
            raise ValueError("has two factors of different sizes")


def _factors(t: Mapping[Part, Tensor], whole: Part, left: Part, right: Part) -> tuple[Tensor, ...]:
    return (t[whole],) if whole in t else (t[left], t[right])


def _alpha(tensor: Tensor) -> float:
    alpha = float(tensor.flatten()[0]) if tensor.numel() == 1 else math.nan
    # Some readers take alpha 0 for "alpha = rank", others for "no change": it means nothing.
    if not math.isfinite(alpha) or alpha == 0:
        raise ValueError("has an alpha that is not one number other than 0")
    return alpha
