"""What a person sees while a study runs: bars on a terminal, plain lines elsewhere, a line per fact in run.log."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from evaluators.grid import pictures_to_choose_by
from orchestrator.core.study import EpochRate, StopAdvice
from orchestrator.deciding.policy import board_of, rates, unfinished_trials, wanted_cells
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Event
from orchestrator.record.state import StudyState
from orchestrator.watching.lines import curve_lines, folded, say
from trainer.facts import StepLogged


def sentence(event: Event, state: StudyState) -> str:
    """A fact as one line: what | which | how."""
    data = event.data
    match event.kind:
        case "study_opened":
            return f"study opened | {data['study']}"
        case "trial_started":
            first, last = data["from_epoch"] + 1, data["epochs"]
            # A trial whose last epoch is there trains again what was set apart.
            epochs = f"epochs {first} to {last}" if first <= last else "epochs that were set apart"
            return f"trial started | trial={data['trial']} attempt={data['attempt']} | {epochs}"
        case "checkpoint_saved":
            c = data["checkpoint"]
            return (
                f"checkpoint saved | trial={c['trial']} epoch={c['epoch']}"
                f" | loss {c['loss']:.4f}, {c['size_bytes'] / 1e6:.1f} MB, {c['seconds']:.1f} s"
            )
        case "trial_finished":
            return f"trial finished | trial={data['trial']}"
        case "trial_failed":
            return f"trial failed | trial={data['trial']} attempt={data['attempt']} | {data['error']}"
        case "stop_advised" | "trial_stopped":
            advice = StopAdvice.from_json(data["advice"])
            ended = event.kind == "trial_stopped"
            said = f"training ended, {advice.saving()} saved" if ended else f"stopping now would save {advice.saving()}"
            word = "trial stopped" if ended else "stopping advised"
            return f"{word} | trial={advice.trial} epoch={advice.epoch} | {said}: {advice.reason}"
        case "sample_drawn":
            c = data["cell"]
            return (
                f"sample drawn | trial={c['trial']} epoch={c['epoch']} weight={c['weight']:g}"
                f" prompt={c['prompt']['name']} seed={c['seed']} {c['purpose']} | {data['sample']['seconds']:.2f} s"
            )
        case "verdict_given":
            v = data["verdict"]
            cell = state.cells[v["cell_key"]]
            kinds = Counter(f["kind"] for f in v["findings"])
            why = v["reason"] or ", ".join(f"{n} {kind}" for kind, n in kinds.items())
            said = f"{v['outcome']}: {why}" if why else v["outcome"]
            return f"verdict given | trial={cell.trial} epoch={cell.epoch} seed={cell.seed} {cell.purpose} | {said}"
        case "file_quarantined":
            return f"file set apart | {data['path']} | {data['reason']}; it will be made again"
        case "choice_made":
            c = data["choice"]
            return f"choice made | trial={c['trial']} epoch={c['epoch']} weight={c['weight']:g} | {c['reason']}"
        case "study_finished":
            return f"study finished | {data['seconds']:.1f} s"
        case "run_interrupted":
            return f"run interrupted | {data['reason']}"


class LogFile:
    """One line per fact, with the time of day, appended to run.log."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a", encoding="utf-8", buffering=1)

    def event(self, event: Event, state: StudyState) -> None:
        self.note(sentence(event, state))

    def step(self, step: StepLogged) -> None:
        """Steps are in the trial's metrics.jsonl."""

    def note(self, sentence: str) -> None:
        self._stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}\n")

    def close(self) -> None:
        self._stream.close()


class Tally:
    """Counts for people: how much of the grid is drawn and judged, and which epochs are judged to the last picture."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._per_weight = len(target.grid.rate_prompts) * len(target.grid.seeds)
        self._select = sum(pictures_to_choose_by(target.grid, target.decide, len(t.drawn)) for t in target.trials)
        self._confirm = len(target.grid.rate_prompts) * target.decide.confirm_seeds if target.judge else 0
        self._told: set[tuple[str, int, float]] = set()

    @property
    def total(self) -> int:
        """Pictures the whole study needs."""
        return self._select + self._confirm

    @property
    def confirm(self) -> int:
        """Fresh pictures among them."""
        return self._confirm

    def drawn(self, state: StudyState) -> int:
        """Pictures of the total that are there."""
        if self.target.decide.policy == "full":
            board = board_of(self.target, state)
            return board.counts()[0] + min(board.fresh_counts()[0], self._confirm)
        return self._count(state, set(state.samples))

    def judged(self, state: StudyState) -> int:
        """Pictures of the total that the study's judge has seen."""
        if self.target.decide.policy == "full":
            board = board_of(self.target, state)
            return board.counts()[1] + min(board.fresh_counts()[1], self._confirm)
        return self._count(state, {key for key, *judge in state.verdicts if tuple(judge) == self.target.judge})

    def _count(self, state: StudyState, keys: set[str]) -> int:
        """Fresh pictures of an earlier choice do not count twice."""
        select = wanted_cells(self.target, state).keys() & keys
        fresh = sum(state.cells[key].purpose == "confirm" for key in keys - select if key in state.cells)
        return len(select) + min(fresh, self._confirm)

    def complete(self, curve: list[EpochRate]) -> list[EpochRate]:
        """Epochs whose last picture was judged since this was asked last."""
        fresh = [
            r
            for r in curve
            if r.scored + r.unscored == self._per_weight and (r.trial, r.epoch, r.weight) not in self._told
        ]
        self._told |= {(r.trial, r.epoch, r.weight) for r in fresh}
        return fresh


def touched(event: Event, target: Target, state: StudyState) -> list[EpochRate]:
    """The rates a verdict may have changed."""
    cell = state.cells[event.data["verdict"]["cell_key"]]
    if target.decide.policy == "full":
        rate = board_of(target, state).rate_at(cell)
        return [] if rate is None else [rate]
    return [r for r in rates(target, state) if (r.trial, r.epoch, r.weight) == (cell.trial, cell.epoch, cell.weight)]


QUIET = frozenset({"sample_drawn", "verdict_given"})
"""Facts that come one per picture: a plain terminal hears of each epoch instead."""


REFRESHES_PER_S = 4


class JsonLines:
    """For programs: each fact as its line of the ledger, each step and each note as a line of the same kind."""

    def __init__(self, _console: Console, _target: Target, _state: StudyState) -> None:
        """Made like the others; it needs nothing of that."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put back."""

    def event(self, event: Event, _state: StudyState) -> None:
        self._print(event.to_line())

    def step(self, step: StepLogged) -> None:
        self._print(json.dumps({"kind": "step", **step.to_json()}, ensure_ascii=False))

    def note(self, sentence: str) -> None:
        self._print(json.dumps({"kind": "note", "text": sentence}, ensure_ascii=False))

    def _print(self, line: str) -> None:
        print(line, flush=True)


PACE_S = 30.0
"""The longest silence of plain lines while training goes on."""


class PlainLines:
    """For pipes and log collectors: a line per fact, one now and then where none comes; no colours or movement."""

    def __init__(
        self, console: Console, target: Target, state: StudyState, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._tally, self._state, self._clock = console, Tally(target), state, clock
        self._tally.complete(rates(target, state))
        self._said_at = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put back."""

    def event(self, event: Event, state: StudyState) -> None:
        if event.kind not in QUIET:
            self.note(sentence(event, state))
        if event.kind == "verdict_given":
            for rate in self._tally.complete(touched(event, self._tally.target, state)):
                drawn, total = self._tally.drawn(state), self._tally.total
                self.note(
                    f"epoch judged | trial={rate.trial} epoch={rate.epoch} weight={rate.weight:g}"
                    f" | {rate.passes}/{rate.scored} passed ({drawn} of {total} pictures drawn)"
                )

    def step(self, step: StepLogged) -> None:
        """Steps are told by the checkpoint they lead to, and where that takes long, by one of them."""
        if self._clock() - self._said_at >= PACE_S:
            epochs = next((t.epochs for t in self._tally.target.trials if t.trial == step.trial), step.epoch)
            self.note(
                f"training | trial={step.trial} epoch={step.epoch}/{epochs} step={step.step} | loss {step.loss:.3f},"
                f" {step.seconds:.2g} s a step"
                f" ({self._tally.drawn(self._state)} of {self._tally.total} pictures drawn)"
            )

    def note(self, sentence: str) -> None:
        self._said_at = self._clock()
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)


class Screen:
    """For terminals: a bar for training, bars for the grid, and the rate of every epoch so far, in figures.

    `steps`: optimizer steps of each trial as planned; its first step says exactly how many there are.
    """

    def __init__(
        self, console: Console, target: Target, state: StudyState, steps: Mapping[str, int] | None = None
    ) -> None:
        self._console, self._target, self._tally = console, target, Tally(target)
        self._steps = dict(steps or {})
        self._done: dict[str, int] = {}
        self._bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._training: TaskID = self._bars.add_task("training", total=None, status="")
        self._resume(state)
        self._drawing: TaskID = self._bars.add_task("drawn", total=self._tally.total, status="")
        self._judging: TaskID = self._bars.add_task("judged", total=self._tally.total, status="")
        self._live = Live(console=console, refresh_per_second=REFRESHES_PER_S, transient=True)
        self._due = 0.0
        self._state = state
        self._refresh()

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._refresh()
        self._live.stop()

    def event(self, event: Event, state: StudyState) -> None:
        if event.kind in ("file_quarantined", "trial_failed", "stop_advised", "trial_stopped"):
            self.note(sentence(event, state))
        self._state = state
        if time.monotonic() >= self._due:
            self._refresh()

    def step(self, step: StepLogged) -> None:
        epochs = next((t.epochs for t in self._target.trials if t.trial == step.trial), step.epoch)
        self._steps[step.trial], self._done[step.trial] = epochs * step.steps_per_epoch, step.step
        which = f"{step.trial.rpartition('-')[0]} " if len(self._target.trials) > 1 else ""
        self._show_training(f"{which}epoch {step.epoch}/{epochs} loss {step.loss:.3f}")

    def _resume(self, state: StudyState) -> None:
        """What of the training is there already, as far as it is known before the first step."""
        training = {work.trial for work in unfinished_trials(self._target, state)}
        for trial in self._target.trials:
            steps = self._steps.get(trial.trial, 0)
            newest = max((epoch for own, epoch in state.checkpoints if own == trial.trial), default=0)
            self._done[trial.trial] = steps * newest // trial.epochs if trial.trial in training else steps
        if not training and not self._steps:
            self._bars.update(self._training, total=1, completed=1)
        self._show_training("starting" if training else "all epochs saved")

    def _show_training(self, status: str) -> None:
        """Of all trials together; no total while that of one is unknown."""
        self._bars.update(self._training, status=status)
        if all(t.trial in self._steps for t in self._target.trials):
            total = sum(self._steps.values())
            self._bars.update(self._training, total=total, completed=sum(self._done.values()))

    def note(self, sentence: str) -> None:
        say(self._live.console, [sentence])

    def _refresh(self) -> None:
        """Count and draw anew: as often as the screen is shown, however many facts come in between."""
        state, self._due = self._state, time.monotonic() + 1 / REFRESHES_PER_S
        self._bars.update(self._drawing, completed=self._tally.drawn(state))
        self._bars.update(self._judging, completed=self._tally.judged(state))
        curve = (folded(line, self._console.width) for line in curve_lines(rates(self._target, state)))
        self._live.update(Group(self._bars, Text("\n".join(curve))))
