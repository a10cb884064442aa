"""`run`: check, look at what is there, do what is missing, say what came of it. The same command resumes."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console

from anima.base import base_sha256
from anima.match import PartReport, inspect_base
from anima.sources.adapters import obtain_adapters
from anima.sources.config import base_name
from anima.sources.obtain import obtain_base
from infra.volume import LocalVolume
from orchestrator.controller import Controller, Interrupted, Watcher
from orchestrator.core.errors import MissingError, StudyError
from orchestrator.core.layout import Layout
from orchestrator.core.lock import sole_driver
from orchestrator.crew.work import Crew, InlineCrew, Workers
from orchestrator.crew.workers import StudyWorkers
from orchestrator.keeping.keeping import Keeping, kept
from orchestrator.planning.config import StudyConfig, load_config, to_data, to_yaml
from orchestrator.planning.plan import make_plan
from orchestrator.planning.preflight import dataset_root, missing
from orchestrator.planning.target import build_target
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Event, Ledger, read_events
from orchestrator.record.state import StudyState, replay
from orchestrator.watching.lines import choice_lines, from_here, say
from orchestrator.watching.pulse import Pulse
from orchestrator.watching.watch import JsonLines, LogFile, PlainLines, Screen
from trainer.checkpoints import published_checkpoints
from trainer.dataset import bring_dataset, read_dataset
from trainer.facts import StepLogged
from trainer.identity import trial_id

INTERRUPTED = 130
Shown = JsonLines | PlainLines | Screen
Show = Callable[[Console, Target, StudyState], Shown]


class Lacking(StudyError):
    """Several things are missing at once; each is a line of its own."""

    exit_code = MissingError.exit_code

    def __init__(self, faults: Sequence[MissingError]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))


@dataclass(frozen=True, slots=True)
class Study:
    """A study that can start: its configuration and everything that was looked up for it."""

    config: StudyConfig
    layout: Layout
    base: Path
    base_sha256: str
    weights: tuple[PartReport, ...]
    dataset_sha256: str
    target: Target
    workers: Workers


def run_study(
    path: Path, overrides: Sequence[str], console: Console, *, takeover: bool = False, show: Show | None = None
) -> int:
    """Run or resume the study of a YAML; returns the exit code. Raises StudyError.

    With `takeover`, another process that runs it is stopped first.
    """
    config = load_config(path, overrides)
    if faults := missing(config):
        raise Lacking(faults)
    layout = config.layout()

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with sole_driver(layout.lock, takeover=takeover), kept(config, tell, takeover=takeover) as keeping:
        return drive(prepare(config, tell=tell), console, keeping=keeping, show=show)


def prepare(config: StudyConfig, *, tell: Callable[[str], None] = lambda _: None) -> Study:
    """Look at everything the study builds on: the dataset, read and checked, and the base, by content.

    What of the base is elsewhere is fetched; `tell` hears of it.
    """
    root = dataset_root(config)
    if config.dataset.drawn is not None:
        from trainer.drawn import ensure_drawn_dataset

        ensure_drawn_dataset(root, config.dataset.drawn, config.triggers)
    bring_dataset(config.dataset, tell=tell)
    dataset = read_dataset(root, config.dataset, config.triggers)
    _try_judge(config)
    layout = Layout(config.layout().root.resolve())
    base = obtain_base(config.base, tell=tell).resolve()
    weights = inspect_base(base)
    base_hash = base_sha256(base)
    beside = obtain_adapters(config.grid.with_adapters, tell=tell)
    # With their content written down, what the ledger records of the configuration says which cells are meant.
    config = config.model_copy(update={"grid": config.grid.pinned([adapter.sha256 for adapter in beside])})
    target = build_target(config, dataset_sha256=dataset.sha256, base_sha256=base_hash)
    trials = {
        trial_id(name, train, triggers=config.triggers, dataset_sha256=dataset.sha256, base_sha256=base_hash): train
        for name, train in config.trials.items()
    }
    workers = StudyWorkers(
        trials=trials,
        base=str(base),
        base_sha256=base_hash,
        study_root=str(layout.root),
        dataset_root=str(root.resolve()),
        dataset_sha256=dataset.sha256,
        dataset=config.dataset,
        looks=dict(config.cast),
        judge=target.judge,
        threads=config.cluster.threads,
        adapters={adapter.sha256: str(adapter.path) for adapter in beside},
        base_name=base_name(config.base),
    )
    return Study(config, layout, base, base_hash, weights, dataset.sha256, target, workers)


def _try_judge(config: StudyConfig) -> None:
    """Looks no judge can tell apart are better refused now than after the training."""
    if config.judge.name == "pixel":
        from evaluators.judges.pixel import PixelJudge

        PixelJudge(config.cast)


def drive(
    study: Study,
    console: Console,
    *,
    hire: Callable[[Study], Crew] | None = None,
    keeping: Keeping | None = None,
    show: Show | None = None,
) -> int:
    """Do what the study lacks. Returns 0, or 130 when stopped on request.

    `show` makes what tells of it while it runs; by default bars on a terminal and lines elsewhere. With `keeping`,
    what the volume has is fetched first, and what is made is sent there.
    """
    config, layout = study.config, study.layout
    volume = LocalVolume(layout)
    if keeping is not None:
        keeping.join()
    # Policies other than the whole grid look through all of their few pictures at each decision.
    empty = StudyState.packed() if config.decide.policy == "full" else StudyState()
    state = replay(read_events(layout.ledger), empty)
    if keeping is not None:
        keeping.fetch(state, study.target)
    with ExitStack() as stack:
        ledger = stack.enter_context(closing(Ledger(layout.ledger)))
        log = stack.enter_context(closing(LogFile(layout.log)))
        watchers: list[Watcher] = [log]
        controller = Controller(
            study.target,
            volume,
            ledger,
            state,
            published=lambda trial: published_checkpoints(layout, trial),
            attempts=config.cluster.attempts,
            back_off_s=config.cluster.back_off_s,
            heal=keeping.heal if keeping else lambda _: False,
            lost_nodes=config.cluster.lost_nodes,
            watchers=watchers,
        )
        if keeping is not None:
            watchers.append(keeping.mirror(stop=controller.stop, note=log.note))
        watchers.append(aloud := PlainLines(console, study.target, state))
        controller.reconcile()
        watchers.remove(aloud)
        if controller.done():
            publish_results(study, state)
            if keeping is not None:
                keeping.finish()
            console.print("Everything this study asks for is done already.", highlight=False)
            tell_result(state, layout, console)
            return 0
        volume.put(layout.config, to_yaml(config))
        controller.open(
            config.study, to_data(config), base_sha256=study.base_sha256, dataset_sha256=study.dataset_sha256
        )
        for report in study.weights:
            log.note(str(report))
        watchers.append(stack.enter_context(TrackerWatcher(study, state, log.note)))
        console.print(_how_to_look(config, layout), markup=False, highlight=False, soft_wrap=True)
        live = console.is_terminal and not console.is_dumb_terminal
        if show is None and live:
            screen: Shown = Screen(console, study.target, state, planned_steps(study))
        else:
            screen = (show or PlainLines)(console, study.target, state)
        watchers.append(screen)
        try:
            with (
                screen,
                closing((hire or hire_crew)(study)) as crew,
                stops(controller),
                Pulse(layout, crew, lambda: controller.in_flight),
            ):
                controller.run(crew)
        except (Interrupted, KeyboardInterrupt, StudyError) as error:
            if keeping is not None:
                keeping.stopped()
            if isinstance(error, StudyError):
                raise
            console.print("Stopped. The same command continues.", highlight=False)
            return INTERRUPTED
        publish_results(study, state)
        if keeping is not None:
            keeping.finish()
    tell_result(state, layout, console)
    return 0


def planned_steps(study: Study) -> dict[str, int]:
    """Optimizer steps of each trial, by its id."""
    by_name = {trial.name: trial.steps for trial in make_plan(study.config).trials}
    return {trial.trial: by_name[trial.trial.rpartition("-")[0]] for trial in study.target.trials}


def _how_to_look(config: StudyConfig, layout: Layout) -> str:
    name = config.study if config.volume.folder == "runs" else from_here(layout.root)
    return f"look     python -m orchestrator status {name} --watch\nstop     python -m orchestrator stop {name}"


def hire_crew(study: Study) -> Crew:
    """The crew the YAML asks for."""
    config = study.config
    if config.cluster.provider == "inline":
        return InlineCrew(study.workers)
    from orchestrator.crew.actors import RayCrew

    threads = max(train.threads for train in config.trials.values())
    return RayCrew(study.workers, config.cluster, train_threads=threads).open()


@contextmanager
def stops(controller: Controller) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the controller to stop; a second one does not wait for it. SIGUSR1 (`stop`) asks
    it to finish the work in hand first."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        if controller.stop_requested:
            raise KeyboardInterrupt
        controller.stop_requested = True

    def ask_to_end(_number: int, _frame: FrameType | None) -> None:
        controller.end()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = {signal.SIGINT: ask, signal.SIGTERM: ask, signal.SIGUSR1: ask_to_end}
    before = {number: signal.signal(number, handler) for number, handler in asked.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class TrackerWatcher:
    """Passes facts on to W&B, and closes its run however ours ends."""

    def __init__(self, study: Study, state: StudyState, warn: Callable[[str], None]) -> None:
        self._study, self._state, self._warn = study, state, warn

    def __enter__(self) -> Self:
        from orchestrator.tracking import Origin, Tracker

        study = self._study
        origin = Origin(study.base_sha256, study.dataset_sha256)
        self._tracker = Tracker.open(study.config, study.layout, origin=origin, warn=self._warn)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tracker.finish(self._state)

    def event(self, event: Event, state: StudyState) -> None:
        self._tracker.record(event, state)

    def step(self, step: StepLogged) -> None:
        self._tracker.step(step.trial, step.epoch, step.step, step.loss, step.learning_rate)

    def note(self, sentence: str) -> None:
        """Not a fact."""


def publish_results(study: Study, state: StudyState) -> None:
    """Write what is made from the ledger alone: the choice and the page for people."""
    from orchestrator.report import write_report

    layout = study.layout
    state.unpack()
    if state.choice is not None:
        text = json.dumps(state.choice.to_json(), indent=2, ensure_ascii=False) + "\n"
        LocalVolume(layout).put(layout.choice, text)
    write_report(state, layout, study.config)


def tell_result(state: StudyState, layout: Layout, console: Console) -> None:
    """The last lines of a run: what was adopted, how good it is, and where to read on."""
    choice = state.choice
    lines = [
        *([] if choice is None else choice_lines(choice, layout)),
        f"report   {from_here(layout.report)}",
    ]
    say(console, lines)
