"""Samplers against an exactly solvable toy and against the published stages of ER-SDE-3 written out one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from anima.flow import Schedule, initial_noise, schedule_sigmas, simple_sigmas, step_noise
from anima.samplers import Sampler, plan, sample

MEAN, STD, COUNT = 0.5, 0.3, 100_000


def gaussian_velocity(x: Tensor, sigma: float) -> Tensor:
    """E[noise - x0 | x] for data N(MEAN, STD^2): the velocity a perfect model would predict."""
    alpha = 1 - sigma
    variance = (alpha * STD) ** 2 + sigma**2
    surprise = (x - alpha * MEAN) / variance
    return sigma * surprise - (MEAN + alpha * STD**2 * surprise)


def bent_velocity(x: Tensor, sigma: float) -> Tensor:
    """The same, made nonlinear in x, so that all three stages of ER-SDE matter."""
    return gaussian_velocity(x, sigma) + 0.3 * sigma * torch.sin(4 * x)


def noises(seed: int, shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    return lambda step: step_noise(seed, step, shape)


def toy_std(sampler: Sampler, steps: int, schedule: Schedule = "simple") -> float:
    x = sample(
        gaussian_velocity,
        initial_noise(1, (COUNT,)),
        schedule_sigmas(schedule, steps),
        sampler=sampler,
        step_noise=noises(1, (COUNT,)),
    )
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    return x.std().item()


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [("er_sde", (0.165, 0.259, 0.280, 0.295)), ("euler", (0.162, 0.239, 0.258, 0.274))],
)
def test_toy_gaussian_converges_as_published(sampler: Sampler, expected: tuple[float, ...]) -> None:
    # The standard error of a standard deviation of 0.3 over 100,000 samples is 0.0007.
    assert [toy_std(sampler, steps) for steps in (8, 20, 30, 50)] == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("schedule", ["simple", "linspace"])
def test_er_sde_converges_faster_than_euler(schedule: Schedule) -> None:
    for steps in (8, 20, 30, 50):
        assert STD - toy_std("er_sde", steps, schedule) < STD - toy_std("euler", steps, schedule)


def staged_er_sde(velocity: Callable[[Tensor, float], Tensor], x: Tensor, steps: int, seed: int) -> Tensor:
    """ER-SDE-3 in double precision, stage after stage, as the formulas are stated."""
    sigmas = [3 * 0.9999 / (1 + 2 * 0.9999), *simple_sigmas(steps)[1:]]
    lam = [s / (1 - s) for s in sigmas]
    guesses: list[Tensor] = []
    slopes: dict[int, Tensor] = {}

    def phi(value: Tensor) -> Tensor:
        return value * (torch.exp(value**0.3) + 10)

    for i in range(steps):
        guesses.append(x - sigmas[i] * velocity(x, sigmas[i]))
        if i == steps - 1:
            return guesses[i]
        here, there = (torch.tensor(v, dtype=torch.float64) for v in (lam[i], lam[i + 1]))
        alpha = 1 - sigmas[i + 1]
        ratio, jump = phi(there) / phi(here), there - here
        grid = there - jump / 200 * torch.arange(200, dtype=torch.float64)
        x = alpha / (1 - sigmas[i]) * ratio * x + alpha * (1 - ratio) * guesses[i]
        if i >= 1:
            slopes[i] = (guesses[i] - guesses[i - 1]) / (lam[i] - lam[i - 1])
            x = x + alpha * (jump + (-jump / 200 / phi(grid)).sum() * phi(there)) * slopes[i]
        if i >= 2:
            bend = (slopes[i] - slopes[i - 1]) / ((lam[i] - lam[i - 2]) / 2)
            x = x + alpha * (jump**2 / 2 + (-jump / 200 * (grid - here) / phi(grid)).sum() * phi(there)) * bend
        spread = torch.sqrt(there**2 - (here * ratio) ** 2)
        x = x + alpha * spread * step_noise(seed, i, x.shape).double()
    raise AssertionError("a schedule has a last step")


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 30, 50])
def test_coefficients_are_er_sde_written_out(steps: int) -> None:
    start = initial_noise(3, (500,))
    drawn = sample(bent_velocity, start, simple_sigmas(steps), sampler="er_sde", step_noise=noises(3, (500,)))
    expected = staged_er_sde(bent_velocity, start.double(), steps, 3)
    torch.testing.assert_close(drawn.double(), expected, rtol=0, atol=5e-6)


def test_coefficients_of_euler_are_eulers() -> None:
    x = initial_noise(3, (500,)).double()
    sigmas = simple_sigmas(12)
    drawn = sample(bent_velocity, x.float(), sigmas, sampler="euler", step_noise=noises(3, (500,)))
    for here, there in pairwise(sigmas):
        x = x + (there - here) * bent_velocity(x, here)
    torch.testing.assert_close(drawn.double(), x, rtol=0, atol=5e-6)


@pytest.mark.parametrize("sampler", ["euler", "er_sde"])
def test_every_number_of_steps_stays_finite(sampler: Sampler) -> None:
    start = initial_noise(0, (4, 2))
    for steps in range(1, 51):
        drawn = sample(bent_velocity, start, simple_sigmas(steps), sampler=sampler, step_noise=noises(0, (4, 2)))
        assert drawn.isfinite().all()


@pytest.mark.parametrize("sampler", ["euler", "er_sde"])
def test_a_sample_does_not_depend_on_its_batch(sampler: Sampler) -> None:
    shape, seeds = (4, 1, 6, 4), (11, 22, 33)

    def draw(chosen: tuple[int, ...]) -> Tensor:
        return sample(
            bent_velocity,
            torch.stack([initial_noise(s, shape) for s in chosen]),
            simple_sigmas(10),
            sampler=sampler,
            step_noise=lambda step: torch.stack([step_noise(s, step, shape) for s in chosen]),
        )

    together = draw(seeds)
    torch.manual_seed(99)
    for i, seed in enumerate(seeds):
        assert torch.equal(draw((seed,))[0], together[i])
    assert torch.equal(draw(seeds[::-1]), together.flip(0))
    assert not torch.allclose(together[0], together[1])


def test_er_sde_calls_the_model_below_one_and_the_noise_at_all_steps_but_the_last() -> None:
    called: list[float] = []
    noised: list[int] = []
    seen: list[tuple[int, Tensor]] = []

    def velocity(x: Tensor, sigma: float) -> Tensor:
        called.append(sigma)
        return gaussian_velocity(x, sigma).to(torch.bfloat16)

    def noise(step: int) -> Tensor:
        noised.append(step)
        return step_noise(0, step, (6,))

    final = sample(
        velocity,
        initial_noise(0, (6,)),
        torch.tensor(simple_sigmas(5)),
        sampler="er_sde",
        step_noise=noise,
        on_step=lambda number, guess: seen.append((number, guess)),
    )
    assert called == pytest.approx([0.99996667, *simple_sigmas(5)[1:-1]], abs=1e-7)
    assert noised == [0, 1, 2, 3]
    assert [number for number, _ in seen] == [0, 1, 2, 3, 4]
    assert torch.equal(seen[-1][1], final)
    assert final.dtype == torch.float32


def test_euler_asks_for_no_noise() -> None:
    def refuse(step: int) -> Tensor:
        raise AssertionError(f"euler asked for noise at step {step}")

    sample(gaussian_velocity, initial_noise(0, (6,)), simple_sigmas(5), sampler="euler", step_noise=refuse)


@pytest.mark.parametrize("sampler", ["euler", "er_sde"])
def test_the_last_step_is_the_estimate_itself(sampler: Sampler) -> None:
    last = plan(simple_sigmas(9), sampler)[-1]
    assert (last.keep, last.weights, last.noise) == (0.0, (1.0,), 0.0)


def test_weights_of_a_step_that_keeps_a_constant_estimate_agree() -> None:
    # With D constant, differences of D vanish: only stage 1 may be left, whatever the order.
    for step in plan(simple_sigmas(20), "er_sde")[:-1]:
        assert all(math.isfinite(w) for w in step.weights)
    stage_one = plan(simple_sigmas(20), "er_sde")[5]
    lam = [s / (1 - s) for s in simple_sigmas(20)[5:7]]
    ratio = (lam[1] * (math.exp(lam[1] ** 0.3) + 10)) / (lam[0] * (math.exp(lam[0] ** 0.3) + 10))
    assert sum(stage_one.weights) == pytest.approx((1 - ratio) / (1 + lam[1]), abs=1e-12)


@pytest.mark.parametrize("sigmas", [(), (1.0,), (1.0, 0.5), (0.5, 0.7, 0.0), (1.0, 1.0, 0.0), (1.5, 0.5, 0.0)])
def test_schedules_that_do_not_fall_to_zero_are_refused(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="sigmas must fall"):
        plan(sigmas, "euler")


@pytest.mark.parametrize(("s", "begin"), [(1.0, 0.9999), (3.0, 0.9999666644), (5.0, 0.9999799984)])
def test_er_sde_begins_at_its_own_shift_of_0_9999(s: float, begin: float) -> None:
    assert plan(simple_sigmas(8, s), "er_sde", s)[0].sigma == pytest.approx(begin, abs=1e-10)
    assert plan(simple_sigmas(8, s), "euler", s)[0].sigma == 1
    assert plan((0.9, 0.5, 0.0), "er_sde", s)[0].sigma == 0.9, "a schedule below 1 begins where it begins"
