"""A whole study without training: pictures of the drawn world with chosen defects, recorded as a real run would.

The rate rises, stays and falls a little, as it does in real studies; every picture shows what its findings say. The
ledger's clock is scripted, so the same arguments make the same study.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Literal
from unittest.mock import patch

from anima.pocket.cast import CAST, dressed
from anima.pocket.world import Figure, render, scene
from evaluators.rates import epoch_rate, epoch_rates, select
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import Layout
from orchestrator.core.study import Cell, Checkpoint, Choice, Finding, Sample, Verdict
from orchestrator.planning.config import StudyConfig, parse_config, to_data
from orchestrator.planning.target import build_target
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Ledger, read_events
from orchestrator.record.state import StudyState, replay

Purpose = Literal["select", "confirm"]
NAMES = tuple(CAST)
QUALITY = (0.02, 0.05, 0.15, 0.35, 0.6, 0.8, 0.93, 0.96, 0.97, 0.9, 0.7, 0.6)
"""Chance of a faultless picture as training goes on, from its beginning to its end."""
BASE, DATASET = "b" * 64, "d" * 64


@dataclass(frozen=True)
class DrawnStudy:
    """The study on disk and what its ledger says."""

    config: StudyConfig
    target: Target
    layout: Layout
    state: StudyState

    @property
    def trial(self) -> str:
        """The identity of its only trial."""
        return self.target.trials[0].trial


def draw_study(
    root: Path,
    *,
    epochs: int = 12,
    seeds: int = 8,
    confirm: int = 20,
    weights: tuple[float, ...] = (1.0,),
    stop_after: int | None = None,
    scale: int = 1,
) -> DrawnStudy:
    """Draw and record a study below `root`; `scale` enlarges its pictures, to stand for those of a real model.

    With `stop_after` the study ends there, unfinished: half of that epoch is not judged yet and nothing is chosen.
    """
    config = study_config(root, epochs=epochs, seeds=seeds, confirm=confirm, weights=weights, scale=scale)
    layout = config.layout()
    layout.root.mkdir(parents=True)
    target = build_target(config, dataset_sha256=DATASET, base_sha256=BASE)
    with scripted_clock() as clock:
        ledger = Ledger(layout.ledger)
        recorder = _Recorder(config, target, layout, ledger, clock, scale)
        recorder.open()
        for epoch in range(1, (stop_after or epochs) + 1):
            recorder.epoch(epoch, silent=range(seeds // 2, seeds) if epoch == stop_after else ())
        if stop_after is None:
            recorder.choose()
        ledger.close()
    return DrawnStudy(config, target, layout, replay(read_events(layout.ledger)))


def study_config(
    root: Path, *, epochs: int, seeds: int, confirm: int, weights: tuple[float, ...] = (1.0,), scale: int = 1
) -> StudyConfig:
    """The configuration such a study would have."""
    looks = {
        name: {
            "hair": f.hair,
            "style": f.style,
            "eyes": f.eyes,
            "accessory": f"{f.accessory[1]} {f.accessory[0]}" if f.accessory else None,
            "ahoge": f.ahoge,
        }
        for name, f in CAST.items()
    }
    prompt = {
        "name": "trio",
        "text": "3girls, left side: kanachan, center: keichan, right side: koharu, white background",
        "cast": list(NAMES),
    }
    grid = {
        "prompts": [prompt],
        "seeds": {"first": 1, "count": seeds},
        "weights": list(weights),
        "drawing": {"steps": 12, "width": 96 * scale, "height": 64 * scale},
    }
    data = {"study": "drawn", "base": "pocket", "volume": str(root), "cast": looks, "grid": grid}
    data |= {"train": {"epochs": epochs, "rank": 16}, "decide": {"margin": 0.05, "confirm_seeds": confirm}}
    return parse_config(data)


def draw_samples(study: DrawnStudy, epochs: Sequence[int], *, scale: int = 1) -> None:
    """Put pictures where training puts its samples, of two prompts and two seeds."""
    drawing = study.config.grid.drawing.drawing().to_json()
    for epoch, prompt, seed in product(epochs, ("kanachan, 1girl", "koharu reads (a book:1.2)"), (42, 43)):
        rng = Random(f"sample/{epoch}/{prompt}/{seed}")
        picture = render(scene([dressed(CAST[prompt.split()[0].strip(",")], rng)], rng, background="white")).image
        slug = re.sub(r"[^a-z0-9]+", "-", prompt).strip("-")
        path = study.layout.samples(study.trial, epoch) / f"{slug}-{seed}-0123abcd.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((picture.width * scale, picture.height * scale)).save(path)
        facts = {"prompt": prompt, "negative": "", "seed": seed, "drawing": drawing, "epoch": epoch}
        path.with_suffix(".json").write_text(json.dumps(facts))


@contextmanager
def scripted_clock() -> Iterator[SimpleNamespace]:
    """The ledger reads this clock: `now` is in Unix seconds and moves only when told to."""
    clock = SimpleNamespace(now=1_700_000_000.0)
    clock.time = lambda: clock.now
    with patch("orchestrator.record.ledger.time", clock):
        yield clock


def faulty_trio(rng: Random, epoch: int, epochs: int) -> tuple[list[Figure], list[Finding]]:
    """The trio with one or two defects, of the kinds that go with too little or too much training."""
    early = {"missing": 3.0, "absorbed": 4.0, "count": 1.5, "migrated": 1.0}
    late = {"drift": 4.0, "duplicated": 2.0, "migrated": 1.0}
    odds = early if epoch <= epochs * 0.6 else late
    kinds = {rng.choices(list(odds), list(odds.values()))[0] for _ in range(2 if rng.random() < 0.4 else 1)}
    figures = [dressed(CAST[name], rng) for name in NAMES]
    findings: list[Finding] = []
    for kind in sorted(kinds - {"count"}):
        findings.append(_spoil(figures, kind, rng))
    if "count" in kinds:
        figures.pop()
        return figures, [Finding("count", expected="3", seen="2"), *(f for f in findings if f.position < 2)]
    return figures, findings


def _spoil(figures: list[Figure], kind: str, rng: Random) -> Finding:
    """Make one defect of this kind in place and return the finding it calls for."""
    if kind == "missing":
        figures[1] = replace(figures[1], accessory=None)
        return Finding("missing", "keichan", "accessory", "blue ribbon", position=1)
    if kind == "absorbed":
        figures[2] = replace(CAST["keichan"], shirt=figures[2].shirt)
        return Finding("absorbed", "koharu", seen="keichan", position=2)
    if kind == "drift":
        figures[0] = replace(figures[0], hair=rng.choice(["orange", "orange", "red"]))
        return Finding("drift", "kanachan", "hair", "brown", figures[0].hair, position=0)
    figures[1] = replace(figures[1], ahoge=True)
    if kind == "duplicated":
        return Finding("duplicated", "kanachan", "ahoge", "ahoge", other="keichan", position=0)
    figures[0] = replace(figures[0], ahoge=False)
    return Finding("migrated", "kanachan", "ahoge", "ahoge", other="keichan", position=0)


def _quality(progress: float) -> float:
    """`QUALITY` at a point of training from 0 (excluded) to 1, between its values."""
    at = max(0.0, progress * len(QUALITY) - 1)
    below = min(int(at), len(QUALITY) - 2)
    return QUALITY[below] + (at - below) * (QUALITY[below + 1] - QUALITY[below])


def _read_out(figure: Figure) -> str:
    worn = f", {figure.accessory[1]} {figure.accessory[0]}" if figure.accessory else ""
    return f"{figure.hair} hair, {figure.style}, {figure.eyes} eyes{worn}{', ahoge' if figure.ahoge else ''}"


class _Recorder:
    """Draws and records one fact after another, as the driver of a study does."""

    def __init__(
        self,
        config: StudyConfig,
        target: Target,
        layout: Layout,
        ledger: Ledger,
        clock: SimpleNamespace,
        scale: int,
    ) -> None:
        self._config, self._layout, self._ledger, self._clock, self._scale = config, layout, ledger, clock, scale
        self._trial, self._epochs = target.trials[0].trial, target.trials[0].epochs
        assert target.judge is not None
        self._judge = target.judge
        self._checkpoints: dict[int, Checkpoint] = {}
        self._cells: list[Cell] = []
        self._verdicts: dict[str, Verdict] = {}

    def open(self) -> None:
        self._ledger.record(
            "study_opened", study="drawn", base_sha256=BASE, dataset_sha256=DATASET, config=to_data(self._config)
        )
        self._ledger.record("trial_started", trial=self._trial, attempt=1, epochs=self._epochs, from_epoch=0)

    def epoch(self, epoch: int, *, silent: range | tuple[int, ...] = ()) -> None:
        """Save an epoch and draw its cells; cells at the `silent` places are drawn but not judged."""
        self._clock.now += 9.5
        self._save(epoch)
        for weight in self._config.grid.weights:
            for place, seed in enumerate(self._config.grid.seeds):
                self._draw(epoch, weight, seed, "select", judged=place not in silent)
        if epoch == self._epochs:
            self._ledger.record("trial_finished", trial=self._trial)

    def choose(self) -> None:
        """Choose, draw fresh seeds of the chosen epoch, and record the choice."""
        selection = select(epoch_rates(self._cells, self._verdicts), self._config.decide.margin)
        chosen, first = selection.chosen, self._config.decide.confirm_first_seed
        fresh = [
            self._verdicts[self._draw(chosen.epoch, chosen.weight, first + i, "confirm", judged=True).key]
            for i in range(self._config.decide.confirm_seeds)
        ]
        measured = epoch_rate(self._trial, chosen.epoch, chosen.weight, fresh)
        adapter = self._checkpoints[chosen.epoch]
        choice = Choice(
            trial=self._trial,
            epoch=chosen.epoch,
            weight=chosen.weight,
            adapter=adapter.adapter,
            adapter_sha256=adapter.sha256,
            first_try_rate=measured.rate,
            interval=(measured.low, measured.high),
            n=measured.scored,
            plateau=selection.plateau,
            selection=chosen,
            reason=selection.reason,
            runner_up=selection.runner_up,
        )
        self._ledger.record("choice_made", choice=choice.to_json())
        self._ledger.record("study_finished", seconds=self._clock.now - 1_700_000_000.0)

    def _save(self, epoch: int) -> None:
        path = self._layout.adapter(self._trial, epoch)
        path.parent.mkdir(parents=True)
        path.write_bytes(f"adapter of epoch {epoch}".encode())
        rng, steps = Random(f"loss/{epoch}"), 5
        losses = [0.02 + 0.08 * 0.8 ** (epoch - 1 + i / steps) + rng.uniform(0, 0.004) for i in range(steps)]
        with self._layout.metrics(self._trial).open("a") as stream:
            for i, loss in enumerate(losses):
                facts = {"trial": self._trial, "epoch": epoch, "step": (epoch - 1) * steps + i + 1, "loss": loss}
                stream.write(json.dumps(facts | {"learning_rate": 1e-3, "seconds": 1.9}) + "\n")
        checkpoint = Checkpoint(
            trial=self._trial,
            epoch=epoch,
            adapter=self._layout.relative(path),
            sha256=file_sha256(path),
            size_bytes=path.stat().st_size,
            step=epoch * steps,
            loss=sum(losses) / steps,
            exposures_per_image=float(epoch),
            seconds=9.1 + 0.1 * (epoch % 5),
        )
        self._checkpoints[epoch] = checkpoint
        self._ledger.record("checkpoint_saved", checkpoint=checkpoint.to_json())

    def _draw(self, epoch: int, weight: float, seed: int, purpose: Purpose, *, judged: bool) -> Cell:
        checkpoint, grid = self._checkpoints[epoch], self._config.grid
        cell = Cell(
            trial=self._trial,
            epoch=epoch,
            adapter=checkpoint.adapter,
            adapter_sha256=checkpoint.sha256,
            weight=weight,
            prompt=grid.prompts[0].prompt(),
            seed=seed,
            drawing=grid.drawing.drawing(),
            base_sha256=BASE,
            purpose=purpose,
        )
        rng = Random(f"{epoch}/{weight}/{seed}")
        good = rng.random() < _quality(epoch / self._epochs) * min(weight, 1)
        clean = [dressed(CAST[name], rng) for name in NAMES]
        figures, findings = (clean, []) if good else faulty_trio(rng, epoch, self._epochs)
        picture = render(scene(figures, rng, background="white", touching=False)).image
        path = self._layout.image(self._trial, epoch, cell.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((picture.width * self._scale, picture.height * self._scale)).save(path)
        self._clock.now += 0.21
        sample = Sample(cell.key, self._layout.relative(path), file_sha256(path), 0.18)
        self._ledger.record("sample_drawn", cell=cell.to_json(), sample=sample.to_json())
        if judged:
            seen = tuple(_read_out(f) for f in figures)
            verdict = Verdict(cell.key, *self._judge, "pass" if good else "fail", tuple(findings), seen)
            self._cells.append(cell)
            self._verdicts[cell.key] = verdict
            self._ledger.record("verdict_given", verdict=verdict.to_json())
        return cell
