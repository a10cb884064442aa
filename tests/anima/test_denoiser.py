"""The pass that drawing makes is diffusers' own, prepared once per batch; compiled, it is so once for all adapters."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import CosmosTransformer3DModel
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from anima.denoiser import Denoiser, compiled, velocity
from anima.lora import Merger, inject
from tests.anima.random_adapter import linear_layers, peft_state, random_lora
from tests.anima.tiny_transformer import tiny_transformer

SHAPE = (16, 1, 8, 12)
SIGMAS = (0.99996667, 0.75, 0.3)


def texts(model: CosmosTransformer3DModel, count: int, rows: int = 20) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(rows, model.config.text_embed_dim, generator=generator) for _ in range(count)]


def noise(batch: int) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(batch))


def by_diffusers(model: nn.Module, x: Tensor, sigma: float, conditions: list[Tensor], dtype: torch.dtype) -> Tensor:
    times = torch.full((x.shape[0],), sigma)
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return model(x.to(dtype), times, torch.stack(conditions), return_dict=False)[0]


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_it_is_diffusers_forward_pass(dtype: torch.dtype, apart: float) -> None:
    model = tiny_transformer(dtype)
    assert model.patch_embed.proj.in_features == 4 * SHAPE[0], "the mask's columns are folded away, as when loading"
    conditions = [text.to(dtype) for text in texts(model, 3)]
    x, denoise = noise(3), Denoiser(model, conditions, SHAPE, SIGMAS, dtype)
    for sigma in SIGMAS:
        expected = by_diffusers(model, x, sigma, conditions, dtype).float()
        given = denoise(x, sigma).float()
        assert (given - expected).abs().max() <= apart * expected.abs().max()


def test_an_adapter_that_is_being_trained_takes_part() -> None:
    model = tiny_transformer()
    for parameter in inject(model, rank=2, alpha=2.0, seed=1).parameters:
        parameter.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(2))
    conditions, x = texts(model, 2), noise(2)
    given = Denoiser(model, conditions, SHAPE, SIGMAS, torch.float32)(x, 0.75)
    expected = by_diffusers(model, x, 0.75, conditions, torch.float32)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-4)


def test_a_sample_is_the_same_to_the_bit_at_any_place_beside_any_others() -> None:
    model = tiny_transformer()
    conditions, x = texts(model, 4), noise(4)
    together = Denoiser(model, conditions, SHAPE, SIGMAS, torch.float32)(x, 0.75)
    for order in ([3, 1, 0, 2], [0, 0, 0, 0], [2, 3, 2, 2]):
        mixed = Denoiser(model, [conditions[i] for i in order], SHAPE, SIGMAS, torch.float32)(x[order], 0.75)
        assert torch.equal(mixed, together[order])


def test_a_sigma_that_was_not_announced_is_an_error() -> None:
    model = tiny_transformer()
    with pytest.raises(KeyError):
        Denoiser(model, texts(model, 1), SHAPE, SIGMAS, torch.float32)(noise(1), 0.5)


@pytest.fixture
def counter() -> Iterator[CompileCounter]:
    torch._dynamo.reset()
    yield CompileCounter()
    torch._dynamo.reset()


def test_compiled_once_it_serves_every_step_prompt_and_adapter(counter: CompileCounter) -> None:
    """Counts what is handed to a compiler; that a graph runs as it is keeps the test quick and exact."""
    model = tiny_transformer()
    run = torch.compile(velocity, backend=counter, fullgraph=True, dynamic=False)
    merger, layers, x = Merger(model), linear_layers("transformer", model), noise(2)
    seen = []
    for seed in range(1, 4):
        merger.merge(peft_state(random_lora(model, layers, seed=seed)), 0.5 * seed)
        for conditions in (texts(model, 2), texts(model, 1) * 2):
            fast = Denoiser(model, conditions, SHAPE, SIGMAS, torch.float32, run=run)
            plain = Denoiser(model, conditions, SHAPE, SIGMAS, torch.float32)
            for sigma in SIGMAS:
                seen.append(fast(x, sigma))
                torch.testing.assert_close(seen[-1], plain(x, sigma), rtol=0, atol=1e-4)
    assert counter.frame_count == 1
    assert len({tensor.numpy().tobytes() for tensor in seen}) == len(seen), "weights, prompts and steps do count"


def test_more_shapes_than_torch_would_take_by_itself(counter: CompileCounter) -> None:
    """In a thread, as the engine draws: torch's own limits are settings of each thread."""
    model = tiny_transformer()
    run = compiled(counter)

    def draw(rows: int) -> Tensor:
        return Denoiser(model, texts(model, 1, rows), SHAPE, SIGMAS, torch.float32, run=run)(noise(1), 0.75)

    with ThreadPoolExecutor(1) as pool:
        list(pool.map(draw, [*range(4, 13), *range(4, 13)]))
    assert counter.frame_count == 9
