"""Train one LoRA: the frozen base, an adapter on every target layer, flow matching on cached latents, epoch by epoch.

`run_trial` is a plain generator of facts. It looks at the disk first and trains only the epochs that are missing there,
from the nearest earlier training state; every random draw is a function of (seed, epoch, position), so on one kind of
machine the resumed adapter is the uninterrupted one, bit for bit.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from anima.adapter_files import AdapterMetadata, write_adapter
from anima.base import base_folder
from anima.flow import add_noise, training_sigmas, velocity_target
from anima.load import Base, load_base
from anima.lora import InjectedAdapter, adapter_state, inject
from orchestrator.core.errors import ConfigError, DatasetError, StudyError
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint
from orchestrator.core.version import VERSION
from trainer.buckets import Fit, bucket_sizes, choose, fit
from trainer.cache import LatentCache, TextCache, View, identities
from trainer.captions import as_written, drawn_caption, is_mirrored, may_be_mirrored
from trainer.checkpoints import drop_old_states, intact_checkpoints, publish, saved_epochs, state_epochs, state_file
from trainer.config import DatasetConfig, TrainConfig
from trainer.dataset import Dataset, read_dataset
from trainer.exposure import Batch, Exposure, batches, epoch_generator, epoch_order, showings, steps, steps_per_epoch
from trainer.facts import CheckpointSaved, EpochStarted, StepLogged, TrialFact
from trainer.record import hold_to_record
from trainer.report import dataset_report

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrialJob:
    """Everything a trainer needs to know; picklable, and the same on every machine that shares the volume."""

    trial: str
    study_root: str
    base: str
    base_sha256: str
    dataset_root: str
    dataset: DatasetConfig
    train: TrainConfig
    triggers: tuple[str, ...]
    dataset_sha256: str = ""
    """What the dataset was when the trial was planned; empty takes it as it is."""


def run_trial(job: TrialJob) -> Iterator[TrialFact]:
    """Train what is missing on disk; yields facts as they become true. May be closed between any two of them.

    Raises DatasetError, MissingError, or StudyError when the loss stops being a number.
    """
    layout, config = Layout(Path(job.study_root)), job.train
    present = intact_checkpoints(layout, job.trial)
    missing = [e for e in saved_epochs(config.epochs, config.save_every) if e not in present]
    if not missing:
        return
    _prepare_torch(config.threads)
    trainer = _Trainer(job, layout, trial_dataset(job, layout))
    first = trainer.resume(before=missing[0])
    trainer.trim_metrics(after=first)
    for epoch in range(first + 1, missing[-1] + 1):
        yield EpochStarted(job.trial, epoch, trainer.steps_per_epoch)
        began = time.monotonic()
        losses = []
        for fact in trainer.epoch(epoch):
            losses.append(fact.loss)
            yield fact
        if epoch in missing:
            mean = sum(losses) / len(losses)
            yield CheckpointSaved(trainer.save(epoch, mean, time.monotonic() - began))


def trial_dataset(job: TrialJob, layout: Layout) -> Dataset:
    """The dataset as the trial was begun with. Raises DatasetError for one that was edited since."""
    dataset = read_dataset(Path(job.dataset_root), job.dataset, job.triggers)
    if job.dataset_sha256 not in ("", dataset.sha256):
        raise DatasetError(
            "the dataset was edited since this run began",
            where=str(dataset.root),
            fix="run the same command again: it will train the edited one as another trial",
        )
    return hold_to_record(layout.trial(job.trial), dataset)


def training_fits(dataset: Dataset, config: TrainConfig) -> tuple[Fit, ...]:
    """The training size of every item, in order. Raises ConfigError when no bucket is as small as the resolution."""
    pictures = [(item.picture.width, item.picture.height) for item in dataset.items]
    if config.buckets is None:
        return tuple(fit(picture, config.resolution) for picture in pictures)
    sizes = bucket_sizes(config.resolution, config.buckets)
    if not sizes:
        raise ConfigError(
            f"no bucket of at least {config.buckets.min_side} pixels a side has the area of {config.resolution}",
            where="train.buckets",
            fix="lower min_side, or raise resolution",
        )
    return tuple(choose(picture, sizes, config.buckets) for picture in pictures)


class _Trainer:
    """The loaded base with its adapter, the optimizer and the cached dataset of one trial."""

    def __init__(self, job: TrialJob, layout: Layout, dataset: Dataset) -> None:
        self._job, self._config, self._layout, self._dataset = job, job.train, layout, dataset
        self._fits = training_fits(dataset, self._config)
        write_whole(layout.trial(job.trial) / "dataset.txt", dataset_report(dataset, self._fits))
        self._base = self._load()
        known = identities(base_folder(job.base), job.base_sha256)
        self._latents = LatentCache(layout.cache, self._base, known.vae, dataset.root)
        self._latents.prepare(self._views())
        self._texts = TextCache(layout.cache, self._base, known.text)
        if as_written(self._config):
            self._texts.prepare(["", *(caption.text for item in dataset.items for caption in item.captions)])
        alpha = self._config.alpha or float(self._config.rank)
        self._adapter: InjectedAdapter = inject(self._base.transformer, self._config.rank, alpha, self._config.seed)
        self._optimizer = torch.optim.AdamW(
            self._adapter.parameters,
            lr=self._config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self._config.weight_decay,
            fused=True,
        )
        self._sizes = {i: fitted.size for i, fitted in enumerate(self._fits)}
        self._shown = showings(dataset)
        self.steps_per_epoch = steps_per_epoch(self._shown, self._sizes, self._config.batch, self._config.grad_accum)
        self._step = 0

    def _views(self) -> Iterator[View]:
        """Every way a picture will be shown."""
        for item, fitted in zip(self._dataset.items, self._fits, strict=True):
            yield View(item, fitted.size, flip=False)
            if self._config.flip_augment and may_be_mirrored(item):
                yield View(item, fitted.size, flip=True)

    def _view(self, exposure: Exposure, epoch: int) -> View:
        item = self._dataset.items[exposure.item]
        mirrored = is_mirrored(item, self._config, epoch=epoch, position=exposure.position)
        return View(item, self._fits[exposure.item].size, mirrored)

    def _caption(self, exposure: Exposure, epoch: int) -> str:
        item, triggers = self._dataset.items[exposure.item], self._job.triggers
        return drawn_caption(item, self._config, triggers, epoch=epoch, position=exposure.position)

    def _load(self) -> Base:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self._config.dtype == "bf16" else torch.float32
        return load_base(base_folder(self._job.base), device=device, dtype=dtype)

    def epoch(self, epoch: int) -> Iterator[StepLogged]:
        """Show every picture as often as it repeats, in an order drawn from (seed, epoch), one step at a time."""
        config = self._config
        generator = epoch_generator(config.seed, epoch)
        order = epoch_order(self._shown, generator)
        full = batches(order, self._sizes, config.batch, seed=config.seed * 1_000_003 + epoch)
        for parts in steps(full, config.grad_accum):
            began = time.monotonic()
            rate = self._set_rate()
            loss = self._optimize(parts, epoch, generator)
            self._step += 1
            fact = StepLogged(
                self._job.trial, epoch, self._step, self.steps_per_epoch, loss, rate, time.monotonic() - began
            )
            self._log(fact)
            yield fact

    def _optimize(self, parts: Sequence[Batch], epoch: int, generator: torch.Generator) -> float:
        """One optimizer step over micro-batches; the loss is the mean over pictures, however they split."""
        pictures, total = sum(map(len, parts)), 0.0
        for part in parts:
            loss = self._loss(part, epoch, generator)
            (loss * (len(part) / pictures)).backward()
            total += loss.item() * len(part) / pictures
        norm = torch.nn.utils.clip_grad_norm_(self._adapter.parameters, self._config.clip_norm)
        if not torch.isfinite(norm):
            files = sorted({self._dataset.items[e.item].file for part in parts for e in part})
            raise StudyError(
                f"loss or gradient is not a number at step {self._step + 1} (pictures {', '.join(files[:4])})",
                where=self._job.trial,
                fix="lower train.learning_rate, or look at these pictures",
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        return total

    def _loss(self, part: Batch, epoch: int, generator: torch.Generator) -> Tensor:
        base, config = self._base, self._config
        clean = self._latents.get([self._view(e, epoch) for e in part])
        noise = torch.randn(clean.shape, generator=generator)
        sigmas = training_sigmas(len(part), generator, config.sigma_shift)
        dropped = (torch.rand(len(part), generator=generator) < config.caption_dropout).tolist()
        captions = ["" if d else self._caption(e, epoch) for e, d in zip(part, dropped, strict=True)]
        conditions = self._texts.get(captions).to(base.device, base.dtype)
        noisy = add_noise(clean, noise, sigmas).to(base.device, base.dtype)
        with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
            predicted = base.transformer(noisy, sigmas.to(base.device), conditions, return_dict=False)[0]
        return (predicted.float() - velocity_target(clean, noise).to(base.device)).square().mean()

    def _set_rate(self) -> float:
        rate = learning_rate_at(self._step, self._config.epochs * self.steps_per_epoch, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate

    def save(self, epoch: int, loss: float, seconds: float) -> Checkpoint:
        """Training state first, then the adapter, then the commit marker."""
        trial, config = self._job.trial, self._config
        write_whole(state_file(self._layout, trial, epoch), save(self._state()))
        shown = float(self._dataset.repeats * epoch)
        metadata = AdapterMetadata(
            rank=config.rank,
            alpha=self._adapter.alpha,
            base_sha256=self._job.base_sha256,
            dataset_sha256=self._dataset.sha256,
            trial=trial,
            epoch=epoch,
            step=self._step,
            exposures_per_image=shown,
            trigger_words=self._job.triggers,
            project_version=VERSION,
        )
        dtype = torch.float32 if config.dtype == "fp32" else torch.bfloat16
        file = write_adapter(
            self._layout.adapter(trial, epoch), adapter_state(self._base.transformer), metadata, dtype=dtype
        )
        relative = self._layout.relative(file.path)
        checkpoint = Checkpoint(
            trial, epoch, relative, file.sha256, file.size_bytes, self._step, loss, shown, round(seconds, 3)
        )
        publish(self._layout, checkpoint)
        drop_old_states(self._layout, trial, keep=config.keep_states)
        return checkpoint

    def _state(self) -> dict[str, Tensor]:
        state = {"step": torch.tensor(self._step)}
        for i, parameter in enumerate(self._adapter.parameters):
            state[f"{i}.value"] = parameter.detach().cpu().contiguous()
            for name, value in self._optimizer.state[parameter].items():
                state[f"{i}.{name}"] = value.detach().cpu().contiguous()
        return state

    def resume(self, before: int) -> int:
        """Load the newest sound state of an epoch below `before`; returns its epoch, 0 when there is none."""
        for epoch in reversed([e for e in state_epochs(self._layout, self._job.trial) if e < before]):
            try:
                self._load_state(load_file(state_file(self._layout, self._job.trial, epoch)))
            except (SafetensorError, KeyError, RuntimeError) as error:
                log.warning("training state unusable | trial=%s epoch=%d | %s", self._job.trial, epoch, error)
                continue
            return epoch
        return 0

    @torch.no_grad()
    def _load_state(self, state: dict[str, Tensor]) -> None:
        moments: dict[int, dict[str, Tensor]] = {}
        for i, parameter in enumerate(self._adapter.parameters):
            values = {key.partition(".")[2]: v for key, v in state.items() if key.startswith(f"{i}.")}
            parameter.copy_(values.pop("value"))
            moments[i] = values
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._step = int(state["step"])

    def _log(self, fact: StepLogged) -> None:
        path = self._layout.metrics(self._job.trial)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(fact.to_json()) + "\n")

    def trim_metrics(self, after: int) -> None:
        """Forget logged steps of epochs that will be trained again."""
        path = self._layout.metrics(self._job.trial)
        if path.exists():
            rows = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in rows if json.loads(line)["epoch"] <= after]
            write_whole(path, "".join(line + "\n" for line in kept))


def learning_rate_at(step: int, steps: int, config: TrainConfig) -> float:
    """Learning rate of a 0-based optimizer step of `steps`."""
    rising = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.lr_schedule == "constant":
        return config.learning_rate * rising
    floor = 0.02
    return config.learning_rate * rising * (floor + (1 - floor) * (0.5 + 0.5 * math.cos(math.pi * step / steps)))


def _prepare_torch(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)
    # Adam's moments of dead weights become denormal, and those are computed many times slower.
    torch.set_flush_denormal(True)
