"""Tells W&B what the ledger says: the loss per step, the rate curve per epoch, and in the end the choice with pictures.

Facts become rows here, in the caller's thread, by looking at the study's state; `writer.py` hands them to W&B in a
thread of its own. So a slow or absent server never holds up a study. A resumed study adds a segment to the same run,
and what earlier segments hold is not told again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluators.grid import select_cells
from evaluators.rates import epoch_rate
from orchestrator.config import StudyConfig
from orchestrator.core.identity import digest
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Checkpoint
from orchestrator.ledger import Event
from orchestrator.state import StudyState
from orchestrator.target import judge_id
from orchestrator.tracking.messages import (
    Message,
    Row,
    checkpoint_values,
    conclusion,
    kind_counts,
    rate_values,
)
from orchestrator.tracking.writer import DONE_S, STOP_S, Writer

log = logging.getLogger(__name__)


class Tracker:
    """What the study reports to. No method raises because of W&B, and none waits for it but `finish`."""

    def __init__(self, config: StudyConfig, layout: Layout, writer: Writer | None) -> None:
        self._config, self._layout, self._writer = config, layout, writer
        self._told: dict[str, str | int] = dict(writer.told.marks) if writer else {}
        self._judge = judge_id(config) if writer else None
        self._caught_up = False

    @classmethod
    def open(cls, config: StudyConfig, layout: Layout, *, warn: Callable[[str], None] = log.warning) -> Tracker:
        """Begin or continue the study's run; `warn` gets one line for each thing that goes wrong with W&B."""
        if config.wandb.mode == "disabled":
            return cls(config, layout, None)
        return cls(config, layout, Writer(config, layout, warn))

    def step(self, trial: str, epoch: int, step: int, loss: float, learning_rate: float | None = None) -> None:
        """One optimizer step; steps that were told before are left out."""
        name = f"step {trial}"
        if self._writer is None or step <= int(self._told.get(name, 0)):
            return
        self._told[name] = step
        suffix = self._suffix(trial)
        values = {"train/step": step, f"train/loss{suffix}": loss, f"train/epoch{suffix}": epoch}
        if learning_rate is not None:
            values[f"train/learning_rate{suffix}"] = learning_rate
        self._put(Row(values))

    def record(self, event: Event, state: StudyState) -> None:
        """A fact of the ledger; `state` already contains it."""
        if self._writer is None:
            return
        self._catch_up(state)
        if event.kind == "checkpoint_saved":
            self._tell_checkpoint(Checkpoint.from_json(event.data["checkpoint"]))
        elif event.kind == "verdict_given":
            self._tell_rate(state.cells[event.data["verdict"]["cell_key"]], state)
        elif event.kind == "choice_made":
            self._conclude(state)

    def finish(self, state: StudyState) -> None:
        """Tell what is left and close the run; what W&B cannot take in within seconds stays on disk."""
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
        for key in sorted(state.checkpoints):
            self._tell_checkpoint(state.checkpoints[key])
        one_of_each = {(c.trial, c.weight, c.epoch): c for c in state.cells.values() if c.purpose == "select"}
        for place in sorted(one_of_each):
            self._tell_rate(one_of_each[place], state)

    def _tell_checkpoint(self, checkpoint: Checkpoint) -> None:
        """A saved epoch, and those of its steps that nobody told yet.

        Only steps up to a saved epoch are remembered on disk: the others are trained again after a crash.
        """
        name = f"epoch {checkpoint.trial} {checkpoint.epoch}"
        if self._told.get(name) == checkpoint.sha256:
            return
        self._told[name] = checkpoint.sha256
        for fact in _logged_steps(self._layout.metrics(checkpoint.trial)):
            if fact["step"] <= checkpoint.step:
                self.step(fact["trial"], fact["epoch"], fact["step"], fact["loss"], fact.get("learning_rate"))
        values = checkpoint_values(checkpoint, self._suffix(checkpoint.trial))
        self._put(Row(values, (name, checkpoint.sha256)))
        self._put(Row({}, (f"step {checkpoint.trial}", checkpoint.step)))

    def _tell_rate(self, one: Cell, state: StudyState) -> None:
        """The rate of the epoch and weight this cell belongs to, as soon as all its cells are judged."""
        checkpoint = state.checkpoints.get((one.trial, one.epoch))
        if self._judge is None or one.purpose != "select":
            return
        if checkpoint is None or checkpoint.sha256 != one.adapter_sha256:
            return
        cells = select_cells(checkpoint, self._config.grid, one.base_sha256)
        wanted = [key for key, cell in cells.items() if cell.weight == one.weight]
        given = [state.verdicts.get((key, *self._judge)) for key in wanted]
        verdicts = [verdict for verdict in given if verdict is not None]
        if not verdicts or len(verdicts) < len(wanted):
            return
        rate = epoch_rate(one.trial, one.epoch, one.weight, verdicts)
        name = f"rate {one.trial} {one.weight:g} {one.epoch}"
        said = digest({"counts": [rate.passes, rate.scored, rate.unscored], "findings": kind_counts(verdicts)})
        if self._told.get(name) != said:
            self._told[name] = said
            self._put(Row(rate_values(rate, verdicts, self._suffix(one.trial, one.weight)), (name, said)))

    def _conclude(self, state: StudyState) -> None:
        """The choice, the whole curve and the pictures, once per choice."""
        if state.choice is None or self._judge is None:
            return
        said = digest(state.choice.to_json())
        if self._told.get("choice") != said:
            self._told["choice"] = said
            self._put(conclusion(state, state.choice, self._judge, self._layout, ("choice", said)))

    def _suffix(self, trial: str, weight: float | None = None) -> str:
        """What keeps the names of several trials or weights apart; nothing where there is one."""
        parts = [trial] if len(self._config.trials) > 1 else []
        if weight is not None and len(self._config.grid.weights) > 1:
            parts.append(f"weight {weight:g}")
        return "".join(f"/{part}" for part in parts)

    def _put(self, message: Message) -> None:
        assert self._writer is not None
        self._writer.put(message)


def _logged_steps(path: Path) -> list[dict[str, Any]]:
    """Steps of a metrics file in order; a line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return [json.loads(line) for line in lines]
