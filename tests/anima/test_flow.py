"""The flow's formulas against the published numbers, and noise that depends on nothing but its arguments."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from anima.flow import (
    add_noise,
    comfyui_step_noise,
    guided,
    initial_noise,
    linspace_sigmas,
    schedule_sigmas,
    shift,
    simple_sigmas,
    step_noise,
    training_sigmas,
    velocity_target,
)

SIMPLE_30 = """1.0 .9888 .9770 .9643 .9514 .9378 .9231 .9081 .8922 .8750 .8573 .8386 .8182 .7971 .7747 .7500 .7244 .6970
.6667 .6349 .6007 .5625 .5222 .4782 .4286 .3756 .3170 .2500 .1772 .0955 0"""


def test_shift_keeps_the_ends_and_moves_the_middle() -> None:
    assert [shift(3.0, u) for u in (0.0, 0.5, 1.0)] == [0.0, 0.75, 1.0]
    assert shift(1.0, 0.37) == pytest.approx(0.37)
    assert torch.equal(shift(3.0, torch.tensor([0.5])), torch.tensor([0.75]))


def test_simple_schedule_is_comfyuis_table() -> None:
    assert simple_sigmas(30) == pytest.approx([float(s) for s in SIMPLE_30.split()], abs=5e-5)


@pytest.mark.parametrize("steps", [8, 20, 25, 40, 50])
def test_both_schedules_agree_where_steps_divide_the_table(steps: int) -> None:
    assert simple_sigmas(steps) == pytest.approx(linspace_sigmas(steps), abs=1e-12)


def test_both_schedules_differ_by_the_rounding_of_the_table_elsewhere() -> None:
    gap = [max(abs(a - b) for a, b in zip(simple_sigmas(n), linspace_sigmas(n), strict=True)) for n in (28, 30)]
    assert gap == pytest.approx([0.0017, 0.0018], abs=6e-5)


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_linspace_schedule_is_the_one_diffusers_makes(steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
    assert linspace_sigmas(steps) == pytest.approx(scheduler.sigmas.tolist(), abs=1e-6)


@pytest.mark.parametrize("schedule", [simple_sigmas, linspace_sigmas])
def test_schedules_fall_from_one_to_zero(schedule: object) -> None:
    assert callable(schedule)
    for steps in range(1, 101):
        sigmas = schedule(steps)
        assert len(sigmas) == steps + 1
        assert (sigmas[0], sigmas[-1]) == (1.0, 0.0)
        assert list(sigmas) == sorted(set(sigmas), reverse=True)
    with pytest.raises(ValueError, match="steps"):
        schedule(0)


def test_noising_and_velocity_are_two_sides_of_one_line() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 1, 2, 2, generator=generator)
    sigma = torch.tensor([0.0, 0.25, 1.0])
    x = add_noise(x0, noise, sigma)
    assert torch.equal(x[0], x0[0])
    assert torch.equal(x[2], noise[2])
    torch.testing.assert_close(x[1], 0.75 * x0[1] + 0.25 * noise[1])
    torch.testing.assert_close(x - sigma.view(3, 1, 1, 1, 1) * velocity_target(x0, noise), x0)


def test_guidance_of_one_is_the_prompt_alone() -> None:
    negative, positive = torch.tensor([1.0]), torch.tensor([3.0])
    assert guided(negative, positive, 1.0).item() == 3.0
    assert guided(negative, positive, 4.0).item() == 9.0


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_training_sigmas_follow_their_generator_and_their_shift(s: float) -> None:
    sigmas = training_sigmas(20_000, torch.Generator().manual_seed(5), s)
    assert torch.equal(sigmas, training_sigmas(20_000, torch.Generator().manual_seed(5), s))
    assert 0 < sigmas.min() < sigmas.max() < 1
    assert sigmas.median().item() == pytest.approx(s / (1 + s), abs=0.01)
    # sigmoid of the normal's quartiles, -0.6745 and 0.6745
    quartiles = [shift(s, torch.sigmoid(torch.tensor(z)).item()) for z in (-0.6745, 0.6745)]
    assert torch.quantile(sigmas, torch.tensor([0.25, 0.75])).tolist() == pytest.approx(quartiles, abs=0.01)


def test_initial_noise_is_what_a_seeded_batch_of_one_draws() -> None:
    shape = (16, 1, 24, 16)
    torch.manual_seed(1234)
    comfy = torch.randn((1, *shape))
    assert torch.equal(initial_noise(1234, shape), comfy[0])


def test_noise_neither_reads_nor_moves_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = (initial_noise(7, (8,)), step_noise(7, 3, (8,)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first[0], initial_noise(7, (8,)))
    assert torch.equal(first[1], step_noise(7, 3, (8,)))


def test_noise_of_every_seed_and_step_is_its_own() -> None:
    draws = [initial_noise(seed, (64,)) for seed in range(20)]
    draws += [step_noise(seed, step, (64,)) for seed in range(20) for step in range(10)]
    stacked = torch.stack(draws)
    correlation = torch.corrcoef(stacked) - torch.eye(len(draws))
    assert correlation.abs().max() < 0.7
    assert stacked.mean().abs() < 0.03
    assert stacked.std().item() == pytest.approx(1.0, abs=0.03)


def test_schedules_are_chosen_by_name() -> None:
    assert schedule_sigmas("simple", 30, 2.0) == simple_sigmas(30, 2.0)
    assert schedule_sigmas("linspace", 30, 2.0) == linspace_sigmas(30, 2.0)
    assert simple_sigmas(30) != linspace_sigmas(30)
    assert max(abs(a - b) for a, b in zip(simple_sigmas(30), linspace_sigmas(30), strict=True)) < 0.0019


def test_comfyuis_noise_is_one_sequence_that_begins_at_the_next_seed_on_a_cpu() -> None:
    shape, cpu = (16, 1, 6, 4), torch.device("cpu")
    torch.manual_seed(43)
    sequence = [torch.randn((1, *shape))[0] for _ in range(5)]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for step in (3, 0, 4, 1, 2):
        assert torch.equal(comfyui_step_noise(42, step, shape, cpu), sequence[step])
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
