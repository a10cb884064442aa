"""python -m trainer run: train the trials of a study one after the other, in this process (or team of processes)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from anima.settings import nearest
from orchestrator.core.errors import ConfigError
from orchestrator.core.layout import Layout
from orchestrator.core.lock import sole_driver
from trainer.checkpoints import published_checkpoints
from trainer.facts import CheckpointSaved, EpochStarted, StepLogged, TrialFact
from trainer.job import TrialJob
from trainer.study import TrainingStudy, load_study
from trainer.team import Team, join_team
from trainer.trial import run_trial


def run(conf: Path, overrides: Sequence[str], only: str | None, console: Console) -> int:
    """Train what is missing; returns the exit code. Raises StudyError."""
    study = load_study(conf, overrides)
    if only is not None and only not in study.trials:
        raise ConfigError(f"no trial {only!r}", where="--trial", fix=nearest(only, study.trials))
    team = join_team()
    with ExitStack() as stack:
        if team.leads:
            stack.enter_context(sole_driver(study.layout().lock))
            _draw_dataset(study)
            tell = partial(console.print, markup=False, highlight=False)
            study.jobs(study.read_dataset(tell=tell), tell=tell)
        # The others find the pictures drawn and the base fetched.
        team.wait()
        jobs = study.jobs(study.read_dataset())
        for name, job in jobs.items():
            if only in (None, name):
                _train(job, team, console)
    return 0


def _draw_dataset(study: TrainingStudy) -> None:
    if study.dataset.drawn is not None:
        from trainer.drawn import ensure_drawn_dataset

        ensure_drawn_dataset(study.dataset_root(), study.dataset.drawn, study.triggers)


def _train(job: TrialJob, team: Team, console: Console) -> None:
    facts = run_trial(job)
    if not team.leads:
        for _ in facts:
            pass
        return
    together = f" | {team.size} processes" if team.size > 1 else ""
    console.print(f"trial {job.trial}{together}", markup=False, highlight=False, soft_wrap=True)
    with _watching(job, console) as watch:
        for fact in facts:
            watch.tell(fact)
    layout = Layout(Path(job.study_root))
    for checkpoint in published_checkpoints(layout, job.trial)[-1:]:
        console.print(f"adapter  {layout.resolve(checkpoint.adapter)}", markup=False, highlight=False, soft_wrap=True)


class _Watch:
    """A bar with the loss on a terminal; elsewhere a line per saved epoch."""

    def __init__(self, job: TrialJob, console: Console, bars: Progress, bar: TaskID) -> None:
        self._job, self._console, self._bars, self._bar = job, console, bars, bar

    def tell(self, fact: TrialFact) -> None:
        """Show what happened."""
        match fact:
            case EpochStarted(_, epoch, steps):
                self._bars.update(self._bar, total=self._job.train.epochs * steps, completed=(epoch - 1) * steps)
            case StepLogged():
                status = f"epoch {fact.epoch}/{self._job.train.epochs} loss {fact.loss:.4f} {fact.seconds:.2f} s/step"
                self._bars.update(self._bar, completed=fact.step, status=status)
            case CheckpointSaved(checkpoint):
                said = f"epoch {checkpoint.epoch} saved | loss {checkpoint.loss:.4f} | {checkpoint.seconds:.1f} s"
                self._console.print(said, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _watching(job: TrialJob, console: Console) -> Iterator[_Watch]:
    bars = Progress(
        TextColumn("training"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=console,
        expand=True,
        transient=True,
        disable=not console.is_terminal,
    )
    with bars:
        yield _Watch(job, console, bars, bars.add_task("training", total=None, status=""))
