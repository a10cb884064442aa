"""Where exposures are trained and how much they count: the formulas, and the numbers of the default untouched."""

from __future__ import annotations

import math

import pytest
import torch

from anima import flow
from trainer.config import TrainConfig
from trainer.noise import draw, loss_weights, training_sigmas


def sigmas(count: int, **settings: object) -> torch.Tensor:
    return training_sigmas(count, torch.Generator().manual_seed(3), TrainConfig.model_validate(settings))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_by_default_sigmas_are_the_shifted_logit_normal(shift: float) -> None:
    expected = flow.training_sigmas(1000, torch.Generator().manual_seed(3), shift)
    assert torch.equal(sigmas(1000, sigma_shift=shift), expected)


def test_mean_and_spread_act_on_the_normal() -> None:
    drawn = torch.logit(sigmas(20_000, sigma_shift=1.0, sigma_mean=0.7, sigma_std=0.5))
    assert float(drawn.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.02)


def test_a_range_holds_all_sigmas_and_keeps_their_order() -> None:
    plain, moved = sigmas(5000), sigmas(5000, sigma_range=(0.2, 0.9))
    assert 0.2 <= float(moved.min()) < 0.5 < float(moved.max()) <= 0.9
    assert torch.allclose(moved, 0.2 + 0.7 * plain)


def test_draws_come_in_one_order_whatever_is_switched_on() -> None:
    shape = torch.Size((64, 2, 1, 3, 3))
    plain = draw(shape, torch.Generator().manual_seed(1), TrainConfig())
    dropped = draw(shape, torch.Generator().manual_seed(1), TrainConfig(caption_dropout=0.5))
    assert torch.equal(plain.noise, dropped.noise)
    assert torch.equal(plain.sigmas, dropped.sigmas)
    assert not any(plain.dropped)
    assert 16 < sum(dropped.dropped) < 48


def test_weights_are_their_formulas() -> None:
    at = torch.tensor([0.01, 0.3, 0.5, 0.8, 0.99])
    snr = ((1 - at) / at).square()
    # The predicted picture is x - sigma v, so its squared error is sigma^2 times that of v.
    assert torch.allclose(loss_weights(at, "min_snr"), torch.clamp(snr, max=5) * at.square())
    assert torch.allclose(loss_weights(at, "cosmap"), 2 / (math.pi * (1 - 2 * at + 2 * at * at)))
    assert torch.equal(loss_weights(at, "none"), torch.ones(5))
    assert bool(loss_weights(torch.tensor([0.0, 1.0]), "min_snr").isfinite().all())
