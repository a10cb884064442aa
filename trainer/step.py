"""One optimizer step: exposures to latents and conditionings, noise, the transformer's guess, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
class StepMaker:
    """Computes gradients; whoever calls it makes the step. `micro` pictures pass through the transformer at once."""

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
        loss, errors, start = torch.zeros((), dtype=torch.float64), torch.zeros(pictures), 0
        for number, part in enumerate(parts):
            shown = [self.show(exposure) for exposure in part]
            # Drawn for the whole batch by everybody: the numbers must not depend on who takes what.
            draws = draw(self._shape(shown), generator, self.config)
            rows = self.team.rows(number, len(parts), len(part))
            for place in range(0, len(rows), self.micro):
                taken = list(rows[place : place + self.micro])
                mean, each = self._loss([shown[row] for row in taken], _of_rows(draws, taken))
                (mean * (len(taken) / pictures)).backward()
                loss += mean.item() * len(taken) / pictures
                errors[[start + row for row in taken]] = each
            start += len(part)
        return Outcome(loss, errors)

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


def _of_rows(draws: Draws, rows: Sequence[int]) -> Draws:
    return Draws(draws.noise[list(rows)], draws.sigmas[list(rows)], tuple(draws.dropped[row] for row in rows))
