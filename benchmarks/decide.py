"""How good the epochs are that each policy leads to, and at how many pictures: over simulated studies.

    python -m benchmarks.decide --workers 2                         all of it, about ten minutes on two cores
    python -m benchmarks.decide --workers 2 --curves 40             a quick look
    python -m benchmarks.decide --workers 2 --out figures.md        keeps the page

Every study has 150 epochs whose true rates rise, stay and fall. A policy asks for pictures, the study answers, and
after so many pictures the epoch of smallest loss is chosen from all verdicts, by the same code for every policy; only
the row "by hand" chooses as people do, by the highest count among the finalists, of equals the latest. Regret is how
far the true rate of the chosen epoch lies below that of the best.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.decide_page import STRIDES, Line, promises, report
from benchmarks.worlds import EPOCHS, SETTINGS, Setting, Shape, World
from evaluators.decide.adaptive import adaptive
from evaluators.decide.analysis import analyse
from evaluators.decide.choice import decide
from evaluators.decide.curve import estimate
from evaluators.decide.grids import coarse_to_fine, full
from evaluators.decide.situation import Ask, Situation, Space
from evaluators.decide.stopping import training_advice
from evaluators.decide.table import Row, make_table

MARGIN = 0.05
BATCH = 8
SPACE = Space(planned=tuple(range(1, EPOCHS + 1)), seeds=tuple(range(1, 7)))
OTHER_SHAPES: tuple[Shape, ...] = ("flat", "cliff", "rising", "two tops")
MARKS = (102, 144, 230, 252)

Result = tuple[str, int, float, float, float, float]
"""Policy, pictures, regret, expected regret, share of epochs covered, whether the chosen epoch's rate is covered."""


def study(setting: Setting, streams: range, number: int) -> list[Result]:
    """All policies on one simulated study; the stream, which takes the longest, on the numbers of `streams` only."""
    world = World(setting, number)
    return [
        measured(world, "full", ask_for(world, full, 900)),
        *_by_coarse_to_fine(world),
        *(measured(world, "adaptive", at) for at in adaptively(world, MARKS)),
        *([measured(world, "adaptive, stream", streamed(world, 230))] if number in streams else []),
    ]


def _by_coarse_to_fine(world: World) -> Iterable[Result]:
    for pictures, stride in STRIDES.items():
        end = ask_for(world, partial(coarse_to_fine, stride=stride), pictures)
        yield measured(world, "coarse to fine", end)
        if pictures == 252:
            yield ("by hand", pictures, world.regret(by_hand(end)), np.nan, np.nan, np.nan)


def ask_for(world: World, policy: Callable[[Situation, int], tuple[Ask, ...]], pictures: int) -> Situation:
    """The situation after a policy that needs no fit has spent its pictures."""
    situation = Situation(SPACE, SPACE.planned, budget=pictures)
    while asks := policy(situation, pictures):
        situation = answered(world, situation, asks)
    return situation


def answered(world: World, situation: Situation, asks: Iterable[Ask]) -> Situation:
    """The situation with verdicts on these asks."""
    asks = tuple(asks)
    rows = (*situation.rows, *map(world.row, asks))
    return replace(situation, rows=rows, asked=situation.asked | set(asks))


def adaptively(world: World, marks: Iterable[int]) -> Iterable[Situation]:
    """The adaptive policy's situations at each number of pictures; controls are among them."""
    situation = Situation(SPACE, SPACE.planned)
    for mark in marks:
        while len(situation.asked) < mark:
            proposal = adaptive(situation, min(BATCH, mark - len(situation.asked)))
            situation = replace(
                answered(world, situation, proposal.asks), previous=proposal.process or situation.previous
            )
        yield situation


def streamed(world: World, pictures: int) -> Situation:
    """The adaptive policy while training goes on: an epoch a step, verdicts late and out of order, one in 25 never."""
    rng = np.random.default_rng((world.number, 3))
    situation = Situation(SPACE, (), budget=pictures)
    due: dict[int, list[Ask]] = defaultdict(list)
    step = 0
    while step <= EPOCHS or situation.left or due:
        step += 1
        arrived = due.pop(step, [])
        situation = answered(world, situation, ())
        situation = replace(
            situation,
            saved=SPACE.planned[: min(step, EPOCHS)],
            rows=(*situation.rows, *map(world.row, arrived)),
            pending=situation.pending - set(arrived),
        )
        if step % 2 and step <= EPOCHS:
            continue
        proposal = adaptive(situation, BATCH)
        lost = {ask for ask in proposal.asks if rng.random() < 0.04}
        for ask in sorted(set(proposal.asks) - lost):
            due[step + int(rng.integers(1, 6))].append(ask)
        situation = replace(
            situation,
            asked=situation.asked | set(proposal.asks),
            pending=(situation.pending | set(proposal.asks)) - lost,
            previous=proposal.process or situation.previous,
        )
    return situation


def measured(world: World, policy: str, situation: Situation) -> Result:
    """What the verdicts of a situation lead to."""
    curve = estimate(situation.table(), calibration=world.calibration(), draws=1000)
    decision = decide(curve, MARGIN)
    low, high = (bound[0] for bound in curve.interval())
    inside = (low <= world.rates) & (world.rates <= high)
    chosen = decision.chosen
    return (
        policy,
        len(situation.asked),
        world.regret(chosen.epoch),
        chosen.regret,
        float(inside.mean()),
        float(inside[chosen.epoch - 1]),
    )


def by_hand(situation: Situation) -> int:
    """The finalist with the highest count on the further seeds, of equals the latest."""
    again = [row for row in situation.rows if int(row.seed) not in SPACE.seeds]
    passes: dict[int, int] = defaultdict(int)
    for row in again:
        passes[row.epoch] += row.outcome == "pass"
    return max(passes, key=lambda epoch: (passes[epoch], epoch))


def stopped_training(setting: Setting, number: int) -> tuple[int, float]:
    """(epochs not trained, points of rate given up by that) when two pictures an epoch are judged as they come.

    Asked every sixth epoch from the hundredth on.
    """
    world, rows = World(setting, number), []
    for epoch in range(1, EPOCHS + 1):
        rows += [world.row(Ask(epoch, 1.0, SPACE.contexts[0], 1000 * epoch + i)) for i in range(2)]
        if epoch % 6 or epoch < 100:
            continue
        curve = estimate(make_table(rows), draws=500)
        advice = training_advice(curve, planned_epochs=EPOCHS, exposures=epoch, mode="on", min_exposures=100)
        if advice.action == "stop":
            return advice.saved_epochs, float(world.rates.max() - world.rates[:epoch].max())
    return 0, 0.0


def analysis_seconds(seeds: int) -> float:
    """CPU seconds of `analyse` on 1,000 epochs at five weights, `seeds` pictures of each."""
    rng = np.random.default_rng(0)
    rates = 0.3 + 0.6 * np.exp(-(((np.arange(1000) - 500) / 200) ** 2))
    rows = [
        Row(epoch + 1, "pass" if rng.random() < rate - 0.1 * at else "fail", str(seed), 0.6 + 0.2 * at)
        for epoch, rate in enumerate(rates)
        for at in range(5)
        for seed in range(seeds)
    ]
    began = time.process_time()
    analyse(rows)
    return time.process_time() - began


def lines_of(setting: Setting, results: Iterable[list[Result]]) -> list[Line]:
    """Results of many studies, summed up per policy and number of pictures."""
    groups: dict[tuple[str, int], list[Result]] = defaultdict(list)
    for of_study in results:
        for result in of_study:
            # A coarse-to-fine protocol may end a few pictures before its budget.
            groups[result[0], result[1]].append(result)
    lines = []
    for (policy, pictures), group in groups.items():
        expected, covered, chosen = (float(np.mean([r[i] for r in group])) for i in (3, 4, 5))
        lines.append(Line(setting.name, policy, pictures, tuple(r[2] for r in group), expected, covered, chosen))
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Run it; 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decide", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--curves", type=int, default=200, help="simulated studies per setting (200)")
    parser.add_argument("--first", type=int, default=0, help="number of the first study (0): others, to look again")
    parser.add_argument("--workers", type=int, default=1, help="processes (1); figures do not depend on it")
    parser.add_argument("--out", type=Path, help="write the page here as well")
    options = parser.parse_args(arguments)
    numbers = range(options.first, options.first + options.curves)
    few = numbers[: max(1, options.curves // 5)]
    lines: list[Line] = []
    stops: dict[str, list[tuple[int, float]]] = {}
    # Read by the workers when they import numpy: the matrices are too small for threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with get_context("spawn").Pool(options.workers) as pool:
        large = {seeds: pool.apply(analysis_seconds, (seeds,)) for seeds in (1, 6)}
        for setting in SETTINGS:
            lines += lines_of(setting, pool.imap(partial(study, setting, few), numbers))
            print(f"{setting.name}: done", file=sys.stderr)
        for setting in SETTINGS[:2]:
            stops[setting.name] = list(pool.imap(partial(stopped_training, setting), few))
        for shape in OTHER_SHAPES:
            setting = Setting(1.0, shape=shape)
            lines += lines_of(setting, pool.imap(partial(study, setting, range(0)), few))
        pool.close()
        pool.join()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = " ".join(["python -m benchmarks.decide", *(arguments if arguments is not None else sys.argv[1:])])
    about = (__doc__ or "").split("\n\n", 2)[2].strip()
    page = report(about, lines, stops, large, command, used.ru_utime + used.ru_stime)
    print(page)
    if options.out:
        options.out.write_text(page)
    return 0 if all(promise.kept for promise in promises(lines)) else 1


if __name__ == "__main__":
    sys.exit(main())
