"""Train one LoRA: the frozen base, an adapter on every target layer, flow matching on cached latents, epoch by epoch.

`run_trial` is a plain generator of facts. It looks at the disk first and trains only the epochs that are missing there,
from the nearest earlier training state; every random draw is a function of (seed, epoch, position), so on one kind of
machine the resumed adapter is the uninterrupted one, bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from anima.adapter_files import AdapterMetadata, write_adapter
from anima.sources.folders import is_remote, local_folder
from orchestrator.core.errors import DatasetError, StudyError
from orchestrator.core.fence import Fence
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.core.study import Checkpoint
from orchestrator.core.version import VERSION
from trainer.buckets import training_fits
from trainer.checkpoints import intact_checkpoints, publish, saved_epochs
from trainer.dataset import Dataset, bring_dataset, read_dataset
from trainer.facts import CheckpointSaved, EpochStarted, TrialFact
from trainer.guards import NotFinite, mark_diverged, refuse_diverged
from trainer.job import TrialJob
from trainer.memory import is_out_of_memory
from trainer.metrics import write_exposures
from trainer.progress import Progress, ending
from trainer.record import hold_to_record
from trainer.report import dataset_report
from trainer.samples import is_due
from trainer.session import Session
from trainer.states import drop_old_states
from trainer.team import join_team

log = logging.getLogger(__name__)

__all__ = ["TrialJob", "run_trial", "trial_dataset"]


def run_trial(job: TrialJob) -> Iterator[TrialFact]:
    """Train what is missing on disk; yields facts as they become true. May be closed between any two of them.

    Raises DatasetError, MissingError, DivergedError when the loss stops being a number, and StudyError when memory
    does not suffice.
    """
    layout, config, team = Layout(Path(job.study_root)), job.train, join_team()
    fence = Fence(layout.attempt(job.trial), job.attempt)
    if team.leads:
        # Before anything is looked at: what an earlier attempt publishes from here on would not be seen.
        fence.enter()
    present = intact_checkpoints(layout, job.trial)
    missing = [e for e in saved_epochs(config.epochs, config.save_every) if e not in present]
    # Nobody writes before everybody has looked.
    team.wait()
    if not missing:
        return
    refuse_diverged(layout.trial(job.trial), job.trial)
    _prepare_torch(config.threads)
    if not team.leads:
        team.wait()
    dataset = trial_dataset(job, layout)
    fits = training_fits(dataset, config)
    if team.leads:
        write_whole(layout.trial(job.trial) / "dataset.txt", dataset_report(dataset, fits))
        # The others find the record of the dataset, and never write it.
        team.wait()
    session = Session(job, layout, dataset, fits, team, fence)
    progress = Progress(job, session.steps_per_epoch, fence)
    with ending(progress if team.leads else None):
        yield from _train_guarded(session, missing, progress)


def _train_guarded(session: Session, missing: list[int], progress: Progress) -> Iterator[TrialFact]:
    """Train the missing epochs; a step that fails is tried once more from the last state before it ends the trial."""
    trial, retried, spared = session.job.trial, False, False
    while missing:
        try:
            yield from _train(session, missing, progress)
        except NotFinite as fault:
            if retried:
                raise mark_diverged(session.layout.trial(trial), trial, fault) from fault
            log.warning("trying again from the last state | trial=%s | %s", trial, fault)
            retried = True
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if spared or session.economy == session.economy.spared(session.job.train.batch):
                raise _out_of_memory(session) from error
            session.spare_memory()
            log.warning("out of memory, trying again with less | trial=%s | %s", trial, session.economy)
            spared = True


def _train(session: Session, missing: list[int], progress: Progress) -> Iterator[TrialFact]:
    """Train until nothing is missing; takes each epoch off the list when it is published."""
    config, trial = session.job.train, session.job.trial
    first = session.rewind(before=missing[0])
    if session.team.leads:
        progress.begin(session.step)
        if session.place.steps in (0, session.steps_per_epoch):
            _draw_samples(session, first - 1, progress)
    session.team.wait()
    for epoch in range(first, missing[-1] + 1):
        yield EpochStarted(trial, epoch, session.steps_per_epoch)
        for fact in session.epoch(epoch):
            if session.team.leads:
                progress.tell(fact)
                if config.state_every_steps and fact.step % config.state_every_steps == 0:
                    with session.fence.held():
                        _save_within(session)
            yield fact
        if epoch in missing:
            saved = None
            if session.team.leads:
                with session.fence.held():
                    saved = _publish(session, epoch)
            session.team.wait()
            missing.remove(epoch)
            if saved is not None:
                yield CheckpointSaved(saved)
        if session.team.leads:
            progress.shown(epoch, session.exposures)
            _draw_samples(session, epoch, progress)
        session.team.wait()


def _draw_samples(session: Session, epoch: int, progress: Progress) -> None:
    config = session.job.train.samples
    if session.samples is not None and config is not None and is_due(config, epoch, session.job.train.epochs):
        progress.drawn(epoch, session.samples.draw(epoch, session.step))


def _save_within(session: Session) -> None:
    if not session.place.whole:
        session.save()
        drop_old_states(session.layout, session.job.trial, keep=session.job.train.keep_states)


def _publish(session: Session, epoch: int) -> Checkpoint:
    """Training state first, then the adapter, then the commit marker."""
    job, layout = session.job, session.layout
    session.save()
    shown = session.exposures
    metadata = AdapterMetadata(
        rank=job.train.rank,
        alpha=session.adaptation.alpha,
        base_sha256=job.base_sha256,
        dataset_sha256=session.dataset.sha256,
        trial=job.trial,
        epoch=epoch,
        step=session.step,
        exposures_per_image=shown.per_image,
        trigger_words=job.triggers,
        project_version=VERSION,
        shown_characters=shown.characters,
        shown_pictures={item.sha256[:12]: n for item, n in zip(session.dataset.items, shown.items, strict=True)},
    )
    dtype = torch.float32 if job.train.dtype == "fp32" else torch.bfloat16
    file = write_adapter(layout.adapter(job.trial, epoch), session.adaptation.state(), metadata, dtype=dtype)
    checkpoint = Checkpoint(
        job.trial,
        epoch,
        layout.relative(file.path),
        file.sha256,
        file.size_bytes,
        session.step,
        session.mean_loss,
        shown.per_image,
        round(session.seconds, 3),
    )
    publish(layout, checkpoint)
    write_exposures(layout.trial(job.trial) / "exposures.json", epoch, session.dataset, shown)
    drop_old_states(layout, job.trial, keep=job.train.keep_states)
    return checkpoint


def trial_dataset(job: TrialJob, layout: Layout) -> Dataset:
    """The dataset as the trial was begun with. Raises DatasetError for one that was edited since."""
    # Every machine has a copy of its own of what lies in a store.
    bring_dataset(job.dataset)
    root = local_folder(job.dataset.root) if is_remote(job.dataset.root) else Path(job.dataset_root)
    dataset = read_dataset(root, job.dataset, job.triggers)
    if job.dataset_sha256 not in ("", dataset.sha256):
        raise DatasetError(
            "the dataset was edited since this run began",
            where=str(dataset.root),
            fix="run the same command again: it will train the edited one as another trial",
        )
    return hold_to_record(layout.trial(job.trial), dataset)


def _out_of_memory(session: Session) -> StudyError:
    return StudyError(
        f"out of memory with {session.economy.micro} picture(s) at once and activations computed again",
        where=session.job.trial,
        fix="lower train.resolution or train.rank, or use a GPU with more memory",
    )


def _prepare_torch(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)
    # Adam's moments of dead weights become denormal, and those are computed many times slower.
    torch.set_flush_denormal(True)
