"""One optimizer step: exposures to latents and conditionings, noise, the transformer's guess, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from anima.flow import add_noise, velocity_target
from anima.load import Base
from trainer.cache import LatentCache, View
from trainer.config import TrainConfig
from trainer.exposure import Batch, Exposure
from trainer.noise import Draws, draw, loss_weights
from trainer.team import Team
from trainer.text import Text


@dataclass(frozen=True, slots=True)
class Shown:
    """What one exposure trains with."""

    view: View
    caption: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one step: the loss that was minimised, and each exposure's own squared error, in the order of the step."""

    loss: Tensor
    errors: Tensor
    """(pictures,) fp32 on the CPU; 0 where another process of the team has the picture."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """A picture of the step: its place there, what it trains with, and what was drawn for it."""

    place: int
    shown: Shown
    draws: Draws


@dataclass(frozen=True, slots=True)
class StepMaker:
    """Computes gradients; whoever calls it makes the step. Up to `micro` pictures of one size pass at once."""

    base: Base
    latents: LatentCache
    text: Text
    config: TrainConfig
    team: Team
    show: Callable[[Exposure], Shown]
    micro: int

    def gradients(self, parts: Sequence[Batch], generator: torch.Generator) -> Outcome:
        """Add to the parameters' gradients those of the mean loss over all pictures of the step, however they split."""
        pictures = sum(map(len, parts))
        loss, errors = torch.zeros((), dtype=torch.float64), torch.zeros(pictures)
        for taken in _passes(list(self._taken(parts, generator)), self.micro):
            mean, each = self._loss([one.shown for one in taken], _together([one.draws for one in taken]))
            (mean * (len(taken) / pictures)).backward()
            loss += mean.item() * len(taken) / pictures
            errors[[one.place for one in taken]] = each
        return Outcome(loss, errors)

    def _taken(self, parts: Sequence[Batch], generator: torch.Generator) -> Iterator[_Taken]:
        """This process's pictures of the step, in order."""
        start = 0
        for number, part in enumerate(parts):
            shown = [self.show(exposure) for exposure in part]
            # Drawn for the whole batch by everybody: the numbers must not depend on who takes what.
            draws = draw(self._shape(shown), generator, self.config)
            for row in self.team.rows(number, len(parts), len(part)):
                one = Draws(draws.noise[row : row + 1], draws.sigmas[row : row + 1], (draws.dropped[row],))
                yield _Taken(start + row, shown[row], one)
            start += len(part)

    def _shape(self, shown: Sequence[Shown]) -> torch.Size:
        return torch.Size((len(shown), *self.base.codec.latent_shape(*shown[0].view.size)))

    def _loss(self, shown: Sequence[Shown], draws: Draws) -> tuple[Tensor, Tensor]:
        """The mean weighted loss of some pictures of one size, and each one's unweighted error."""
        base = self.base
        clean = self.latents.get([s.view for s in shown])
        captions = ["" if dropped else s.caption for s, dropped in zip(shown, draws.dropped, strict=True)]
        conditions = self.text.get(captions)
        noisy = add_noise(clean, draws.noise, draws.sigmas).to(base.device, base.dtype)
        with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
            predicted = base.transformer(noisy, draws.sigmas.to(base.device), conditions, return_dict=False)[0]
        squared = (predicted.float() - velocity_target(clean, draws.noise).to(base.device)).square()
        each = squared.flatten(1).mean(dim=1)
        weights = self._weights(shown, draws.sigmas)
        # Without weights the mean is taken at once: another order of summation would be another number.
        mean = squared.mean() if weights is None else (each * weights.to(base.device)).mean()
        return mean, each.detach().cpu()

    def _weights(self, shown: Sequence[Shown], sigmas: Tensor) -> Tensor | None:
        config = self.config
        own = [config.regularisation_weight if s.view.item.regularisation else 1.0 for s in shown]
        if config.loss_weighting == "none" and set(own) == {1.0}:
            return None
        return loss_weights(sigmas, config.loss_weighting) * torch.tensor(own)


def _passes(taken: Sequence[_Taken], micro: int) -> Iterator[Sequence[_Taken]]:
    """Neighbours of one size, at most so many: what passes through the transformer at once."""
    for _, alike in groupby(taken, key=lambda one: one.shown.view.size):
        same_size = list(alike)
        yield from (same_size[start : start + micro] for start in range(0, len(same_size), micro))


def _together(draws: Sequence[Draws]) -> Draws:
    dropped = tuple(whether for one in draws for whether in one.dropped)
    return Draws(torch.cat([one.noise for one in draws]), torch.cat([one.sigmas for one in draws]), dropped)
