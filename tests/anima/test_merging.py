"""Merging: several adapters at once, any linear layer, from pristine weights, and back to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anima.base import POCKET
from anima.load import Base, load_base
from anima.lora import Merger, Weighted
from orchestrator.core.errors import AdapterError
from tests.anima.random_adapter import copies, linear_layers, peft_state, random_lora, unchanged, weight_of, weights
from tests.anima.tiny_transformer import tiny_transformer


def kept(layers: dict[str, object], mark: str) -> list[str]:
    return [name for name in layers if mark in name]


def test_one_adapter_in_fp32_is_one_addmm_to_the_bit() -> None:
    model = tiny_transformer()
    layers = linear_layers("transformer", model)
    pairs, before = random_lora(model, layers, ranks=(4, 16, 7)), weights(model, layers)
    merger = Merger(model)
    for strength in (1.0, 0.7, -0.3):
        assert merger.merge(peft_state(pairs), strength) == len(layers) == 38
        for name, (a, b) in pairs.items():
            assert torch.equal(weight_of(model, layers[name]), torch.addmm(before[name], b, a, alpha=strength))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_several_adapters_add_up(dtype: torch.dtype) -> None:
    model = tiny_transformer(dtype)
    layers = linear_layers("transformer", model)
    attention = {name: layers[name] for name in kept(dict(layers), "attn.")}
    mlp = {name: layers[name] for name in kept(dict(layers), "mlp.layer")}
    character, speed, extra = (
        random_lora(model, layers, ranks=(8,), seed=1),
        random_lora(model, attention, ranks=(4,), seed=2),
        random_lora(model, mlp, ranks=(3,), seed=3),
    )
    before = weights(model, layers)
    adapters = [
        Weighted(peft_state(character), 0.9, "character"),
        Weighted(peft_state(speed), 1.2, "speed"),
        Weighted(peft_state(extra), -0.5, "extra"),
    ]
    assert Merger(model).merge_all(adapters) == [len(layers), len(attention), len(mlp)]
    for name, layer in layers.items():
        exact = before[name].double()
        for pairs, strength in ((character, 0.9), (speed, 1.2), (extra, -0.5)):
            if name in pairs:
                a, b = pairs[name]
                exact = exact + strength * (b.double() @ a.double())
        # fp32 sums differ from fp64 in the last bits; half types are rounded once, to half a unit in the last place.
        unit = torch.finfo(dtype).eps * (1 if dtype == torch.float32 else 0.5)
        error = (weight_of(model, layer).double() - exact).abs()
        assert (error <= 1.01 * unit * exact.abs() + 1e-6).all(), name


def test_a_thousand_merges_back_and_forth_leave_the_base_to_the_bit() -> None:
    model = tiny_transformer(torch.bfloat16)
    layers = {name: layer for name, layer in linear_layers("transformer", model).items() if "blocks.1" in name}
    character, speed = (peft_state(random_lora(model, layers, ranks=(4,), seed=s)) for s in (1, 2))
    before, merger = copies(model), Merger(model)
    merger.merge(character, 0.8)
    once = copies(model)
    for i in range(500):
        merger.merge_all([Weighted(speed, 1.0), Weighted(character, 0.1 + i / 250)])
        merger.merge(character, 0.8)
    assert unchanged(model, once)
    assert not unchanged(model, before)
    merger.restore()
    assert unchanged(model, before)


def test_weight_zero_is_the_base_alone_and_beside_another() -> None:
    model = tiny_transformer()
    layers = linear_layers("transformer", model)
    first, second = (peft_state(random_lora(model, layers, seed=s)) for s in (1, 2))
    before, merger = copies(model), Merger(model)
    merger.merge(second)
    alone = copies(model)
    assert merger.merge_all([Weighted(first, 0.0), Weighted(second)]) == [38, 38]
    assert unchanged(model, alone)
    assert merger.merge_all([Weighted(first, 0.0), Weighted(second, -0.0)]) == [38, 38]
    assert unchanged(model, before)
    assert merger.merge_all([]) == []


def test_only_named_layers_are_written_and_only_those_are_kept_twice() -> None:
    model = tiny_transformer()
    layers = linear_layers("transformer", model)
    named = {name: layers[name] for name in kept(dict(layers), "final_layer")}
    before, merger = copies(model), Merger(model)
    assert merger.merge(peft_state(random_lora(model, named))) == 3
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{layer.module}.weight" for layer in named.values()}


def test_a_second_adapter_that_does_not_fit_leaves_everything_as_it_was() -> None:
    model = tiny_transformer()
    layers = linear_layers("transformer", model)
    good = peft_state(random_lora(model, layers))
    name = "diffusion_model.blocks.1.mlp.layer1"
    bad = {f"{name}.lora_A.weight": torch.ones(2, 64), f"{name}.lora_B.weight": torch.ones(512, 2)}
    merger = Merger(model)
    merger.merge(good, 0.5)
    before = copies(model)
    with pytest.raises(AdapterError, match=r"^speed: does not fit .*mlp\.layer1 \(512, 64\) on \(512, 128\)"):
        merger.merge_all([Weighted(good, 1.0, "character"), Weighted(bad, 1.0, "speed")])
    assert unchanged(model, before)


def test_the_padding_masks_share_of_a_patch_embedding_falls_away() -> None:
    """The mask is zero for whole pictures, so what an adapter adds to its columns changes nothing."""
    model = tiny_transformer()
    name = "diffusion_model.x_embedder.proj.1"
    weight = model.patch_embed.proj.weight
    before = weight.detach().clone()
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 68, generator=generator), torch.randn(128, 2, generator=generator)
    merger = Merger(model)
    merger.merge({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b})
    torch.testing.assert_close(weight, before + b @ a[:, :64])
    merger.merge({f"{name}.diff": b @ a})
    torch.testing.assert_close(weight, before + b @ a[:, :64])
    with pytest.raises(AdapterError, match=r"x_embedder\.proj\.1 \(128, 66\) on \(128, 64\)"):
        merger.merge({f"{name}.lora_A.weight": a[:, :66], f"{name}.lora_B.weight": b})


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(POCKET)


def text_adapter(base: Base) -> dict[str, Tensor]:
    conditioner, encoder = base.text.conditioner, base.text.encoder
    pairs = random_lora(conditioner, linear_layers("text_conditioner", conditioner))
    return peft_state(pairs | random_lora(encoder, linear_layers("text_encoder", encoder)))


def test_adapters_of_the_text_side_change_what_prompts_become(base: Base) -> None:
    state = text_adapter(base)
    before = copies(base.text.conditioner), copies(base.text.encoder)
    plain = base.text.condition("1girl").clone()
    merger = Merger(base.transformer, base.text)
    assert merger.merge(state, 0.5) == len(state) // 2
    changed = base.text.condition("1girl")
    assert (changed - plain).abs().max() > 0.01
    name = "diffusion_model.llm_adapter.blocks.0.mlp.2"
    expected = (
        before[0]["blocks.0.mlp.2.weight"] + 0.5 * state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
    )
    torch.testing.assert_close(base.text.conditioner.blocks[0].mlp[2].weight, expected)
    merger.restore()
    assert torch.equal(base.text.condition("1girl"), plain)
    assert unchanged(base.text.conditioner, before[0])
    assert unchanged(base.text.encoder, before[1])


def test_only_the_text_model_that_was_touched_runs_anew(base: Base) -> None:
    ran: list[str] = []
    text = base.text
    hooks = [
        text.encoder.register_forward_hook(lambda *_: ran.append("encoder")),
        text.conditioner.register_forward_hook(lambda *_: ran.append("conditioner")),
    ]
    state, merger = text_adapter(base), Merger(base.transformer, text)
    encoder = {key: tensor for key, tensor in state.items() if key.startswith("text_encoders.")}
    conditioner = {key: tensor for key, tensor in state.items() if key not in encoder}
    transformer = peft_state(random_lora(base.transformer, linear_layers("transformer", base.transformer)))
    text.condition("2girls")
    runs = []
    for adapter in (transformer, conditioner, conditioner, transformer, encoder, transformer, transformer):
        ran.clear()
        merger.merge(adapter)
        text.condition("2girls")
        runs.append(list(ran))
    both = ["encoder", "conditioner"]
    assert runs == [[], ["conditioner"], ["conditioner"], ["conditioner"], both, both, []]
    merger.restore()
    for hook in hooks:
        hook.remove()


def test_text_side_adapters_are_refused_by_name_where_the_text_is_not_merged(base: Base) -> None:
    merger = Merger(base.transformer)
    state = text_adapter(base)
    with pytest.raises(AdapterError, match=r"adapts the text conditioner, .*llm_adapter\.blocks\.0.* and \d+ more"):
        merger.merge(state)
    encoder = {key: tensor for key, tensor in state.items() if key.startswith("text_encoders.")}
    with pytest.raises(AdapterError, match=r"adapts the text encoder, .*text_encoders\.qwen3_06b"):
        merger.merge(encoder)
