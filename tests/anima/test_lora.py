"""LoRA on a two-block transformer of the real class: what is injected, what is saved, and what merging writes."""

from __future__ import annotations

import pytest
import torch
from diffusers import CosmosTransformer3DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from anima.adapter_files import adapter_pairs
from anima.lora import Merger, adapter_state, inject, load_adapter_state, target_names
from orchestrator.core.errors import AdapterError
from tests.anima.tiny_transformer import forward, tiny_transformer


def trained(rank: int = 4, alpha: float = 4.0, seed: int = 1) -> CosmosTransformer3DModel:
    """An injected transformer whose B is not zero any more."""
    model = tiny_transformer()
    adapter = inject(model, rank, alpha, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for b in adapter.parameters[1::2]:
            b.copy_(0.05 * torch.randn(b.shape, generator=generator))
    return model


def target_weights(model: CosmosTransformer3DModel) -> dict[str, Tensor]:
    return {name: model.get_submodule(module).weight for name, module in target_names(model).items()}


def test_targets_are_ten_layers_a_block_and_280_in_the_real_model() -> None:
    with torch.device("meta"):
        real = CosmosTransformer3DModel(
            num_attention_heads=16, num_layers=28, text_embed_dim=1024, adaln_lora_dim=256, extra_pos_embed_type=None
        )
    names = target_names(real)
    assert len(names) == len(set(names.values())) == 280
    assert all(isinstance(real.get_submodule(module), torch.nn.Linear) for module in names.values())
    numbers = sum(sum(real.get_submodule(module).weight.shape) for module in names.values())
    assert numbers * 32 == pytest.approx(45.9e6, rel=2e-3)


def test_injection_adapts_the_targets_and_nothing_else() -> None:
    model = tiny_transformer()
    adapter = inject(model, 4, 4.0, seed=1)
    adapted = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    assert adapted == set(target_names(model).values())
    assert adapter.layers == 20
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in adapter.parameters}


def test_a_fresh_adapter_changes_nothing_and_its_gradients_reach_b() -> None:
    model = tiny_transformer()
    expected = forward(model)
    adapter = inject(model, 4, 4.0, seed=1)
    output = forward(model)
    assert torch.equal(output, expected)
    output.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters[1::2])
    assert all(p.grad is None for name, p in model.named_parameters() if "lora_" not in name)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    states = []
    for seed, global_seed in ((1, 10), (1, 20), (2, 10)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        model = tiny_transformer()
        inject(model, 4, 4.0, seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(adapter_state(model))
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    name = "diffusion_model.blocks.0.mlp.layer2.lora_A.weight"
    assert not torch.equal(first[name], other[name])
    bound = 512**-0.5
    assert 0.95 * bound < first[name].abs().max() <= bound
    assert all(not tensor.any() for key, tensor in first.items() if key.endswith("lora_B.weight"))


def test_adapters_stay_fp32_on_a_bf16_base() -> None:
    model = tiny_transformer(torch.bfloat16)
    adapter = inject(model, 4, 4.0, seed=1)
    assert {p.dtype for p in adapter.parameters} == {torch.float32}
    assert forward(model).dtype == torch.bfloat16
    forward(model).float().square().mean().backward()
    assert {p.grad.dtype for p in adapter.parameters if p.grad is not None} == {torch.float32}
    reference = tiny_transformer()
    inject(reference, 4, 4.0, seed=1)
    ours, theirs = adapter_state(model), adapter_state(reference)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_injecting_twice_is_refused() -> None:
    model = tiny_transformer()
    inject(model, 4, 4.0, seed=1)
    with pytest.raises(ValueError, match="already holds an adapter"):
        inject(model, 4, 4.0, seed=1)
    with pytest.raises(ValueError, match="already holds an adapter"):
        Merger(model)


def test_state_has_original_names_and_folds_alpha_into_b() -> None:
    model = trained(rank=4, alpha=2.0)
    state = adapter_state(model)
    assert len(state) == 40
    a = state["diffusion_model.blocks.1.cross_attn.output_proj.lora_A.weight"]
    b = state["diffusion_model.blocks.1.cross_attn.output_proj.lora_B.weight"]
    layer = model.get_submodule("transformer_blocks.1.attn2.to_out.0")
    assert torch.equal(a, layer.lora_A["adapter"].weight)
    assert torch.equal(b, 0.5 * layer.lora_B["adapter"].weight)
    with torch.no_grad():
        layer.lora_A["adapter"].weight.zero_()
    assert a.any()


@pytest.mark.parametrize(("rank", "alpha", "exact"), [(4, 4.0, True), (4, 1.0, True), (6, 4.0, False)])
def test_a_saved_state_can_be_trained_on(rank: int, alpha: float, exact: bool) -> None:
    model = trained(rank, alpha)
    state = adapter_state(model)
    resumed = tiny_transformer()
    adapter = inject(resumed, rank, alpha, seed=77)
    load_adapter_state(resumed, state)
    again = adapter_state(resumed)
    for key, tensor in state.items():
        torch.testing.assert_close(again[key], tensor, rtol=0 if exact else 2e-7, atol=0)
    torch.testing.assert_close(forward(resumed), forward(model), rtol=0 if exact else 1e-4, atol=0 if exact else 1e-6)
    assert all(p.requires_grad for p in adapter.parameters)


def test_a_state_of_another_shape_cannot_be_trained_on() -> None:
    state = adapter_state(trained(rank=4))
    model = tiny_transformer()
    inject(model, 8, 8.0, seed=1)
    with pytest.raises(AdapterError, match="does not fit the injected rank"):
        load_adapter_state(model, state)
    kept = {key: tensor for key, tensor in state.items() if ".blocks.0." in key}
    with pytest.raises(AdapterError, match=r"lacks layers .* and 8 more"):
        load_adapter_state(model, kept)


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (6, 4.0), (8, 2.0)])
def test_merged_draws_as_injected(rank: int, alpha: float) -> None:
    injected = trained(rank, alpha)
    model = tiny_transformer()
    base = forward(model)
    assert Merger(model).merge(adapter_state(injected)) == 20
    difference = (forward(injected) - base).abs().max()
    assert difference > 0.01
    torch.testing.assert_close(forward(model), forward(injected), rtol=1e-4, atol=2e-6)


def test_weight_scales_the_change() -> None:
    state = adapter_state(trained())
    model = tiny_transformer()
    merger, weights = Merger(model), target_weights(model)
    pristine = {name: weight.clone() for name, weight in weights.items()}
    for strength in (0.6, -0.5, 1.0):
        merger.merge(state, strength)
        for name, (a, b) in adapter_pairs(state).items():
            torch.testing.assert_close(weights[name], pristine[name] + strength * (b @ a), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_base_comes_back_bit_for_bit_and_never_moves(dtype: torch.dtype) -> None:
    first, second = adapter_state(trained(seed=1)), adapter_state(trained(rank=8, seed=2))
    model = tiny_transformer(dtype)
    merger, weights = Merger(model), target_weights(model)
    pristine = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = {name: weight.data_ptr() for name, weight in weights.items()}
    merger.merge(first, 0.8)
    merged_once = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert any(not torch.equal(pristine[name], merged_once[name]) for name in pristine)
    for _ in range(5):
        merger.merge(second, 1.3)
        merger.merge(first, 0.0)
        assert all(torch.equal(tensor, pristine[name]) for name, tensor in model.state_dict().items())
    merger.merge(first, 0.8)
    assert all(torch.equal(tensor, merged_once[name]) for name, tensor in model.state_dict().items())
    merger.restore()
    assert all(torch.equal(tensor, pristine[name]) for name, tensor in model.state_dict().items())
    assert {name: weight.data_ptr() for name, weight in weights.items()} == places


def test_a_bf16_base_is_rounded_once() -> None:
    state = adapter_state(trained())
    model = tiny_transformer(torch.bfloat16)
    weights = target_weights(model)
    pristine = {name: weight.float() for name, weight in weights.items()}
    Merger(model).merge(state, 0.7)
    for name, (a, b) in adapter_pairs(state).items():
        assert torch.equal(weights[name], torch.addmm(pristine[name], b, a, alpha=0.7).bfloat16())


def test_layers_an_adapter_does_not_name_are_the_base() -> None:
    state = adapter_state(trained())
    model = tiny_transformer()
    merger, weights = Merger(model), target_weights(model)
    pristine = {name: weight.clone() for name, weight in weights.items()}
    merger.merge(state)
    attention = {key: tensor for key, tensor in state.items() if "attn" in key}
    assert merger.merge(attention) == 16
    for name, weight in weights.items():
        assert torch.equal(weight, pristine[name]) == ("mlp" in name)


Q = "diffusion_model.blocks.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no LoRA tensors"),
        ({f"{Q}.lora_A.weight": (4, 128)}, "only one half"),
        ({f"{Q}.lora_A.weight": (4, 128), f"{Q}.lora_B.weight": (128, 5)}, "do not multiply"),
        ({f"{Q}.lora_A.weight": (4, 128), f"{Q}.lora_B.weight": (64, 4)}, "does not fit the sizes"),
        ({f"{Q}.lora_A.weight": (4, 64), f"{Q}.lora_B.weight": (128, 4)}, "does not fit the sizes"),
        ({f"{Q}.lora_A.weight": (4, 128), f"{Q}.lora_B.weight": (128, 4), f"{Q}.alpha": (2,)}, "alpha that is not one"),
        ({f"{Q}.lora_A.weight": (4, 128), f"{Q}.lora_B.weight": (128, 4), f"{Q}.bias": (128,)}, "keys other than"),
        ({"lora_unet_blocks_0_self_attn_q_proj.lora_down.weight": (4, 128)}, "only one half"),
        ({"transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": (4, 128)}, "only one half"),
        (
            {
                f"{Q.replace('.0.', '.2.')}.lora_A.weight": (4, 128),
                f"{Q.replace('.0.', '.2.')}.lora_B.weight": (128, 4),
            },
            r"no targets of this base: diffusion_model\.blocks\.2",
        ),
        (
            {
                "diffusion_model.llm_adapter.blocks.0.self_attn.q_proj.lora_A.weight": (4, 64),
                "diffusion_model.llm_adapter.blocks.0.self_attn.q_proj.lora_B.weight": (64, 4),
            },
            "adapts the text conditioner, which takes part in no merging here",
        ),
    ],
)
def test_adapters_that_do_not_fit_are_refused_before_anything_is_written(
    state: dict[str, tuple[int, ...]], message: str
) -> None:
    model = tiny_transformer()
    merger = Merger(model)
    good = adapter_state(trained())
    merger.merge(good)
    merged = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(AdapterError, match=message) as refusal:
        merger.merge({key: torch.ones(shape) for key, shape in state.items()}, where="epoch-0003")
    assert str(refusal.value).startswith("epoch-0003: ")
    assert all(torch.equal(tensor, merged[name]) for name, tensor in model.state_dict().items())


def test_a_weight_that_is_no_number_is_refused() -> None:
    merger = Merger(tiny_transformer())
    with pytest.raises(ValueError, match="finite"):
        merger.merge(adapter_state(trained()), float("nan"))
