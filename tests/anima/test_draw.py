"""Drawing against its own formulas, written out; and what company, guidance and noise may change, and what not."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from anima.base import POCKET
from anima.draw import Request, draw_latents
from anima.flow import initial_noise, shift, simple_sigmas, step_noise
from anima.load import Base, load_base
from anima.samplers import plan
from orchestrator.core.errors import ConfigError
from orchestrator.core.study import Drawing

PAIR = "2girls, left side: kanachan, right side: koharu, white background"
LONG = ", ".join(["blue ribbon"] * 60)


def small(**choices: Any) -> Drawing:
    return Drawing(width=64, height=48, **choices)


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(POCKET)


def velocities(base: Base, x: Tensor, sigma: float, texts: list[str]) -> Tensor:
    """By diffusers' own forward pass."""
    conditions = torch.stack([base.text.condition(text) for text in texts])
    return base.transformer(x, torch.full((len(texts),), sigma), conditions, return_dict=False)[0]


@torch.inference_mode()
def drawn_step_by_step(base: Base, requests: list[Request], drawing: Drawing) -> Tensor:
    """The defaults as they are defined: simple sigmas, noise by (seed, step), two passes for guidance."""
    shape = base.codec.latent_shape(drawing.width, drawing.height)
    x = torch.stack([initial_noise(r.seed, shape) for r in requests])
    guesses: list[Tensor] = []
    for number, step in enumerate(plan(simple_sigmas(drawing.steps, drawing.shift), drawing.sampler, drawing.shift)):
        v = velocities(base, x, step.sigma, [r.prompt for r in requests])
        if drawing.cfg != 1:
            away = velocities(base, x, step.sigma, [r.negative for r in requests])
            v = away + drawing.cfg * (v - away)
        guesses.insert(0, x - step.sigma * v)
        x = step.keep * x
        for weight, guess in zip(step.weights, guesses, strict=False):
            x = torch.add(x, guess, alpha=weight)
        if step.noise:
            x = torch.add(x, torch.stack([step_noise(r.seed, number, shape) for r in requests]), alpha=step.noise)
    return x


@pytest.mark.parametrize(
    "drawing",
    [
        small(steps=5),
        small(steps=5, sampler="euler"),
        small(steps=4, cfg=3.0),
        small(steps=4, sampler="euler", cfg=2.0, shift=1.5),
    ],
)
def test_the_defaults_draw_what_their_formulas_and_diffusers_say(base: Base, drawing: Drawing) -> None:
    requests = [Request(PAIR, seed, "1girl, solo") for seed in (1, 42, 7)]
    drawn, expected = draw_latents(base, requests, drawing), drawn_step_by_step(base, requests, drawing)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-4)


@torch.inference_mode()
def drawn_as_comfyui(base: Base, prompt: str, negative: str, seed: int, drawing: Drawing) -> Tensor:
    """One picture by ER-SDE with its noise taken from one generator as it goes; double precision but for the model."""
    shape = (1, *base.codec.latent_shape(drawing.width, drawing.height))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    generator = torch.Generator().manual_seed(seed + 1)
    sigmas = [shift(drawing.shift, 0.9999), *simple_sigmas(drawing.steps, drawing.shift)[1:]]
    ratios = torch.tensor([s / (1 - s) for s in sigmas], dtype=torch.float64)
    scales = ratios * ((ratios**0.3).exp() + 10)
    guesses: list[Tensor] = []
    slopes: list[Tensor] = []
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        towards = velocities(base, x.float(), sigma, [prompt]).double()
        away = velocities(base, x.float(), sigma, [negative]).double()
        guesses.append(x - sigma * (away + drawing.cfg * (towards - away)))
        if after == 0:
            return guesses[-1]
        alpha, here, there, r = 1 - after, ratios[i], ratios[i + 1], scales[i + 1] / scales[i]
        x = alpha / (1 - sigma) * r * x + alpha * (1 - r) * guesses[i]
        h = (here - there) / 200
        grid = there + h * torch.arange(200)
        inverse = h / (grid * ((grid**0.3).exp() + 10))
        if i >= 1:
            slopes.append((guesses[i] - guesses[i - 1]) / (here - ratios[i - 1]))
            x = x + alpha * (there - here + inverse.sum() * scales[i + 1]) * slopes[-1]
        if i >= 2:
            bend = (slopes[-1] - slopes[-2]) / ((here - ratios[i - 2]) / 2)
            moment = (inverse * (grid - here)).sum()
            x = x + alpha * ((there - here) ** 2 / 2 + moment * scales[i + 1]) * bend
        noise = torch.randn(shape, generator=generator).double()
        x = x + alpha * noise * (there**2 - (here * r) ** 2).sqrt().nan_to_num()
    raise AssertionError("a schedule has a last step")


def test_comfyuis_noise_draws_what_comfyui_would_at_batch_one(base: Base) -> None:
    drawing = small(steps=9, cfg=2.5, shift=2.0, noise="comfyui")
    requests = [Request(PAIR, seed, "1girl, solo") for seed in (3, 11)]
    drawn = draw_latents(base, requests, drawing)
    for latent, request in zip(drawn, requests, strict=True):
        expected = drawn_as_comfyui(base, request.prompt, request.negative, request.seed, drawing)[0]
        torch.testing.assert_close(latent.double(), expected, rtol=0, atol=1e-4)
    keyed = draw_latents(base, requests, small(steps=9, cfg=2.5, shift=2.0))
    assert (keyed - drawn).abs().max() > 0.1, "the two rules are two pictures"


def test_the_schedule_is_a_choice(base: Base) -> None:
    request = [Request(PAIR, 3)]

    def drawn(steps: int, schedule: str) -> Tensor:
        return draw_latents(base, request, small(sampler="euler", steps=steps, schedule=schedule))

    assert torch.equal(drawn(4, "simple"), drawn(4, "linspace")), "4 divides 1000"
    assert not torch.equal(drawn(6, "simple"), drawn(6, "linspace"))


def test_guidance_of_one_never_looks_at_the_negative_prompt(base: Base) -> None:
    drawing = small(steps=2)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    hook = base.transformer.proj_out.register_forward_hook(count)
    try:
        plain, warned = (draw_latents(base, [Request(PAIR, 1, n)], drawing) for n in ("", "1girl"))
        assert passes == 4
        draw_latents(base, [Request(PAIR, 1, "1girl")], small(steps=2, cfg=2.0))
        assert passes == 8
        draw_latents(base, [Request(PAIR, 1, "1girl")], small(steps=2, cfg=2.0), halves="joined")
        assert passes == 10
    finally:
        hook.remove()
    assert torch.equal(plain, warned)


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("negative", ["1girl, solo", LONG])
def test_both_halves_in_one_pass_draw_the_same_within_rounding(base: Base, batch: int, negative: str) -> None:
    drawing = small(steps=6, cfg=4.0)
    requests = [Request(PAIR, seed, negative) for seed in range(batch)]
    apart, joined = (draw_latents(base, requests, drawing, halves=halves) for halves in ("apart", "joined"))
    torch.testing.assert_close(joined, apart, rtol=0, atol=1e-4)


def test_a_long_prompt_in_the_batch_does_not_change_the_others(base: Base) -> None:
    """Zero rows up to another's length would: the transformer has no text mask."""
    minimum = base.text.conditioner.config.min_sequence_length
    assert base.text.condition(LONG).shape[0] > minimum
    drawing = small(steps=4)
    requests = [Request(PAIR, 1), Request(LONG, 2), Request("koharu", 3)]
    together = draw_latents(base, requests, drawing)
    for latent, request in zip(together, requests, strict=True):
        torch.testing.assert_close(latent, draw_latents(base, [request], drawing)[0], rtol=0, atol=1e-4)


def test_weights_of_a_prompt_change_its_picture(base: Base) -> None:
    drawing = small(steps=2)
    plain, heavy, escaped = (
        draw_latents(base, [Request(prompt, 1)], drawing)
        for prompt in ("koharu, blue ribbon", "koharu, (blue ribbon:1.5)", "koharu, \\(blue ribbon:1.5\\)")
    )
    assert not torch.equal(plain, heavy)
    assert not torch.equal(heavy, escaped)
    with pytest.raises(ConfigError, match="is not finite"):
        draw_latents(base, [Request("(koharu:inf)", 1)], drawing)


def test_every_step_is_told_as_it_happens(base: Base) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []
    drawing = small(steps=3)
    draw_latents(base, [Request(PAIR, 1)], drawing, on_step=lambda number, guess: seen.append((number, guess.shape)))
    assert seen == [(n, (1, *base.codec.latent_shape(64, 48))) for n in range(3)]


def test_sigma_reaches_the_model_unrounded_whatever_its_dtype() -> None:
    half = load_base(POCKET, dtype=torch.bfloat16)
    told: list[Tensor] = []
    half.transformer.time_embed.register_forward_pre_hook(lambda _module, inputs: told.append(inputs[1]))
    latents = draw_latents(half, [Request(PAIR, 1)], small(steps=3))
    assert latents.dtype == torch.float32
    [sigmas] = told
    assert sigmas.dtype == torch.float32
    assert sigmas.tolist() == [torch.tensor(step.sigma).item() for step in plan(simple_sigmas(3), "er_sde")]
