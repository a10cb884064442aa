"""The one thread that talks to W&B. Everything it writes lies in the study's own `wandb/` folder.

The run's id follows from what is trained, so a resumed study continues its run. Where the server cannot be had the run
is kept locally, and `wandb sync` uploads it later. Trouble costs a line of warning and nothing else.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from orchestrator.config import StudyConfig, to_data
from orchestrator.core.identity import digest
from orchestrator.core.layout import Layout
from orchestrator.tracking.messages import Conclusion, Message, Picture

if TYPE_CHECKING:
    import wandb

INIT_S = 10.0
"""How long a server may take to answer before the run is kept locally instead."""
FINISH_S = 8.0
"""How long W&B may go on uploading at the end; what is left is on disk."""
STOP_S, DONE_S = 9.0, 60.0
"""How long closing may take when the study was stopped, which must be done within 10 s, and when it is complete."""
FLUSH_S = 1.0
"""How much of the record a killed driver may lose."""
THUMBNAIL = 512
"""Longest side, in pixels, of a picture in the table."""


@dataclass(slots=True)
class Told:
    """What W&B has been told in all segments of a run, by name; kept in a file beside the run."""

    path: Path
    marks: dict[str, str | int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(path, json.loads(path.read_text())) if path.exists() else cls(path)

    def add(self, name: str, value: str | int) -> None:
        """Remember one thing more, on disk."""
        self.marks[name] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".partial")
        aside.write_text(json.dumps(self.marks))
        aside.replace(self.path)


class Writer:
    """Takes messages at once and writes them when W&B can take them."""

    def __init__(self, config: StudyConfig, layout: Layout, warn: Callable[[str], None]) -> None:
        # Here and not in the thread: two threads that import large libraries at once can see each other's half-made
        # modules, and the caller is about to import ray and torch.
        import wandb  # noqa: F401

        self._config, self._root, self._folder, self._warn = config, layout.wandb, layout.wandb / "wandb", warn
        self.told = Told.read(self._folder / f"told-{run_id(config)}.json")
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Have it written, some time soon."""
        self._messages.put(message)

    def close(self, within_s: float) -> None:
        """Write what is queued and end the run; gives up waiting after `within_s` seconds."""
        self._messages.put(None)
        self._thread.join(within_s)
        if self._thread.is_alive():
            self._warn(f"W&B is still busy after {within_s:g} s | what it has is in {self._folder}")

    def _work(self) -> None:
        try:
            run = self._start()
            while (message := self._messages.get()) is not None:
                self._write(run, message)
            run.finish()
        except Exception as error:  # whatever W&B does, the study goes on without it
            self._warn(f"W&B gave up, the study goes on without it | {_one_line(error)}")

    def _start(self) -> wandb.Run:
        """The run as the YAML asks for it, or kept locally where the server cannot be had."""
        _keep_to_ourselves(self._folder)
        mode = self._config.wandb.mode
        if mode == "online":
            try:
                return self._init("online")
            except Exception as error:  # no server, no account, no network: `wandb sync` mends all of them later
                self._warn(f"W&B cannot be reached, records stay in {self._folder} | {_one_line(error)}")
                _forget_run()
        return self._init("offline")

    def _init(self, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        wanted = self._config.wandb
        run = wandb.init(
            mode=mode,
            dir=self._root,
            project=wanted.project,
            entity=wanted.entity,
            id=run_id(self._config),
            name=self._config.study,
            resume="allow",
            reinit="create_new",
            config=to_data(self._config),
            settings=wandb.Settings(
                silent=True,
                console="off",
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
        for curves, axis in (("train/*", "train/step"), ("epochs/*", "epoch"), ("eval/*", "epoch")):
            run.define_metric(curves, step_metric=axis)
        return run

    def _write(self, run: wandb.Run, message: Message) -> None:
        if isinstance(message, Conclusion):
            _write_conclusion(run, message)
        elif message.values:
            run.log(dict(message.values))
        if message.mark:
            self.told.add(*message.mark)


def run_id(config: StudyConfig) -> str:
    """The W&B run of a study: the same as long as it trains the same; a changed grid continues the same run."""
    return digest(config.model_dump(mode="json", include={"study", "base", "cast", "dataset", "trials"}), length=12)


def _keep_to_ourselves(folder: Path) -> None:
    """Staged pictures and W&B's own logs go beside the run, not to the home folder; no chatter, no crash reports."""
    os.environ["WANDB_DATA_DIR"] = str(folder / "data")
    os.environ["WANDB_CACHE_DIR"] = str(folder / "cache")
    os.environ["WANDB_SILENT"] = "true"
    os.environ["WANDB_ERROR_REPORTING"] = "false"


def _forget_run() -> None:
    """End W&B's background process: after a failed start it holds on to the run's id."""
    import wandb

    with suppress(SystemExit):  # it leaves by the exit code it was given, and would take this thread along
        wandb.teardown(exit_code=1)


def _write_conclusion(run: wandb.Run, told: Conclusion) -> None:
    import wandb

    names = ["trial", "weight", "epoch", "passes", "scored", "unscored", "rate", "low", "high"]
    rates = wandb.Table(columns=[*names], data=[[getattr(r, name) for name in names] for r in told.rates])
    described = [name for name in Picture.__slots__ if name != "image"]
    pictures = wandb.Table(columns=["image", *described])
    for picture in told.pictures:
        pictures.add_data(_image(picture.image), *(getattr(picture, name) for name in described))
    run.log({"rates": rates, "best_and_worst_cells": pictures})
    run.summary.update(dict(told.summary))


def _image(path: Path) -> wandb.Image | None:
    """The picture, large ones as a smaller JPEG; None where its file is gone."""
    import wandb
    from PIL import Image

    if not path.is_file():
        return None
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    as_is = max(picture.size) <= THUMBNAIL
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return wandb.Image(picture, file_type="png" if as_is else "jpg")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
