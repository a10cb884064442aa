"""LoRA on the transformer: injected to train, merged to draw.

The targets are the attention projections and the MLP of every block: 10 linear layers a block, 280 in the real model.
An adapter's state names them as the original Anima weights do (`diffusion_model.blocks.0.self_attn.q_proj`), which
both ComfyUI and diffusers read, and carries no alpha: the scale alpha / rank is folded into lora_B, so that
W = W0 + weight * B A. `transformer` is diffusers' CosmosTransformer3DModel throughout, of any size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from anima.adapter_files import adapter_pairs, refuse

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
"""The layers of one block: the original name, and the module of diffusers that holds it."""

_ADAPTER = "adapter"


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


def inject(transformer: nn.Module, rank: int, alpha: float, seed: int) -> InjectedAdapter:
    """Add a LoRA to every target of a plain transformer, in place, and freeze everything else.

    A (rank, in) is uniform in +-1/sqrt(in), B (out, rank) zero, both fp32 whatever the base is. A depends on `seed` and
    the shapes alone: the global random state is neither read nor moved.
    """
    _plain_layers(transformer)
    transformer.requires_grad_(False)
    targets = list(target_names(transformer).values())
    # peft declares alpha an int, and only ever divides it by the rank.
    config = LoraConfig(r=rank, lora_alpha=cast(int, alpha), target_modules=targets, lora_dropout=0.0, bias="none")
    # On the meta device first: peft would draw A from the global generator and keep it in the base's dtype.
    inject_adapter_in_model(config, transformer, adapter_name=_ADAPTER, low_cpu_mem_usage=True)
    generator = torch.Generator().manual_seed(seed)
    parameters: list[nn.Parameter] = []
    for layer in _injected_layers(transformer).values():
        base, a, b = layer.get_base_layer().weight, _linear(layer.lora_A), _linear(layer.lora_B)
        drawn = torch.empty(a.weight.shape, dtype=torch.float32)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        a.weight = nn.Parameter(drawn.to(base.device))
        b.weight = nn.Parameter(torch.zeros(b.weight.shape, dtype=torch.float32, device=base.device))
        parameters += [a.weight, b.weight]
    return InjectedAdapter(rank, alpha, tuple(parameters))


def adapter_state(transformer: nn.Module) -> dict[str, Tensor]:
    """The injected adapter as file tensors: `<original>.lora_A.weight` (rank, in), `.lora_B.weight` (out, rank).

    Copies, fp32, on the CPU, with alpha / rank folded into B.
    """
    state: dict[str, Tensor] = {}
    for name, layer in _injected_layers(transformer).items():
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
    refuse(layers.keys() - pairs.keys(), "lacks layers of this transformer")
    refuse(pairs.keys() - layers.keys(), "has layers this transformer does not adapt")
    own = {name: (_linear(layer.lora_A).weight, _linear(layer.lora_B).weight) for name, layer in layers.items()}
    wrong = [n for n, (a, b) in pairs.items() if (a.shape, b.shape) != (own[n][0].shape, own[n][1].shape)]
    refuse(wrong, "does not fit the injected rank or the layers' sizes")
    for name, (a, b) in pairs.items():
        own[name][0].copy_(a)
        own[name][1].copy_(b.double() / layers[name].scaling[_ADAPTER])


class Merger:
    """Applies adapters to a plain transformer by writing W <- W0 + weight * B A into its own weights.

    Every merge starts from pristine copies of the targets (10 weights a block), so nothing drifts however often
    adapters change, and W keeps its storage, so compiled or captured graphs stay valid.
    """

    def __init__(self, transformer: nn.Module) -> None:
        self._weights: dict[str, Tensor] = {name: layer.weight for name, layer in _plain_layers(transformer).items()}
        self._pristine = {name: weight.detach().clone() for name, weight in self._weights.items()}

    def merge(self, state: Mapping[str, Tensor], weight: float = 1.0, *, where: str = "adapter") -> int:
        """Make the transformer's targets W0 + weight * B A; gives the number of layers the adapter matched.

        state: as `adapter_state` gives it, any dtype and device; layers it does not name are restored to W0.
        `where` names the adapter in errors. The product and sum are fp32; weight 0 restores W0 bit for bit.
        Raises AdapterError, before anything is written, for keys that match no target, sizes that do not fit, no keys.
        """
        if not math.isfinite(weight):
            raise ValueError(f"weight must be finite, not {weight}")
        pairs = adapter_pairs(state, where=where)
        refuse(pairs.keys() - self._weights.keys(), "has layers that are no targets of this base", where)
        wrong = [n for n, (a, b) in pairs.items() if (b.shape[0], a.shape[1]) != tuple(self._weights[n].shape)]
        refuse(wrong, "does not fit the sizes of this base's layers", where)
        if weight == 0:
            self.restore()
            return len(pairs)
        for name in self._weights.keys() - pairs.keys():
            self._restore(name)
        for name, (a, b) in pairs.items():
            self._write(name, a, b, weight)
        return len(pairs)

    def restore(self) -> None:
        """Back to the base, bit for bit."""
        for name in self._weights:
            self._restore(name)

    @torch.no_grad()
    def _restore(self, name: str) -> None:
        self._weights[name].copy_(self._pristine[name])

    @torch.no_grad()
    def _write(self, name: str, a: Tensor, b: Tensor, weight: float) -> None:
        target, pristine = self._weights[name], self._pristine[name]
        a, b = a.to(target.device, torch.float32), b.to(target.device, torch.float32)
        if target.dtype == torch.float32:
            torch.addmm(pristine, b, a, alpha=weight, out=target.data)
        else:
            target.copy_(torch.addmm(pristine.float(), b, a, alpha=weight))


def _plain_layers(transformer: nn.Module) -> dict[str, nn.Linear]:
    """Original layer name -> the target itself, in a transformer nothing was injected into."""
    layers: dict[str, nn.Linear] = {}
    for original, module in target_names(transformer).items():
        layer = transformer.get_submodule(module)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{module} is a {type(layer).__name__}: this transformer already holds an adapter")
        layers[original] = layer
    return layers


def _injected_layers(transformer: nn.Module) -> dict[str, LoraLayer]:
    """Original layer name -> the LoRA layer `inject` put there, in target order."""
    layers: dict[str, LoraLayer] = {}
    for original, module in target_names(transformer).items():
        layer = transformer.get_submodule(module)
        if not isinstance(layer, LoraLayer):
            raise ValueError(f"{module} has no injected adapter")
        layers[original] = layer
    return layers


def _linear(side: nn.ModuleDict) -> nn.Linear:
    return cast(nn.Linear, side[_ADAPTER])
