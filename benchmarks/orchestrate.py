"""python -m benchmarks.orchestrate: what the controller costs, with work that takes no time or a stated one.

    cells     a whole study of so many cells with workers that answer at once: all that is left is orchestration
    actors    the same cells drawn by one actor and by many, each cell taking a stated time: how nearly they add up
    resume    a study whose cells are all done: replay, reconciling with the files, deciding that nothing is left
    status    `python -m orchestrator status` on that study, as a person starts it

Everything but the work is the product: ledger, state, board, policy, controller, log, Ray, volume. Only the workers are
made up: they write nothing (but for `resume`, which needs pictures: they have 1 KB) and say what they are told.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import psutil  # type: ignore[import-untyped]
from rich.console import Console

from evaluators.grid import select_cells
from evaluators.sidecar import sidecar_of
from infra.config import ClusterConfig
from infra.volume import LocalVolume
from orchestrator.controller import Controller
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Checkpoint, Finding, Sample, Verdict
from orchestrator.crew.actors import RayCrew
from orchestrator.crew.work import Crew, Slice
from orchestrator.planning.config import StudyConfig, to_data
from orchestrator.planning.target import build_target
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Event, Ledger, read_events
from orchestrator.record.state import StudyState, replay
from orchestrator.watching.watch import LogFile, PlainLines
from trainer.checkpoints import publish, published_checkpoints
from trainer.facts import StepLogged

BASE = "b" * 64
T = TypeVar("T")
FAULT = (Finding("missing", "kanachan", "accessory", "blue scrunchie", "nothing"),)


@dataclass(frozen=True)
class Grid:
    """A study of `epochs` times `seeds` cells."""

    epochs: int
    seeds: int
    batch: int

    @property
    def cells(self) -> int:
        return self.epochs * self.seeds

    def config(self, volume: str) -> StudyConfig:
        return StudyConfig.model_validate(
            {
                "study": "fake",
                "base": "pocket",
                "cast": {"kanachan": {"hair": "brown", "style": "short hair", "eyes": "brown"}},
                "train": {"epochs": self.epochs},
                "trials": {"main": {}},
                "grid": {
                    "prompts": [{"name": "solo", "text": "1girl, kanachan", "cast": ["kanachan"]}],
                    "seeds": {"first": 1, "count": self.seeds},
                    "batch": self.batch,
                },
                "volume": volume,
            }
        )


@dataclass(frozen=True)
class FakeWorkers:
    """Workers that answer at once, or after `cell_s` seconds for each cell."""

    root: str
    trial: str
    judge: tuple[str, int]
    epochs: int
    cell_s: float = 0.0
    writes: bool = False
    """Whether adapters and pictures are on disk in the end, so that they can be reconciled."""

    def trainer(self, trial: str, attempt: int = 0) -> FakeTrainer:  # noqa: ARG002
        return FakeTrainer(self, trial)

    def artist(self) -> FakeArtist:
        return FakeArtist(self)

    def critic(self) -> FakeCritic:
        return FakeCritic(self.judge)


class FakeTrainer:
    """An epoch a turn."""

    def __init__(self, workers: FakeWorkers, trial: str) -> None:
        self._layout, self._trial, self._epochs = Layout(Path(workers.root)), trial, workers.epochs
        self._epoch = len(published_checkpoints(self._layout, trial))

    def advance(self, turn_s: float) -> Slice:  # noqa: ARG002
        self._epoch += 1
        saved = fake_checkpoint(self._layout, self._trial, self._epoch)
        step = StepLogged(self._trial, self._epoch, self._epoch, 1, 0.1, 1e-3, 0.1)
        return Slice((step,), (saved,), done=self._epoch >= self._epochs)


def fake_checkpoint(layout: Layout, trial: str, epoch: int) -> Checkpoint:
    data = f"{trial} {epoch}".encode()
    path = layout.adapter(trial, epoch)
    write_whole(path, data)
    saved = Checkpoint(
        trial, epoch, layout.relative(path), sha256(data).hexdigest(), len(data), epoch, 0.1, float(epoch), 0.1
    )
    publish(layout, saved)
    return saved


class FakeArtist:
    """Pictures by name only, or of a kilobyte of noise."""

    def __init__(self, workers: FakeWorkers) -> None:
        self._workers, self._layout = workers, Layout(Path(workers.root))

    def draw(self, cells: Sequence[Cell]) -> list[Sample]:
        time.sleep(self._workers.cell_s * len(cells))
        return [self._draw(cell) for cell in cells]

    def _draw(self, cell: Cell) -> Sample:
        path = self._layout.image(cell.trial, cell.epoch, cell.key)
        data = sha256(cell.key.encode()).digest() * 32
        digest = sha256(data).hexdigest()
        if self._workers.writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            facts = sidecar_of(cell, image_sha256=digest, seconds=0.1, drawn_by={})
            path.with_suffix(".json").write_text(json.dumps(facts))
            path.write_bytes(data)
        return Sample(cell.key, self._layout.relative(path), digest, 0.1)


class FakeCritic:
    """Passes two of three, with a finding for the third, as a real judge writes them."""

    def __init__(self, judge: tuple[str, int]) -> None:
        self._judge = judge

    def judge(self, cells: Sequence[Cell], samples: Sequence[Sample]) -> list[Verdict]:  # noqa: ARG002
        return [self._verdict(cell) for cell in cells]

    def _verdict(self, cell: Cell) -> Verdict:
        seen = ("brown short hair, brown eyes, no accessory",)
        if cell.seed % 3:
            return Verdict(cell.key, *self._judge, "pass", seen=seen)
        return Verdict(cell.key, *self._judge, "fail", FAULT, seen)


class Meter:
    """A watcher that notes time and memory each time another tenth of the verdicts is in."""

    def __init__(self, cells: int) -> None:
        self._step, self._given = max(1, cells // 10), 0
        self._process = psutil.Process()
        self.marks: list[tuple[int, float, int]] = []
        """Verdicts, seconds, resident bytes."""

    def event(self, event: Event, state: StudyState) -> None:  # noqa: ARG002
        if event.kind == "verdict_given":
            self._given += 1
            if self._given % self._step == 0:
                self.marks.append((self._given, time.monotonic(), self._process.memory_info().rss))

    def step(self, step: StepLogged) -> None:
        """Not measured."""

    def note(self, sentence: str) -> None:
        sys.stderr.write(f"{sentence}\n")


@dataclass(frozen=True)
class Measured:
    """One study, without the start of Ray and of the actors."""

    cells: int
    seconds: float
    driver_cpu_s: float
    """All threads of the driver, Ray's too."""
    controller_cpu_s: float
    """The controller's own thread."""
    mb_before: float
    """Resident memory when the first tenth is judged."""
    mb_after: float
    """And when all is."""


Hire = Callable[[FakeWorkers], Crew]


def run_cells(grid: Grid, root: Path, hire: Hire, *, cell_s: float = 0.0, writes: bool = False) -> Measured:
    """A whole study, from the first decision to the last fact."""
    config = grid.config(str(root))
    layout = Layout(config.layout().root.resolve())
    target = wanted_of(config)
    assert target.judge is not None
    workers = FakeWorkers(str(layout.root), target.trials[0].trial, target.judge, grid.epochs, cell_s, writes)
    meter = Meter(grid.cells)
    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(closing(Ledger(layout.ledger)))
        log = stack.enter_context(closing(LogFile(layout.log)))
        state = StudyState.packed()
        lines = PlainLines(Console(file=io.StringIO()), target, state)
        controller = Controller(
            target,
            LocalVolume(layout),
            ledger,
            state,
            published=lambda trial: published_checkpoints(layout, trial),
            watchers=[log, lines, meter],
        )
        crew = stack.enter_context(closing(hire(workers)))
        controller.open("fake", to_data(config), base_sha256=BASE, dataset_sha256="")
        began, cpu, own = time.monotonic(), time.process_time(), time.thread_time()
        controller.run(crew)
        seconds = time.monotonic() - began
        cpu, own = time.process_time() - cpu, time.thread_time() - own
    assert len(state.verdicts) >= grid.cells
    return Measured(grid.cells, seconds, cpu, own, meter.marks[0][2] / 2**20, meter.marks[-1][2] / 2**20)


def wanted_of(config: StudyConfig) -> Target:
    return build_target(config, dataset_sha256="", base_sha256=BASE)


def on_ray(artists: int, in_flight: int) -> Hire:
    """Actors on this machine, all of them up: starting processes is not what is measured."""

    def hire(workers: FakeWorkers) -> Crew:
        cluster = ClusterConfig(inference_actors=artists, in_flight=in_flight)
        crew = RayCrew(workers, cluster, train_threads=1).open()
        while crew.slots["draw"] < artists * in_flight:
            crew.wait(0.2)
        return crew

    return hire


def measure_cells(options: argparse.Namespace) -> dict[str, object]:
    grid = Grid(options.cells // options.seeds, options.seeds, options.batch)
    with tempfile.TemporaryDirectory() as folder:
        found = run_cells(grid, Path(folder), on_ray(options.artists, options.in_flight))
        size = sum(path.stat().st_size for path in Path(folder).rglob("ledger.jsonl"))
    per_cell = 1e6 / found.cells
    return {
        "cells": found.cells,
        "seconds": round(found.seconds, 1),
        "cells_per_s": round(found.cells / found.seconds),
        "controller_cpu_us_per_cell": round(found.controller_cpu_s * per_cell),
        "driver_cpu_us_per_cell": round(found.driver_cpu_s * per_cell),
        "memory_mb_at_a_tenth": round(found.mb_before),
        "memory_mb_at_the_end": round(found.mb_after),
        "memory_bytes_per_cell": round((found.mb_after - found.mb_before) * 2**20 / (0.9 * found.cells)),
        "ledger_bytes_per_cell": round(size / found.cells),
    }


def measure_actors(options: argparse.Namespace) -> dict[str, object]:
    """Cells per second of one actor and of many, from the first decision to the end of the study."""
    rates: dict[int, float] = {}
    for actors in (1, options.actors):
        cells = round(options.actor_s * actors / options.cell_s)
        grid = Grid(max(1, cells // options.seeds), options.seeds, options.batch)
        with tempfile.TemporaryDirectory() as folder:
            found = run_cells(grid, Path(folder), on_ray(actors, options.in_flight), cell_s=options.cell_s)
        rates[actors] = found.cells / found.seconds
    one, many = rates[1], rates[options.actors]
    return {
        "actors": options.actors,
        "seconds_per_cell": options.cell_s,
        "one_cells_per_s": round(one, 2),
        "many_cells_per_s": round(many, 1),
        "ratio": round(many / one, 1),
        "share_of_ideal": round(many * options.cell_s / options.actors, 3),
    }


def measure_resume(options: argparse.Namespace) -> dict[str, object]:
    grid = Grid(options.done // options.seeds, options.seeds, options.batch)
    with tempfile.TemporaryDirectory() as folder:
        config = grid.config(folder)
        run_cells(grid, Path(folder), on_ray(options.artists, options.in_flight), writes=True)
        layout = Layout(config.layout().root.resolve())
        target = wanted_of(config)
        select_cells.cache_clear()  # A new process knows none of the grid yet.
        replayed, state = timed(lambda: replay(read_events(layout.ledger), StudyState.packed()))
        with closing(Ledger(layout.ledger)) as ledger:
            published = lambda trial: published_checkpoints(layout, trial)  # noqa: E731
            made, controller = timed(
                lambda: Controller(target, LocalVolume(layout), ledger, state, published=published)
            )
            reconciled, _ = timed(controller.reconcile)
            decided, done = timed(controller.done)
        assert done
        status = min((timed(lambda: ask_status(layout))[0] for _ in range(3)), key=lambda took: took.seconds)
    parts = {"replay": replayed, "board": made, "reconcile": reconciled, "decide": decided}
    parts["resume"] = Took(sum(p.seconds for p in parts.values()), sum(p.cpu_s for p in parts.values()))
    parts["status"] = status
    told = {f"{name}_s": round(took.seconds, 2) for name, took in parts.items()}
    return {"done_cells": grid.cells, **told, **{f"{name}_cpu_s": round(t.cpu_s, 2) for name, t in parts.items()}}


@dataclass(frozen=True)
class Took:
    """Seconds by the clock, and of CPU (children's too): on a busy machine the second says more."""

    seconds: float
    cpu_s: float


def timed(work: Callable[[], T]) -> tuple[Took, T]:
    """How long it took, and what came of it."""
    began, before = time.monotonic(), sum(os.times()[:4])
    result = work()
    return Took(time.monotonic() - began, sum(os.times()[:4]) - before), result


def ask_status(layout: Layout) -> None:
    command = [sys.executable, "-m", "orchestrator", "status", str(layout.root)]
    subprocess.run(command, check=True, capture_output=True)


MEASURES = {"cells": measure_cells, "actors": measure_actors, "resume": measure_resume}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*MEASURES, []], help="all of it when left out")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--done", type=int, default=28_500, help="cells of the study that is resumed")
    parser.add_argument("--seeds", type=int, default=100, help="cells of an epoch")
    parser.add_argument("--batch", type=int, default=25, help="cells of a request")
    parser.add_argument("--artists", type=int, default=2)
    parser.add_argument("--actors", type=int, default=32)
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("--cell-s", type=float, default=0.05)
    parser.add_argument("--actor-s", type=float, default=40.0, help="how long each of the actors draws")
    options = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    sys.stdout.write(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}\n")
    for name in options.what or MEASURES:
        sys.stdout.write(f"{name}: {json.dumps(MEASURES[name](options), indent=2)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
