"""Does a policy find a good epoch from few pictures? Trained, drawn and judged for real, on pocket Anima.

    python -m benchmarks.adaptive                       all of it, about an hour on two cores
    python -m benchmarks.adaptive --seconds 230         as much as fits; the same command goes on

Trials of `conf/quickstart.yaml` are trained with different seeds. Every epoch is then drawn on seeds that no study
uses: the share of these pictures that pass is taken for its true rate. Repeated studies, each on seeds of its own, ask
the study's own policy what to draw, epoch by epoch as training would save them, and choose. Every picture is drawn by
the real engine and read by the real judge, once: `pool-*.jsonl` keeps what was said, so a broken run loses nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, nan
from pathlib import Path

from rich.console import Console

from evaluators.config import DecideConfig
from evaluators.engine import Engine
from evaluators.grid import batches, cell_of
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Checkpoint, Sample, Verdict
from orchestrator.crew.work import Artist, Critic
from orchestrator.deciding.decisions import Draw, Judge, Standing, Train
from orchestrator.deciding.policy import choose, decide
from orchestrator.planning.config import load_config
from orchestrator.planning.wanted import Target
from orchestrator.record.state import StudyState
from orchestrator.run import Study, prepare
from trainer.checkpoints import published_checkpoints

TRIALS = ("one", "two", "three")
FULL_SEEDS = 24
"""Seeds of the full grid: what a person who can afford it draws of every epoch."""
TRUE_FROM = 2_000_000
WITHIN = 0.05
CONTENDERS, FURTHER = 0.1, 250
"""Epochs this near to the best get so many seeds more for their true rate."""
BATCHES = (2, 32)
"""Pictures per forward pass, for a few cells of an epoch and for many: what is left of a batch is drawn for nothing."""


class OutOfTime(Exception):
    """The window is over; what is done is kept."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one study chose, from how many pictures, and how good that epoch truly is."""

    study: int
    trial: str
    policy: str
    pictures: int
    epoch: int
    rate: float
    best: float

    @property
    def regret(self) -> float:
        return self.best - self.rate


class Pool:
    """Verdicts on cells: those on disk, and those drawn and read when they are asked for."""

    def __init__(self, study: Study, until: float) -> None:
        self._study, self._until = study, until
        self._file = study.layout.root / f"pool-{os.getpid()}.jsonl"
        self._artists: dict[int, Artist] = {}
        self._critic: Critic | None = None
        lines = (line for file in study.layout.root.glob("pool*.jsonl") for line in file.read_text().splitlines())
        verdicts = (Verdict.from_json(json.loads(line)) for line in lines if line.endswith("}"))
        self._known = {verdict.cell_key: verdict for verdict in verdicts}

    def verdicts(self, cells: Iterable[Cell]) -> list[Verdict]:
        """One per cell, in order. Raises OutOfTime between batches."""
        cells = tuple(cells)
        missing = {cell.key: cell for cell in cells if cell.key not in self._known}
        for batch in batches(sorted(missing.values(), key=lambda c: (c.epoch, c.weight)), BATCHES[-1]):
            if time.monotonic() > self._until:
                raise OutOfTime
            self._draw(batch)
        return [self._known[cell.key] for cell in cells]

    def _draw(self, cells: Sequence[Cell]) -> None:
        at_once = next((size for size in BATCHES if len(cells) <= 4 * size), BATCHES[-1])
        if at_once not in self._artists:
            study, threads = self._study, self._study.config.cluster.threads
            self._artists[at_once] = Engine(str(study.base), str(study.layout.root), threads=threads, batch=at_once)
        self._critic = self._critic or self._study.workers.critic()
        said = self._critic.judge(cells, self._artists[at_once].draw(cells))
        with self._file.open("a") as stream:
            stream.writelines(json.dumps(verdict.to_json()) + "\n" for verdict in said)
        self._known |= {verdict.cell_key: verdict for verdict in said}


def open_study(root: Path, threads: int) -> Study:
    """The trials of the quickstart, which differ in the seed of their training alone."""
    trials = [f"trials.{name}.seed={number}" for number, name in enumerate(TRIALS, 1)]
    where = [
        "study=adaptive",
        f"volume={root}",
        f"train.threads={threads}",
        f"cluster.threads={threads}",
    ]
    return prepare(load_config(Path("conf/quickstart.yaml"), [*where, *trials, "wandb.mode=disabled"]))


def train(study: Study, until: float, console: Console) -> None:
    """Train what is missing of every trial. Raises OutOfTime between turns; training goes on from its last epoch."""
    for trial in study.target.trials:
        worker = study.workers.trainer(trial.trial)
        while not (turn := worker.advance(5.0)).done:
            for checkpoint in turn.checkpoints:
                console.print(f"trained  {checkpoint.trial} epoch {checkpoint.epoch} in {checkpoint.seconds:.1f} s")
            if time.monotonic() > until:
                raise OutOfTime


def true_rates(study: Study, trial: str, seeds: int, pool: Pool) -> dict[int, float]:
    """The share of passes of every epoch over seeds that no study draws; an unscored picture is no pass.

    Epochs near the best are looked at on FURTHER more seeds: luck with a few seeds must not decide who was right.
    """
    rates = {saved.epoch: _share(study, saved, seeds, pool) for saved in checkpoints(study.layout, trial)}
    best = max(rates.values())
    for saved in checkpoints(study.layout, trial):
        if rates[saved.epoch] >= best - CONTENDERS:
            rates[saved.epoch] = _share(study, saved, seeds + FURTHER, pool)
    return rates


def _share(study: Study, saved: Checkpoint, seeds: int, pool: Pool) -> float:
    grid, prompt = study.target.grid, study.target.grid.prompts[0]
    cells = [
        cell_of(saved, grid.weights[0], prompt, TRUE_FROM + number, grid, study.base_sha256) for number in range(seeds)
    ]
    return sum(verdict.outcome == "pass" for verdict in pool.verdicts(cells)) / seeds


def checkpoints(layout: Layout, trial: str) -> list[Checkpoint]:
    """What training published of a trial, oldest first."""
    return published_checkpoints(layout, trial)


def wanted(study: Study, number: int, policy: str, first_seed: int | None = None) -> Target:
    """What the `number`-th study wants: one trial, its own seeds, a policy at a third of the full grid at most."""
    trial = study.target.trials[number % len(study.target.trials)]
    first = 1000 * (number + 1) if first_seed is None else first_seed
    third = len(trial.drawn) * FULL_SEEDS // 3
    decide_by = DecideConfig.model_validate(
        {"policy": policy, "margin": study.config.decide.margin, "budget": third, "target_regret": 0}
    )
    grid = study.target.grid.model_copy(update={"seeds": tuple(range(first, first + FULL_SEEDS)), "batch": 8})
    return replace(study.target, trials=(trial,), grid=grid, decide=decide_by)


def replayed(target: Target, saved: Sequence[Checkpoint], pool: Pool) -> StudyState:
    """The state of a study that has seen its epochs come one by one, and drawn of each what its policy asked for."""
    state = StudyState()
    for at, checkpoint in enumerate(saved, 1):
        state.checkpoints[checkpoint.trial, checkpoint.epoch] = checkpoint
        training = frozenset({Train(checkpoint.trial)}) if at < len(saved) else frozenset()
        while works := list(_choosing(target, state, training)):
            for work in works:
                _done(work, state, pool)
    return state


def _choosing(target: Target, state: StudyState, training: frozenset[Train]) -> Iterator[Draw | Judge]:
    """The pictures to choose by that the policy asks for now; drawing fresh ones of the choice is another matter."""
    for work in decide(target, state, Standing(training)):
        if isinstance(work, Draw | Judge) and work.cells[0].purpose == "select":
            yield work


def _done(work: Draw | Judge, state: StudyState, pool: Pool) -> None:
    said = pool.verdicts(work.cells)
    for cell, verdict in zip(work.cells, said, strict=True):
        if isinstance(work, Draw):
            state.cells[cell.key] = cell
            state.samples[cell.key] = Sample(cell.key, "", "", 0.0)
        else:
            state.verdicts[cell.key, verdict.judge, verdict.judge_version] = verdict


def run_study(target: Target, number: int, rates: dict[str, dict[int, float]], layout: Layout, pool: Pool) -> Result:
    """One study by its policy."""
    trial = target.trials[0].trial
    state = replayed(target, checkpoints(layout, trial), pool)
    epoch = choose(target, state).chosen.epoch
    true = rates.get(trial, {epoch: nan})
    return Result(number, trial, target.decide.policy, len(state.cells), epoch, true[epoch], max(true.values()))


def report(results: Sequence[Result], rates: dict[str, dict[int, float]], seeds: int) -> str:
    """The figures as Markdown."""
    lines = ["| trial | " + " | ".join(f"epoch {e}" for e in next(iter(rates.values()))) + " |"]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    lines += [f"| {t} | " + " | ".join(f"{r:.3f}" for r in rates[t].values()) + " |" for t in rates]
    lines += ["", f"| policy | within {WITHIN} of the best | mean regret | largest | pictures | epochs chosen |"]
    lines.append("|---|---|---|---|---|---|")
    for policy in dict.fromkeys(r.policy for r in results):
        mine = [r for r in results if r.policy == policy]
        near = sum(r.regret <= WITHIN + 1e-9 for r in mine)
        drawn = sorted(r.pictures for r in mine)
        regrets = [r.regret for r in mine]
        chosen = ", ".join(str(r.epoch) for r in mine)
        lines.append(
            f"| {policy} | {near} of {len(mine)} | {sum(regrets) / len(mine):.3f} | {max(regrets):.3f}"
            f" | {drawn[0]} to {drawn[-1]} | {chosen} |"
        )
    top = [rate for of in rates.values() for rate in of.values() if rate >= max(of.values()) - CONTENDERS]
    sd = max((rate * (1 - rate) / (seeds + FURTHER)) ** 0.5 for rate in top)
    more = f"epochs within {CONTENDERS} of the best over {seeds + FURTHER}"
    lines += ["", f"True rates are over {seeds} seeds, of {more}: there the standard error is {sd:.3f} at most."]
    return "\n".join(lines)


def studies(study: Study, count: int, replays: int) -> Iterator[tuple[Target, int]]:
    """Studies on seeds of their own, or so many replays per trial on the seeds the true rates are known by."""
    for policy in ("adaptive", "coarse_to_fine", "full"):
        for number in range(replays * len(study.target.trials) if replays else count):
            first = TRUE_FROM + 10 * (number // len(study.target.trials)) if replays else None
            yield wanted(study, number, policy, first), number


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptive", description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("runs"), help="where the trials and the pool are kept")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long; the same command goes on")
    parser.add_argument("--studies", type=int, default=10)
    parser.add_argument(
        "--replays", type=int, default=0, help="instead: so many studies per trial on pictures there are"
    )
    parser.add_argument("--true-seeds", type=int, default=150, help="pictures of every epoch for its true rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("truth", "studies"), help="work on one part, beside another process")
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    until = time.monotonic() + options.seconds
    study = open_study(options.root, options.threads)
    try:
        train(study, until, console)
        pool = Pool(study, until)
        rates = {}
        if options.only != "studies":
            rates = {t.trial: true_rates(study, t.trial, options.true_seeds, pool) for t in study.target.trials}
        if options.only == "truth":
            return
        results = []
        for target, number in studies(study, options.studies, options.replays):
            results.append(run_study(target, number, rates, study.layout, pool))
            console.print(json.dumps(asdict(results[-1])))
    except OutOfTime:
        console.print("The window is over; the same command goes on.")
        return
    if not rates:
        return
    console.print(report(results, rates, options.true_seeds))
    mine = [r for r in results if r.policy == "adaptive"]
    near = sum(r.regret <= WITHIN + 1e-9 for r in mine)
    console.print(f"adaptive: {near} of {len(mine)}, {ceil(0.9 * len(mine))} wanted")


if __name__ == "__main__":
    main()
