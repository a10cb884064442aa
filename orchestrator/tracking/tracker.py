"""Tells W&B what the ledger says: a run for each trial, with its curves, pictures and adapters, and one for the study.

Facts become messages here, in the caller's thread, by looking at the study's state; `writer.py` hands them to W&B in a
thread of its own. So a slow or absent server never holds up a study. A resumed study adds a segment to the same runs,
and what earlier segments hold is not told again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any

from evaluators.grid import select_cells
from evaluators.rates import epoch_rate
from infra.pods import hourly_price
from orchestrator.core.identity import digest
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Checkpoint, EpochRate, Sample, Verdict
from orchestrator.deciding.policy import wanted_cells
from orchestrator.planning.config import StudyConfig
from orchestrator.planning.target import build_target, judge_id
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Event, read_events
from orchestrator.record.state import StudyState
from orchestrator.report.evidence import run_seconds
from orchestrator.report.figures import study_figures
from orchestrator.tracking.identity import STUDY, Origin
from orchestrator.tracking.live import LiveCurve, leader
from orchestrator.tracking.messages import (
    Adapter,
    Figures,
    Live,
    Mark,
    Message,
    Pictures,
    Row,
    Samples,
    checkpoint_values,
    conclusion,
    kind_counts,
    picture,
    rate_values,
)
from orchestrator.tracking.told import Value
from orchestrator.tracking.writer import DONE_S, STOP_S, Writer
from trainer.sampled import sampled

log = logging.getLogger(__name__)

_epoch = attrgetter("epoch")

Place = tuple[str, int, float]
"""Trial, epoch, weight: what one rate is about."""


class Tracker:
    """What the study reports to. No method raises because of W&B, and none waits for it but `finish`."""

    def __init__(self, config: StudyConfig, layout: Layout, writer: Writer | None, origin: Origin) -> None:
        self._config, self._layout, self._writer, self._origin = config, layout, writer, origin
        self._told: dict[str, dict[str, Value]] = {}
        self._judge = judge_id(config) if writer else None
        self._unjudged: dict[Place, set[str]] = {}
        """What each rate still waits for, so that a verdict costs the same however large the grid is."""
        self._rates: dict[Place, EpochRate] = {}
        self._live = self._live_curve()
        """Where a policy draws part of the grid: an epoch then has no last picture to wait for."""
        self._sampled: dict[str, int] = {}
        """The last epoch of each trial whose samples were looked at."""
        self._seconds = {"training": 0.0, "drawing": 0.0, "wall": 0.0}
        self._price = hourly_price(config.cluster.dollars_per_hour)
        self._last_at: float | None = None
        self._caught_up = False

    def _live_curve(self) -> LiveCurve | None:
        if self._judge is None or self._config.decide.policy == "full":
            return None
        return LiveCurve(self._target())

    def _target(self) -> Target:
        origin = self._origin
        return build_target(self._config, dataset_sha256=origin.dataset_sha256, base_sha256=origin.base_sha256)

    @classmethod
    def open(
        cls,
        config: StudyConfig,
        layout: Layout,
        *,
        origin: Origin | None = None,
        warn: Callable[[str], None] = log.warning,
    ) -> Tracker:
        """Begin or continue the study's runs; `warn` gets one line for each thing that goes wrong with W&B."""
        origin = origin or Origin()
        writer = None if config.wandb.mode == "disabled" else Writer(config, layout, origin, warn)
        return cls(config, layout, writer, origin)

    def step(self, trial: str, epoch: int, step: int, loss: float, learning_rate: float | None = None) -> None:
        """One optimizer step; steps that were told before are left out: training again gives the same ones."""
        if self._writer is None or step <= int(self._known(trial).get("step", 0)):
            return
        values = {"train/step": step, "train/loss": loss, "train/epoch": epoch}
        if learning_rate is not None:
            values["train/learning_rate"] = learning_rate
        self._put(Row(trial, values, ("step", step)))

    def record(self, event: Event, state: StudyState) -> None:
        """A fact of the ledger; `state` already contains it."""
        if self._writer is None:
            return
        self._catch_up(state)
        self._pass_time(event)
        if event.kind == "checkpoint_saved":
            checkpoint = Checkpoint.from_json(event.data["checkpoint"])
            self._tell_checkpoint(checkpoint)
            self._tell_samples(checkpoint.trial, before=checkpoint.epoch)
        elif event.kind == "trial_finished":
            self._tell_samples(event.data["trial"])
        elif event.kind == "sample_drawn":
            self._seconds["drawing"] += Sample.from_json(event.data["sample"]).seconds
        elif event.kind == "verdict_given":
            self._judged(state.cells[event.data["verdict"]["cell_key"]], state)
        elif event.kind == "file_quarantined":
            self._unjudged.clear()
        elif event.kind == "choice_made":
            self._conclude(state)

    def _pass_time(self, event: Event) -> None:
        """Wall time counts from the opening of a run to its last fact."""
        if self._last_at is not None and event.kind != "study_opened":
            self._seconds["wall"] += max(0.0, event.time - self._last_at)
        self._last_at = event.time

    def finish(self, state: StudyState) -> None:
        """Tell what is left and close the runs; what W&B cannot take in within seconds stays on disk."""
        if self._writer is None:
            return
        self._catch_up(state)
        self._conclude(state)
        self._writer.close(STOP_S if state.finished_at is None else DONE_S)

    def _catch_up(self, state: StudyState) -> None:
        """Facts recorded before this tracker was opened, as far as no earlier segment holds them."""
        if self._caught_up:
            return
        self._caught_up = True
        if len(state.opened_at) > 1:
            self._seconds["wall"] = sum(run_seconds(read_events(self._layout.ledger)))
        self._last_at = state.last_event_at
        self._seconds["drawing"] = sum(sample.seconds for sample in state.samples.values())
        for key in sorted(state.checkpoints):
            self._tell_checkpoint(state.checkpoints[key])
        for trial in sorted({trial for trial, _ in state.checkpoints}):
            newest = max(epoch for name, epoch in state.checkpoints if name == trial)
            self._tell_samples(trial, before=None if state.trials[trial].finished else newest)
        if self._live is not None:
            self._tell_live(self._live, state)
            return
        one_of_each = {(c.trial, c.epoch, c.weight): c for c in state.cells.values() if c.purpose == "select"}
        for place in sorted(one_of_each):
            self._tell_rate(one_of_each[place], state)
        for trial in sorted({trial for trial, *_ in self._rates}):
            self._tell_candidate(trial, state)

    def _tell_checkpoint(self, checkpoint: Checkpoint) -> None:
        """A saved epoch as a row and as a version of the trial's model, and those of its steps that nobody told yet."""
        trial, name = checkpoint.trial, f"epoch {checkpoint.epoch}"
        self._seconds["training"] += checkpoint.seconds
        if self._known(trial).get(name) == checkpoint.sha256:
            return
        for fact in _logged_steps(self._layout.metrics(trial)):
            if fact["step"] <= checkpoint.step:
                self.step(fact["trial"], fact["epoch"], fact["step"], fact["loss"], fact.get("learning_rate"))
        self._put(Row(trial, checkpoint_values(checkpoint), (name, checkpoint.sha256)))
        self._tell_adapter(checkpoint, f"epoch-{checkpoint.epoch}")

    def _tell_samples(self, trial: str, *, before: int | None = None) -> None:
        """What training drew, by epoch; of the epoch that was saved last it may be drawing still."""
        found = sampled(self._layout, trial, after=self._sampled.get(trial, -1))
        for epoch, drawn in groupby(sorted(found, key=_epoch), key=_epoch):
            if before is not None and epoch >= before:
                break
            samples = tuple(drawn)
            self._sampled[trial] = epoch
            mark = (f"samples {epoch}", digest({"samples": [one.path.name for one in samples]}))
            if self._is_new(trial, mark):
                self._put(Samples(trial, epoch, samples, mark))

    def _tell_adapter(self, checkpoint: Checkpoint, alias: str) -> None:
        """A version of the trial's model, under one more alias."""
        mark = (f"alias {alias}", checkpoint.sha256)
        if self._config.wandb.adapters != "none" and self._is_new(checkpoint.trial, mark):
            self._put(Adapter(checkpoint.trial, checkpoint, (alias,), mark))

    def _judged(self, cell: Cell, state: StudyState) -> None:
        """One more verdict: the rate it belongs to is told when it was the last one missing, or the curve as it is."""
        place = (cell.trial, cell.epoch, cell.weight)
        if cell.purpose != "select":
            return
        if self._live is not None:
            if self._live.one_more(cell.trial):
                self._tell_live(self._live, state)
            return
        if place not in self._unjudged:
            wanted = self._wanted(cell, state)
            self._unjudged[place] = {key for key in wanted if (key, *self._asked) not in state.verdicts}
        self._unjudged[place].discard(cell.key)
        if not self._unjudged[place]:
            self._tell_rate(cell, state)
            self._tell_candidate(cell.trial, state)

    @property
    def _asked(self) -> tuple[str, int]:
        assert self._judge is not None
        return self._judge

    def _wanted(self, one: Cell, state: StudyState) -> dict[str, Cell]:
        """The cells of this cell's epoch and weight that the grid wants; none where its adapter is another by now."""
        checkpoint = state.checkpoints.get((one.trial, one.epoch))
        if checkpoint is None or checkpoint.sha256 != one.adapter_sha256:
            return {}
        cells = select_cells(checkpoint, self._config.grid, one.base_sha256)
        return {key: cell for key, cell in cells.items() if cell.weight == one.weight}

    def _tell_live(self, live: LiveCurve, state: StudyState) -> None:
        """The curve of each trial from the pictures judged so far, and the epoch that leads by it."""
        for trial, curve in live.curves(state).items():
            counts = [[r.weight, r.epoch, r.passes, r.scored, r.unscored] for r in curve]
            mark = ("live", digest({"counts": counts}))
            if self._is_new(trial, mark):
                self._put(Live(trial, curve, mark))
                self._tell_cost()
            if (checkpoint := state.checkpoints.get((trial, leader(curve).epoch))) is not None:
                self._tell_adapter(checkpoint, "candidate")

    def _tell_rate(self, one: Cell, state: StudyState) -> None:
        """The rate of this cell's epoch and weight, if all its cells are judged."""
        if self._judge is None or one.purpose != "select":
            return
        wanted = self._wanted(one, state)
        judged = self._judged_of(wanted, state)
        if judged and len(judged) == len(wanted):
            self._put_rate((one.trial, one.epoch, one.weight), judged, state)

    def _tell_drawn_rates(self, live: LiveCurve, state: StudyState) -> None:
        """In the end, the rate of each epoch and weight from all that was judged of it, as curves like any other."""
        wanted = wanted_cells(live.target, state)
        for place in sorted({(c.trial, c.epoch, c.weight) for c in wanted.values()}):
            own = {key: c for key, c in wanted.items() if (c.trial, c.epoch, c.weight) == place}
            if judged := self._judged_of(own, state):
                self._put_rate(place, judged, state)

    def _judged_of(self, cells: Mapping[str, Cell], state: StudyState) -> list[tuple[Cell, Verdict]]:
        return [(c, v) for key, c in cells.items() if (v := state.verdicts.get((key, *self._asked))) is not None]

    def _put_rate(self, place: Place, judged: list[tuple[Cell, Verdict]], state: StudyState) -> None:
        trial, epoch, weight = place
        rate = epoch_rate(trial, epoch, weight, [verdict for _, verdict in judged])
        self._rates[place] = rate
        said = digest(
            {"counts": [rate.passes, rate.scored, rate.unscored], "findings": kind_counts(v for _, v in judged)}
        )
        mark = (f"rate {weight:g} {epoch}", said)
        if self._is_new(trial, mark):
            self._put(Row(trial, rate_values(rate, judged, self._suffix(weight)), mark))
            self._tell_pictures(rate, judged, state)
            self._tell_cost()

    def _tell_pictures(self, rate: EpochRate, judged: list[tuple[Cell, Verdict]], state: StudyState) -> None:
        """The same seeds of every epoch, so that the table can be read as strips."""
        mark = (f"pictures {rate.weight:g} {rate.epoch}", rate.scored + rate.unscored)
        shown = islice(judged, self._config.wandb.pictures)
        pictures = tuple(picture(cell, verdict, state, self._layout) for cell, verdict in shown)
        if pictures and self._known(rate.trial).get(mark[0]) is None:
            self._put(Pictures(rate.trial, pictures, mark))

    def _tell_candidate(self, trial: str, state: StudyState) -> None:
        """The epoch that leads so far: the highest rate, of equals the later one."""
        scored = [rate for place, rate in self._rates.items() if place[0] == trial and rate.scored]
        if scored:
            leader = max(scored, key=lambda r: (r.rate, r.epoch))
            if (checkpoint := state.checkpoints.get((trial, leader.epoch))) is not None:
                self._tell_adapter(checkpoint, "candidate")

    def _tell_cost(self) -> None:
        """What it took so far: hours by the clock, hours of the actors, and dollars where the price is known."""
        told = {f"cost/{name}_hours": seconds / 3600 for name, seconds in self._seconds.items()}
        if self._price is not None:
            told["cost/dollars"] = told["cost/wall_hours"] * self._price
        self._put(Row(STUDY, told))

    def _conclude(self, state: StudyState) -> None:
        """The choice, the whole curve and the pictures, once per choice."""
        choice = state.choice
        if choice is None or self._judge is None:
            return
        if self._live is not None:
            self._tell_live(self._live, state)
            self._tell_drawn_rates(self._live, state)
        mark = ("choice", digest(choice.to_json()))
        if self._is_new(STUDY, mark):
            self._put(conclusion(STUDY, state, choice, self._judge, self._layout, mark))
            self._tell_figures(state, mark[1])
        if (checkpoint := state.checkpoints.get((choice.trial, choice.epoch))) is not None:
            self._tell_adapter(checkpoint, "best")

    def _tell_figures(self, state: StudyState, choice: Value) -> None:
        if images := study_figures(state, self._config, self._target()):
            self._put(Figures(STUDY, images, ("figures", choice)))

    def _suffix(self, weight: float) -> str:
        """What keeps the names of several weights apart; nothing where there is one."""
        return f"/weight {weight:g}" if len(self._config.grid.weights) > 1 else ""

    def _known(self, run: str) -> dict[str, Value]:
        """What was told of a run or waits to be written."""
        assert self._writer is not None
        if run not in self._told:
            self._told[run] = self._writer.told(run)
        return self._told[run]

    def _is_new(self, run: str, mark: Mark) -> bool:
        return self._known(run).get(mark[0]) != mark[1]

    def _put(self, message: Message) -> None:
        assert self._writer is not None
        if message.mark is not None:
            self._known(message.run)[message.mark[0]] = message.mark[1]
        self._writer.put(message)


def _logged_steps(path: Path) -> list[dict[str, Any]]:
    """Steps of a metrics file in order; a line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return [json.loads(line) for line in lines]
