"""A trial in memory: the loaded base with its adapter, the optimizer, the caches, and where it stands."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from anima.base import base_folder
from anima.load import Base, load_base
from orchestrator.core.fence import Fence
from orchestrator.core.layout import Layout
from trainer.adaptation import Adaptation, adapt
from trainer.balance import Exposures, exposures_after, showings
from trainer.buckets import Fit
from trainer.cache import LatentCache, View, identities
from trainer.captions import as_written, drawn_caption, is_mirrored, may_be_mirrored
from trainer.dataset import Dataset
from trainer.exposure import Batch, Exposure, batches, epoch_generator, epoch_order, steps, steps_per_epoch
from trainer.facts import StepLogged
from trainer.guards import NotFinite
from trainer.identity import trial_id
from trainer.job import TrialJob
from trainer.memory import (
    Economy,
    Largest,
    arrange,
    compile_blocks,
    economy_of,
    is_out_of_memory,
    peak_memory_mb,
    send_away,
)
from trainer.metrics import by_character, log_step, trim
from trainer.optimizers import make_optimizer, memory_of, remember
from trainer.samples import plan_samples
from trainer.schedule import learning_rate_at
from trainer.states import Origin, Place, newest_state, save_state
from trainer.step import Outcome, Shown, StepMaker
from trainer.team import OneRow, Team
from trainer.text import FrozenText, Text, TrainedText


class Session:
    """Trains epochs of one trial. Between any two steps it can be saved, and wound back to what was saved."""

    def __init__(
        self, job: TrialJob, layout: Layout, dataset: Dataset, fits: Sequence[Fit], team: Team, fence: Fence
    ) -> None:
        self.job, self.layout, self.dataset, self.team, self.fence = job, layout, dataset, team, fence
        self._config = config = job.train
        self._fits = fits
        self.base = _load(job)
        known = identities(base_folder(job.base), job.base_sha256)
        self._latents = LatentCache(layout.cache, self.base, known.vae, dataset.root)
        self._latents.prepare(team.share(sorted(self._views(), key=repr)))
        send_away(self.base.device, [self.base.codec.vae])
        self.adaptation: Adaptation = adapt(self.base, config)
        kind = TrainedText if self.adaptation.trains_text else FrozenText
        self._text: Text = kind(layout.cache, self.base, known.text)
        self._prepare_text()
        team.wait()
        self.samples = plan_samples(self.adaptation, layout, job.trial, config, dataset, job.triggers)
        self._optimizer = make_optimizer(self.adaptation.parameters, config)
        self._fresh: tuple[Tensor, ...] = tuple(p.detach().cpu().clone() for p in self.adaptation.parameters)
        self.economy: Economy = economy_of(config, self.base, self._adapter_bytes(), self._largest())
        if config.compile:
            compile_blocks(self.base.transformer)
        self._sizes = {i: fitted.size for i, fitted in enumerate(fits)}
        self.steps_per_epoch = steps_per_epoch(self._shown(1), self._sizes, config.batch, config.grad_accum)
        settings = trial_id(
            "", config, triggers=job.triggers, dataset_sha256=dataset.sha256, base_sha256=job.base_sha256
        )
        self.origin = Origin(job.trial, settings, dataset.sha256, job.base_sha256, known.vae, known.text)
        self.step = 0
        """Optimizer steps done."""
        self._epoch, self._done = 0, 0
        self._seconds, self._losses = 0.0, list[float]()
        self._begin(0)

    def rewind(self, *, before: int) -> int:
        """Go back to the last state from which epoch `before` can be trained, or to the start; gives the next epoch."""
        found = newest_state(self.layout, self.origin, before=before)
        self.team.wait()
        self._optimizer.zero_grad()
        if found is None:
            self.adaptation.set(self._fresh)
            self._optimizer = make_optimizer(self.adaptation.parameters, self._config)
            self.step = 0
            self._begin(0)
        else:
            self._load(*found)
        if self.team.leads:
            trim(self.layout.metrics(self.job.trial), after=self.step)
        return self._epoch + 1 if self._done in (0, self.steps_per_epoch) else self._epoch

    def epoch(self, epoch: int) -> Iterator[StepLogged]:
        """Train what is left of an epoch, one optimizer step at a time.

        Raises NotFinite, before the optimizer sees it, for a loss or gradient that is not.
        """
        if epoch != self._epoch:
            self._begin(epoch)
        config = self._config
        arrange(self.base, self.economy)
        full = batches(self._order, self._sizes, config.batch, seed=config.seed * 1_000_003 + epoch)
        left = steps(full, config.grad_accum)[self._done :]
        self._expect_captions(left)
        for parts in left:
            began = time.monotonic()
            rate = learning_rate_at(self.step, config.epochs * self.steps_per_epoch, config)
            outcome = self._optimize(parts, rate)
            seconds = time.monotonic() - began
            self.step, self._done = self.step + 1, self._done + 1
            self._losses.append(loss := float(outcome.loss))
            self._seconds += seconds
            items = [self.dataset.items[exposure.item] for part in parts for exposure in part]
            fact = StepLogged(
                self.job.trial, epoch, self.step, self.steps_per_epoch, loss, rate, seconds,
                by_character(items, outcome.errors.tolist()), peak_memory_mb(self.base.device),
            )  # fmt: skip
            if self.team.leads:
                log_step(self.layout.metrics(self.job.trial), fact)
            yield fact

    @property
    def place(self) -> Place:
        """Where the session stands."""
        return Place(self._epoch, self._done, self._done == self.steps_per_epoch, self.step)

    @property
    def mean_loss(self) -> float:
        """Over the steps of this epoch."""
        return sum(self._losses) / len(self._losses)

    @property
    def exposures(self) -> Exposures:
        """Of all epochs up to this one, as if it were whole."""
        return exposures_after(self.dataset, self._config.balance, self._epoch)

    @property
    def seconds(self) -> float:
        """Spent on the steps of this epoch."""
        return self._seconds

    def save(self) -> None:
        """Write the training state."""
        save_state(self.layout, self.place, self.origin, self._state())

    def spare_memory(self) -> None:
        """Make do with less: to be called when memory ran out, before rewinding."""
        self.economy = self.economy.spared(self._config.batch)
        self._optimizer.zero_grad(set_to_none=True)
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()

    def _shown(self, epoch: int) -> tuple[int, ...]:
        return showings(self.dataset, self._config.balance, epoch)

    def _begin(self, epoch: int) -> None:
        self._epoch, self._done, self._seconds, self._losses = epoch, 0, 0.0, []
        self._generator = epoch_generator(self._config.seed, epoch)
        self._order = epoch_order(self._shown(max(epoch, 1)), self._generator)

    def _optimize(self, parts: Sequence[Batch], rate: float) -> Outcome:
        maker = StepMaker(self.base, self._latents, self._text, self._config, self.team, self._show, self.economy.micro)
        before = self._generator.get_state()
        outcome = self._together(maker, parts)
        parameters = self.adaptation.parameters
        self._check("loss", outcome.errors.isfinite(), parts)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._config.clip_norm)
        if not norm.isfinite():
            self._check("gradient", self._finite_alone(maker, parts, before), parts)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return outcome

    def _together(self, maker: StepMaker, parts: Sequence[Batch]) -> Outcome:
        """The gradients of the whole step, summed over the team. Memory that runs out anywhere runs out everywhere."""
        if self.team.size == 1:
            return maker.gradients(parts, self._generator)
        device, pictures = self.base.device, sum(map(len, parts))
        lacking = torch.zeros(1, device=device)
        outcome = Outcome(torch.zeros((), dtype=torch.float64), torch.zeros(pictures))
        try:
            outcome = maker.gradients(parts, self._generator)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            lacking += 1
        self.team.add_up([lacking])
        if lacking.item():
            raise torch.OutOfMemoryError(f"{int(lacking.item())} of the team's processes ran out of memory")
        parameters = self.adaptation.parameters
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        summed = Outcome(outcome.loss.to(device), outcome.errors.to(device))
        self.team.add_up([summed.loss, summed.errors, *(p.grad for p in parameters if p.grad is not None)])
        return Outcome(summed.loss.cpu(), summed.errors.cpu())

    def _finite_alone(self, maker: StepMaker, parts: Sequence[Batch], generator_state: Tensor) -> Tensor:
        """Whose gradient is finite, picture by picture in the same step. Nobody's, if only their sum is not."""
        found = []
        for number, part in enumerate(parts):
            for row in range(len(part)):
                self._optimizer.zero_grad()
                self._generator.set_state(generator_state)
                replace(maker, team=OneRow(part=number, row=row)).gradients(parts, self._generator)
                grads = [p.grad for p in self.adaptation.parameters if p.grad is not None]
                found.append(bool(torch.nn.utils.get_total_norm(grads).isfinite()))
        finite = torch.tensor(found)
        return torch.zeros_like(finite) if finite.all() else finite

    def _check(self, what: str, finite: Tensor, parts: Sequence[Batch]) -> None:
        """Raise NotFinite with the pictures that are not."""
        if not bool(finite.all()):
            exposures = [exposure for part in parts for exposure in part]
            bad = [exposure.item for exposure, fine in zip(exposures, finite.tolist(), strict=True) if not fine]
            files = sorted({self.dataset.items[item].file for item in bad})
            raise NotFinite(what, self._epoch, self.step + 1, files)

    def _show(self, exposure: Exposure) -> Shown:
        item, place = self.dataset.items[exposure.item], {"epoch": self._epoch, "position": exposure.position}
        view = View(item, self._fits[exposure.item].size, is_mirrored(item, self._config, **place))
        return Shown(view, drawn_caption(item, self._config, self.job.triggers, **place))

    def _views(self) -> Iterator[View]:
        """Every way a picture will be shown."""
        for item, fitted in zip(self.dataset.items, self._fits, strict=True):
            yield View(item, fitted.size, flip=False)
            if self._config.flip_augment and may_be_mirrored(item):
                yield View(item, fitted.size, flip=True)

    def _largest(self) -> Largest:
        width, height = max((fitted.size for fitted in self._fits), key=lambda size: size[0] * size[1])
        return Largest(width, height, self._text.get([""]).detach())

    def _adapter_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.adaptation.parameters)

    def _prepare_text(self) -> None:
        if as_written(self._config):
            captions = {"", *(caption.text for item in self.dataset.items for caption in item.captions)}
            self._text.prepare(self.team.share(sorted(captions)))
        else:
            # What the captions come to is known epoch by epoch.
            self._text.prepare(self.team.share([""]))
        self._encoders_leave()

    def _expect_captions(self, parts: Sequence[Sequence[Batch]]) -> None:
        """Encode the captions that are drawn for these steps."""
        if not as_written(self._config):
            self._text.expect(self._show(exposure).caption for step in parts for part in step for exposure in part)
            self._encoders_leave()

    def _encoders_leave(self) -> None:
        """All that is left of their work is in our caches; a GPU's memory is better used."""
        if self.base.device.type == "cuda":
            send_away(self.base.device, self._text.encoders)
            self.base.text.forget()

    def _state(self) -> dict[str, Tensor]:
        state = {
            "losses": torch.tensor(self._losses, dtype=torch.float64),
            "seconds": torch.tensor(self._seconds, dtype=torch.float64),
            "generator": self._generator.get_state(),
        }
        state |= {f"{i}.value": parameter for i, parameter in enumerate(self.adaptation.parameters)}
        memory = memory_of(self._optimizer, self.adaptation.parameters)
        return state | {f"optimizer.{name}": value for name, value in memory.items()}

    @torch.no_grad()
    def _load(self, place: Place, state: dict[str, Tensor]) -> None:
        self.adaptation.set(tuple(state[f"{i}.value"] for i in range(len(self.adaptation.parameters))))
        memory = {key.removeprefix("optimizer."): v for key, v in state.items() if key.startswith("optimizer.")}
        remember(self._optimizer, self.adaptation.parameters, memory)
        self._begin(place.epoch)
        self._done, self.step = place.steps, place.step
        self._losses, self._seconds = state["losses"].tolist(), float(state["seconds"])
        self._generator.set_state(state["generator"])


def _load(job: TrialJob) -> Base:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if job.train.dtype == "bf16" else torch.float32
    return load_base(Path(base_folder(job.base)), device=device, dtype=dtype)
