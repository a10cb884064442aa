"""The one thread that talks to W&B. Everything it writes lies in the study's own `wandb/` folder.

Where the service cannot be had within seconds the runs are kept locally, and `python -m orchestrator sync` uploads them
later under the same ids. Trouble costs a line of warning and nothing else.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.core.layout import Layout
from orchestrator.planning.config import StudyConfig
from orchestrator.tracking import service
from orchestrator.tracking.adapters import log_adapter
from orchestrator.tracking.identity import Origin, identify
from orchestrator.tracking.live import live_values
from orchestrator.tracking.messages import Adapter, Conclusion, Figures, Live, Message, Pictures, Row, Samples
from orchestrator.tracking.pictures import add_pictures, chart, picture_table, samples_by_prompt
from orchestrator.tracking.told import Told, Value
from orchestrator.tracking.workspace import save_workspace

if TYPE_CHECKING:
    import wandb

INIT_S = 10.0
"""How long the service may take to begin a run before the runs are kept locally instead."""
FINISH_S = 8.0
"""How long W&B may go on uploading at the end; what is left is on disk."""
STOP_S, DONE_S = 9.0, 60.0
"""How long closing may take when the study was stopped, which must be done within 10 s, and when it is complete."""
FLUSH_S = 1.0
"""How much of the record a killed driver may lose."""
AXES = {
    "train/*": "train/step",
    "epochs/*": "epoch",
    "eval/*": "epoch",
    "characters/*": "epoch",
    "prompts/*": "epoch",
    "findings/*": "epoch",
    "samples/*": "epoch",
}
"""What each family of curves is drawn over."""


class Writer:
    """Takes messages at once and writes them when W&B can take them."""

    def __init__(self, config: StudyConfig, layout: Layout, origin: Origin, warn: Callable[[str], None]) -> None:
        # Here and not in the thread: two threads that import large libraries at once can see each other's half-made
        # modules, and the caller is about to import ray and torch.
        import requests  # noqa: F401
        import wandb  # noqa: F401

        self._config, self._layout, self._origin, self._warn = config, layout, origin, warn
        self._folder = layout.wandb / "wandb"
        self._mode: Literal["online", "offline"] = "offline"
        self._runs: dict[str, wandb.Run] = {}
        self._marks: dict[str, Told] = {}
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def told(self, run: str) -> dict[str, Value]:
        """A copy of what all segments of a run hold."""
        return dict(Told.read(self._folder, identify(self._config, run, self._origin).run_id).marks)

    def put(self, message: Message) -> None:
        """Have it written, some time soon."""
        self._messages.put(message)

    def close(self, within_s: float) -> None:
        """Write what is queued and end the runs; gives up waiting after `within_s` seconds."""
        self._messages.put(None)
        self._thread.join(within_s)
        if self._thread.is_alive():
            self._warn(f"W&B is still busy after {within_s:g} s | what it has is in {self._folder}")

    def _work(self) -> None:
        try:
            self._start()
            while (message := self._messages.get()) is not None:
                self._write(message)
            self._finish()
        except Exception as error:  # whatever W&B does, the study goes on without it
            self._warn(f"W&B gave up, the study goes on without it | {_one_line(error)}")

    def _start(self) -> None:
        """Find out whether the service can be had, within seconds; begin the study's own run."""
        keep_to_ourselves(self._layout)
        if self._config.wandb.mode == "online":
            try:
                owner = service.entity()
                self._mode = "online"
                self._run("")
                self._tell_layout(self._config.wandb.entity or owner)
            except Exception as error:  # no server, no account, no network: `sync` mends all of them later
                self._stay_here(error)
        self._run("")

    def _stay_here(self, error: Exception) -> None:
        self._mode = "offline"
        self._warn(f"W&B cannot be reached, records stay in {self._folder} | {_one_line(error)}")
        self._runs.clear()
        _forget_runs()

    def _tell_layout(self, owner: str) -> None:
        """The dashboard; a service without workspaces costs a line and nothing else."""
        try:
            save_workspace(self._config, owner)
        except service.Unreachable as error:
            self._warn(f"W&B did not save the workspace | {_one_line(error)}")

    def _run(self, key: str) -> wandb.Run:
        """The run of a trial, or of the study, begun when it is first needed."""
        if key not in self._runs:
            self._runs[key] = self._init(key, self._mode)
        return self._runs[key]

    def _init(self, key: str, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        wanted, identity = self._config.wandb, identify(self._config, key, self._origin)
        run = wandb.init(
            mode=mode,
            dir=self._layout.wandb,
            project=wanted.project,
            entity=wanted.entity,
            id=identity.run_id,
            name=identity.name,
            group=self._config.study,
            job_type=identity.job_type,
            resume="allow",
            reinit="create_new",
            config=identity.config,
            settings=wandb.Settings(
                silent=True,
                console="off",
                program="orchestrator",
                host="",
                init_timeout=INIT_S,
                finish_timeout=FINISH_S,
                x_transaction_log_flush_interval=FLUSH_S,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
            ),
        )
        for axis in ("train/step", "epoch"):
            run.define_metric(axis, hidden=True)
        for curves, axis in AXES.items():
            run.define_metric(curves, step_metric=axis)
        return run

    def _write(self, message: Message) -> None:
        run, told = self._run(message.run), self._told_of(message.run)
        match message:
            case Row(values=values):
                run.log(dict(values))
            case Pictures():
                add_pictures(run, told, message)
            case Adapter():
                log_adapter(run, self._config, self._layout, message)
            case Figures(images=images):
                run.log({f"figures/{name}": chart(content) for name, content in images.items()})
            case Live(rates=rates):
                run.log(live_values(rates))
            case Samples(epoch=epoch, samples=samples):
                if shown := samples_by_prompt(samples):
                    run.log({**shown, "epoch": epoch})
            case Conclusion():
                _write_conclusion(run, message)
        if message.mark:
            told.add(*message.mark)

    def _told_of(self, key: str) -> Told:
        if key not in self._marks:
            self._marks[key] = Told.read(self._folder, identify(self._config, key, self._origin).run_id)
        return self._marks[key]

    def _finish(self) -> None:
        """End all runs, at the same time: each may wait for the service."""
        threads = [threading.Thread(target=self._end, args=(key,), daemon=True) for key in self._runs]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 2 * FINISH_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _end(self, key: str) -> None:
        """End a run, and mark its segment as sent if the service has all of it."""
        run = self._runs[key]
        segment = Path(run.settings.sync_file)
        rows = run.step
        try:
            began = time.monotonic()
            run.finish()
            if self._mode == "offline":
                return
            in_time = time.monotonic() - began < FINISH_S
            there = service.progress(run.id, project=run.project, owner=run.entity)
            if in_time and there.last_step >= rows - 1:
                segment.with_name(f"{segment.name}.synced").touch()
                return
            missing = "not all of it arrived"
        except Exception as error:  # the record on disk is whole whatever the service does
            missing = _one_line(error)
        self._warn(f"W&B has not got all of {run.name}, `sync` sends the rest | {missing}")


def keep_to_ourselves(layout: Layout) -> None:
    """Staged pictures and W&B's own logs go beside the runs, not to the home folder; no chatter, no crash reports."""
    folder = layout.wandb / "wandb"
    os.environ["WANDB_DATA_DIR"] = str(folder / "data")
    os.environ["WANDB_CACHE_DIR"] = str(folder / "cache")
    os.environ["WANDB_SILENT"] = "true"
    os.environ["WANDB_ERROR_REPORTING"] = "false"


def _forget_runs() -> None:
    """End W&B's background process: after a failed start it holds on to the run's id."""
    import wandb

    with suppress(SystemExit):  # it leaves by the exit code it was given, and would take this thread along
        wandb.teardown(exit_code=1)


def _write_conclusion(run: wandb.Run, told: Conclusion) -> None:
    import wandb

    names = ["trial", "weight", "epoch", "passes", "scored", "unscored", "rate", "low", "high"]
    rates = wandb.Table(columns=[*names], data=[[getattr(r, name) for name in names] for r in told.rates])
    run.log({"rates": rates, "best_and_worst_cells": picture_table(told.pictures)})
    run.summary.update(dict(told.summary))


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
