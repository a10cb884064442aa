"""LoRA on the transformer: injected to train, merged to draw.

The targets are the attention projections and the MLP of every block: 10 linear layers a block, 280 in the real model.
An adapter's state names them as the original Anima weights do (`diffusion_model.blocks.0.self_attn.q_proj`), which
both ComfyUI and diffusers read, and carries no alpha: the scale alpha / rank is folded into lora_B, so that
W = W0 + weight * B A. Merging takes adapters of other programs too, several at once, on any linear layer of the
transformer and the text side. `transformer` is diffusers' CosmosTransformer3DModel throughout, of any size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from anima.adapter_files import adapter_pairs
from anima.adapters.deltas import Delta
from anima.adapters.names import COMPONENTS, TARGETS, Component, layer_at, layer_of
from anima.adapters.reading import deltas_of, refuse
from anima.text import TextEncoder

_ADAPTER = "adapter"
_PATCH_EMBEDDING = "diffusion_model.x_embedder.proj.1"
_OWN = "use an adapter trained on this base with this rank"


def target_names(transformer: nn.Module) -> dict[str, str]:
    """Original layer name -> diffusers module name, for every target, block by block."""
    blocks = len(list(transformer.get_submodule("transformer_blocks").children()))
    return {
        f"diffusion_model.blocks.{block}.{original}": f"transformer_blocks.{block}.{module}"
        for block in range(blocks)
        for original, module in TARGETS
    }


@dataclass(frozen=True, slots=True)
class InjectedAdapter:
    """What `inject` put into a transformer. `parameters` keep one order: A then B, layer by layer."""

    rank: int
    alpha: float
    parameters: tuple[nn.Parameter, ...]

    @property
    def layers(self) -> int:
        """Adapted layers: 280 in the real model."""
        return len(self.parameters) // 2


def inject(
    transformer: nn.Module,
    rank: int,
    alpha: float,
    seed: int,
    *,
    targets: Mapping[str, str] | None = None,
    ranks: Mapping[str, int] | None = None,
) -> InjectedAdapter:
    """Add a LoRA to every target of a plain transformer, in place, and freeze everything else.

    A (rank, in) is uniform in +-1/sqrt(in), B (out, rank) zero, both fp32 whatever the base is. A depends on `seed` and
    the shapes alone: the global random state is neither read nor moved. `targets` names other layers than the usual
    ones, as `target_names` does, of this or of another component; `ranks` are those of layers that do not have `rank`,
    by original name, and keep alpha / rank.
    """
    _plain_layers(transformer, targets)
    transformer.requires_grad_(False)
    modules = target_names(transformer) if targets is None else targets
    other = {re.escape(modules[name]): own for name, own in (ranks or {}).items()}
    config = LoraConfig(
        r=rank,
        # peft declares alpha an int, and only ever divides it by the rank.
        lora_alpha=cast(int, alpha),
        target_modules=list(modules.values()),
        rank_pattern=other,
        alpha_pattern={module: alpha * own / rank for module, own in other.items()},
        lora_dropout=0.0,
        bias="none",
    )
    # On the meta device first: peft would draw A from the global generator and keep it in the base's dtype.
    inject_adapter_in_model(config, transformer, adapter_name=_ADAPTER, low_cpu_mem_usage=True)
    generator = torch.Generator().manual_seed(seed)
    parameters: list[nn.Parameter] = []
    for layer in _injected_layers(transformer, targets).values():
        base, a, b = layer.get_base_layer().weight, _linear(layer.lora_A), _linear(layer.lora_B)
        drawn = torch.empty(a.weight.shape, dtype=torch.float32)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        a.weight = nn.Parameter(drawn.to(base.device))
        b.weight = nn.Parameter(torch.zeros(b.weight.shape, dtype=torch.float32, device=base.device))
        parameters += [a.weight, b.weight]
    return InjectedAdapter(rank, alpha, tuple(parameters))


def adapter_state(transformer: nn.Module, targets: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """The injected adapter as file tensors: `<original>.lora_A.weight` (rank, in), `.lora_B.weight` (out, rank).

    Copies, fp32, on the CPU, with alpha / rank folded into B. `targets` as they were injected.
    """
    state: dict[str, Tensor] = {}
    for name, layer in _injected_layers(transformer, targets).items():
        a, b = _linear(layer.lora_A).weight.detach(), _linear(layer.lora_B).weight.detach()
        state[f"{name}.lora_A.weight"] = a.to("cpu", torch.float32, copy=True)
        state[f"{name}.lora_B.weight"] = (b.float() * float(layer.scaling[_ADAPTER])).cpu()
    return state


@torch.no_grad()
def load_adapter_state(transformer: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put what `adapter_state` gave back into an injected transformer, to train on.

    Unfolding alpha / rank from B is exact when that is a power of two (1 included), else within one fp32 rounding.
    Raises AdapterError unless exactly the injected layers are there, with the injected rank.
    """
    layers = _injected_layers(transformer)
    pairs = adapter_pairs(state)
    refuse(layers.keys() - pairs.keys(), "lacks layers of this transformer", fix=_OWN)
    refuse(pairs.keys() - layers.keys(), "has layers this transformer does not adapt", fix=_OWN)
    own = {name: (_linear(layer.lora_A).weight, _linear(layer.lora_B).weight) for name, layer in layers.items()}
    wrong = [n for n, (a, b) in pairs.items() if (a.shape, b.shape) != (own[n][0].shape, own[n][1].shape)]
    refuse(wrong, "does not fit the injected rank or the layers' sizes", fix=_OWN)
    for name, (a, b) in pairs.items():
        own[name][0].copy_(a)
        own[name][1].copy_(b.double() / layers[name].scaling[_ADAPTER])


@dataclass(frozen=True, slots=True)
class Weighted:
    """An adapter to merge: its tensors, its strength, and what errors call it."""

    state: Mapping[str, Tensor]
    weight: float = 1.0
    where: str = "adapter"


class Merger:
    """Applies adapters to a plain transformer by writing W <- W0 + sum of weight * delta into its own weights.

    Every merge starts from pristine copies, taken of a layer before it is first written, so nothing drifts however
    often adapters change, and W keeps its storage, so compiled or captured graphs stay valid. With `text`, adapters
    may change the text conditioner and the text encoder too; prompts are then encoded anew.
    """

    def __init__(self, transformer: nn.Module, text: TextEncoder | None = None) -> None:
        _plain_layers(transformer)
        self._text = text
        components: dict[Component, nn.Module] = {"transformer": transformer}
        if text is not None:
            components |= {"text_conditioner": text.conditioner, "text_encoder": text.encoder}
        self._layers: dict[str, tuple[Component, nn.Linear]] = {}
        for component, module in components.items():
            for path, part in module.named_modules():
                layer = layer_at(component, path)
                if layer is not None and isinstance(part, nn.Linear):
                    self._layers[layer.comfy] = component, part
        self._mask_columns = _mask_columns(transformer)
        self._pristine: dict[str, Tensor] = {}
        self._changed: set[str] = set()

    def merge(self, state: Mapping[str, Tensor], weight: float = 1.0, *, where: str = "adapter") -> int:
        """Make the weights W0 + weight * delta; gives the number of layers the adapter matched, see `merge_all`."""
        return self.merge_all([Weighted(state, weight, where)])[0]

    def merge_all(self, adapters: Sequence[Weighted]) -> list[int]:
        """Make the weights W0 + the sum of all adapters; gives the number of layers each one matched.

        States: as `read_adapter` or `adapter_state` give them, or raw tensors of any layout; any dtype and device.
        Layers that none names are restored to W0. Products and sums are fp32, in the order given, and rounded once;
        weight 0 restores W0 bit for bit. Raises AdapterError, before anything is written, for tensors that are no
        adapter, layers this base does not have, sizes that do not fit; ValueError for a weight that is not finite.
        """
        matched = []
        wanted: dict[str, list[tuple[Delta, float]]] = {}
        for adapter in adapters:
            if not math.isfinite(adapter.weight):
                raise ValueError(f"weight must be finite, not {adapter.weight}")
            deltas = self._fitting(deltas_of(adapter.state, where=adapter.where), adapter.where)
            matched.append(len(deltas))
            for name, delta in deltas.items() if adapter.weight else ():
                wanted.setdefault(name, []).append((delta, adapter.weight))
        self._forget_prompts({*self._changed, *wanted})
        for name in self._changed - wanted.keys():
            self._restore(name)
        # All copies before any product: small ones between large short-lived ones would leave the heap full of holes.
        for name in wanted.keys() - self._pristine.keys():
            self._pristine[name] = self._layers[name][1].weight.detach().clone()
        scratch = torch.empty(0)
        for name, changes in wanted.items():
            scratch = self._write(name, changes, scratch)
        return matched

    def restore(self) -> None:
        """Back to the base, bit for bit."""
        self.merge_all([])

    def _fitting(self, deltas: Mapping[str, Delta], where: str) -> dict[str, Delta]:
        """The deltas, each of its layer's size. Raises AdapterError for layers that are not here or of another size."""
        missing = [name for name in deltas if name not in self._layers]
        loaded = {component for component, _ in self._layers.values()}
        for component in COMPONENTS:
            if component not in loaded:
                of_it = [name for name in missing if _component(name) == component]
                what = f"adapts the {component.replace('_', ' ')}, which takes part in no merging here"
                refuse(of_it, what, where, fix="use an adapter of the transformer alone")
        refuse(missing, "has layers that are no targets of this base", where, fix="use an adapter trained on this base")
        if _PATCH_EMBEDDING in deltas and self._mask_columns:
            patch, kept = deltas[_PATCH_EMBEDDING], self._layers[_PATCH_EMBEDDING][1].in_features
            if patch.shape[1] == kept + self._mask_columns:
                # These inputs are the padding mask, zero for whole pictures: their change changes nothing.
                deltas = {**deltas, _PATCH_EMBEDDING: patch.columns(kept)}
        sizes = {name: (d.shape, tuple(self._layers[name][1].weight.shape)) for name, d in deltas.items()}
        wrong = [f"{name} {own} on {base}" for name, (own, base) in sizes.items() if own != base]
        refuse(wrong, "does not fit the sizes of this base's layers", where, fix="use an adapter trained on this base")
        return dict(deltas)

    def _forget_prompts(self, touched: set[str]) -> None:
        """Encode anew what the touched layers take part in."""
        components = {self._layers[name][0] for name in touched}
        if self._text is not None and "text_encoder" in components:
            self._text.forget()
        elif self._text is not None and "text_conditioner" in components:
            self._text.forget_rows()

    @torch.no_grad()
    def _restore(self, name: str) -> None:
        self._layers[name][1].weight.copy_(self._pristine[name])
        self._changed.discard(name)

    @torch.no_grad()
    def _write(self, name: str, changes: Sequence[tuple[Delta, float]], scratch: Tensor) -> Tensor:
        """Write one layer; gives the scratch memory for the next layer, since fresh pages take time."""
        weight = self._layers[name][1].weight
        self._changed.add(name)
        if weight.dtype == torch.float32:
            total = weight.data
        else:
            if scratch.numel() < weight.numel() or scratch.device != weight.device:
                scratch = torch.empty(weight.numel(), device=weight.device)
            total = scratch[: weight.numel()].view_as(weight)
        total.copy_(self._pristine[name])
        for delta, strength in changes:
            delta.add_to(total, strength)
        if weight.dtype != torch.float32:
            weight.copy_(total)
        return scratch


def _plain_layers(transformer: nn.Module, targets: Mapping[str, str] | None = None) -> dict[str, nn.Linear]:
    """Original layer name -> the target itself, in a transformer nothing was injected into."""
    layers: dict[str, nn.Linear] = {}
    for original, module in (target_names(transformer) if targets is None else targets).items():
        layer = transformer.get_submodule(module)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{module} is a {type(layer).__name__}: this transformer already holds an adapter")
        layers[original] = layer
    return layers


def _injected_layers(transformer: nn.Module, targets: Mapping[str, str] | None = None) -> dict[str, LoraLayer]:
    """Original layer name -> the LoRA layer `inject` put there, in target order."""
    layers: dict[str, LoraLayer] = {}
    for original, module in (target_names(transformer) if targets is None else targets).items():
        layer = transformer.get_submodule(module)
        if not isinstance(layer, LoraLayer):
            raise ValueError(f"{module} has no injected adapter")
        layers[original] = layer
    return layers


def _linear(side: nn.ModuleDict) -> nn.Linear:
    return cast(nn.Linear, side[_ADAPTER])


def _component(name: str) -> Component:
    layer = layer_of(name)
    assert layer is not None
    return layer.component


def _mask_columns(transformer: nn.Module) -> int:
    """Inputs of the patch embedding that were folded away with the padding mask: one channel of every patch."""
    config = cast(Any, transformer).config
    return 0 if config.concat_padding_mask else int(math.prod(config.patch_size))
