"""From noise to a latent: Euler and ER-SDE-3, both written as a table of numbers and one short loop.

Each step of either sampler is linear in what it knows: the current x, the latest estimates D of the clean latent
(D = x - sigma v), and fresh noise. So a sampler *is* its coefficients, worked out once in double precision; the loop
only multiplies and adds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from anima.flow import SHIFT, shift

Sampler = Literal["euler", "er_sde"]

_BEGIN = 0.9999
"""ER-SDE divides by 1 - sigma, so a schedule that begins at 1 begins at shift(s, this) instead (ComfyUI's offset)."""

_INTEGRATION_POINTS = 200


@dataclass(frozen=True, slots=True)
class Step:
    """x <- keep x + sum_k weights[k] D[k] + noise epsilon; D[0] is the estimate at `sigma`, D[1] the one before it."""

    sigma: float
    """What the model is called with."""
    keep: float
    weights: tuple[float, ...]
    noise: float = 0.0


def sample(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    sampler: Sampler,
    step_noise: Callable[[int], Tensor],
    s: float = SHIFT,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Integrate from `noise` at sigmas[0] to a latent at 0; gives (B, ...), fp32, on the device of `noise`.

    velocity: (x (B, ...) fp32, sigma) -> (B, ...), with guidance already applied; any dtype.
    noise: (B, ...), the samples' own starting noise, stacked.
    sigmas: N + 1 falling numbers, the last of them 0.
    step_noise: step (0-based) -> (B, ...), the samples' own noise for it, stacked; called for every step of `er_sde`
        but the last, never for `euler`.
    s: the shift of the schedule; it sets where `er_sde` begins.
    on_step: called after each step with its number and D (B, ...), the latent as it is guessed then.
    Raises ValueError for sigmas that do not fall to 0.
    """
    x = noise.float()
    known: deque[Tensor] = deque(maxlen=3)
    with torch.no_grad():
        for number, step in enumerate(plan(tuple(float(sigma) for sigma in sigmas), sampler, s)):
            known.appendleft(x - step.sigma * velocity(x, step.sigma).float())
            x = step.keep * x
            for weight, estimate in zip(step.weights, known, strict=False):
                x = torch.add(x, estimate, alpha=weight)
            if step.noise:
                x = torch.add(x, step_noise(number).to(x), alpha=step.noise)
            if on_step is not None:
                on_step(number, known[0])
    return x


@lru_cache(maxsize=64)
def plan(sigmas: tuple[float, ...], sampler: Sampler, s: float = SHIFT) -> tuple[Step, ...]:
    """The coefficients of every step; `s` as for `sample`. The last step of both samplers is x = D."""
    falling = all(a > b for a, b in pairwise(sigmas))
    if len(sigmas) < 2 or not falling or sigmas[0] > 1 or sigmas[-1] != 0:
        raise ValueError(f"sigmas must fall from at most 1 to 0, not {sigmas}")
    return _euler(sigmas) if sampler == "euler" else _er_sde(sigmas, shift(s, _BEGIN))


def _euler(sigmas: tuple[float, ...]) -> tuple[Step, ...]:
    """x + (sigma_t - sigma_s) v, written with D."""
    ratios = [(here, there / here) for here, there in pairwise(sigmas)]
    return tuple(Step(sigma, keep=r, weights=(1 - r,)) for sigma, r in ratios)


def _er_sde(sigmas: tuple[float, ...], begin: float) -> tuple[Step, ...]:
    """ER-SDE-Solver-3 (arXiv 2309.06169) on lambda = sigma / (1 - sigma), as ComfyUI's `er_sde` runs it."""
    sigmas = (begin, *sigmas[1:]) if sigmas[0] >= 1 else sigmas
    if sigmas[1] >= sigmas[0]:
        raise ValueError(f"er_sde begins at {sigmas[0]:.8f}; the second sigma, {sigmas[1]:.8f}, is not below it")
    lambdas = [sigma / (1 - sigma) for sigma in sigmas]
    inner = [_er_sde_step(sigmas[i], lambdas, i) for i in range(len(sigmas) - 2)]
    return (*inner, Step(sigmas[-2], keep=0.0, weights=(1.0,)))


def _er_sde_step(sigma: float, lambdas: list[float], i: int) -> Step:
    """From lambda_s = lambdas[i] to lambda_t = lambdas[i + 1]; stage 2 needs one earlier estimate, stage 3 two."""
    ls, lt = lambdas[i], lambdas[i + 1]
    alpha_s, alpha_t = 1 / (1 + ls), 1 / (1 + lt)
    r = _phi(lt) / _phi(ls)
    w0, w1, w2 = alpha_t * (1 - r), 0.0, 0.0
    delta = lt - ls
    h = -delta / _INTEGRATION_POINTS
    grid = [lt + k * h for k in range(_INTEGRATION_POINTS)]
    if i >= 1:
        # d = (D0 - D1) / span, the slope of D over lambda.
        area = h * math.fsum(1 / _phi(point) for point in grid)
        slope = alpha_t * (delta + area * _phi(lt))
        span = ls - lambdas[i - 1]
        w0, w1 = w0 + slope / span, w1 - slope / span
    if i >= 2:
        # u = (d - d of the step before) / reach, the change of that slope.
        moment = h * math.fsum((point - ls) / _phi(point) for point in grid)
        bend = alpha_t * (delta**2 / 2 + moment * _phi(lt))
        reach = (ls - lambdas[i - 2]) / 2
        before = lambdas[i - 1] - lambdas[i - 2]
        w0 += bend / (reach * span)
        w1 -= bend / reach * (1 / span + 1 / before)
        w2 += bend / (reach * before)
    variance = lt**2 - (ls * r) ** 2
    return Step(sigma, alpha_t / alpha_s * r, (w0, w1, w2)[: min(i, 2) + 1], alpha_t * math.sqrt(max(variance, 0.0)))


def _phi(lam: float) -> float:
    """The noise scale function of ER-SDE: lambda (exp(lambda^0.3) + 10)."""
    return lam * (math.exp(lam**0.3) + 10)
