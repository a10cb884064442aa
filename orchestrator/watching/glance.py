"""A ledger at a glance: counts and rates without building every cell, so that `status` answers at once.

What it says of pictures and rates is what `watch.Tally` and `policy.rates` say of the whole state
(`tests/orchestrator/test_glance.py`). Lines about pictures, which are nearly all, are read by the fixed form that
`ledger.Event.to_line` gives them; a line of any other form is read as JSON.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from evaluators.grid import cell_of
from evaluators.rates import counted_rate
from orchestrator.core.study import EpochRate, Outcome
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Event, read_events
from orchestrator.record.state import StudyState

RECENT = 200
"""Pictures from which the pace is taken."""

_DRAWN = re.compile(
    rb'\{"v": 1, "t": ([\d.]+), "kind": "sample_drawn", "cell": \{"trial": "([^"\\]+)", "epoch": (\d+), '
    rb'.*?"adapter_sha256": "(\w*)", "weight": ([\d.e-]+), "prompt": \{"name": "([^"\\]+)", '
    rb'.*?\}, "seed": (\d+), .*"purpose": "(\w+)".*?\}, "sample": \{"cell_key": "(\w+)", .*"seconds": ([\d.e-]+)\}\}\n'
)
_JUDGED = re.compile(
    rb'\{"v": 1, "t": ([\d.]+), "kind": "verdict_given", "verdict": \{"cell_key": "(\w+)", "judge": "([^"\\]+)", '
    rb'"judge_version": (\d+), "outcome": "(\w+)"'
)


@dataclass(frozen=True, slots=True)
class Group:
    """What many cells have in common."""

    trial: str
    epoch: int
    adapter_sha256: str
    weight: float
    prompt: str
    purpose: str


@dataclass(slots=True)
class Glance:
    """Everything but the cells is in `state`; the cells are here, by key."""

    state: StudyState = field(default_factory=StudyState)
    hashes: tuple[str, str] = ("", "")
    """Of dataset and base, as the latest run was opened with."""
    cells: dict[str, tuple[Group, int]] = field(default_factory=dict)
    """Key of each cell with a picture -> its group and seed."""
    outcomes: dict[tuple[str, tuple[str, int]], Outcome] = field(default_factory=dict)
    """By key and judge (name, version)."""
    drawing_s: float = 0.0
    wall_s: float = 0.0
    """Time of all runs, from each opening to its last fact."""
    drawn_at: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    """When the latest pictures of the latest run were drawn."""

    @classmethod
    def of(cls, ledger: Path) -> Glance:
        """Read a ledger. Raises VolumeError for one that is damaged."""
        glance = cls()
        for event in _others(ledger, glance):
            glance._take_in(event)
        return glance

    def counts(self, target: Target, confirm: int) -> tuple[int, int]:
        """Pictures that the study wants: how many are drawn, and how many of those its judge has seen."""
        judged = {key for key, judge in self.outcomes if judge == target.judge}
        wanted = self._wanted(target)
        select = {key for key, (group, seed) in self.cells.items() if wanted(key, group, seed)}
        fresh = {key for key, (group, _) in self.cells.items() if group.purpose == "confirm"}
        return tuple(len(select & there) + min(len(fresh & there), confirm) for there in (self.cells.keys(), judged))  # type: ignore[return-value]

    def rates(self, target: Target) -> list[EpochRate]:
        """The curve so far, by trial, weight and epoch."""
        if target.judge is None:
            return []
        wanted = self._wanted(target)
        groups: dict[tuple[str, float, int], Counter[Outcome]] = {}
        for key, (group, seed) in self.cells.items():
            outcome = self.outcomes.get((key, target.judge))
            if outcome is not None and wanted(key, group, seed):
                counts = groups.setdefault((group.trial, group.weight, group.epoch), Counter())
                counts[outcome] += 1
        return [counted_rate(t, e, w, groups[t, w, e]) for t, w, e in sorted(groups)]

    def _wanted(self, target: Target) -> _Wanted:
        return _Wanted(target, self.state)

    def drawn(self, at: float, key: str, group: Group, seed: int, seconds: float) -> None:
        """A picture was drawn."""
        self._pass(at)
        self.cells[key] = group, seed
        self.drawing_s += seconds
        self.drawn_at.append(at)

    def judged(self, at: float, key: str, judge: tuple[str, int], outcome: Outcome) -> None:
        """A verdict was given."""
        self._pass(at)
        self.outcomes[key, judge] = outcome

    def _pass(self, at: float) -> None:
        before = self.state.last_event_at
        if 0 < before < at:
            self.wall_s += at - before
        self.state.last_event_at = at

    def _take_in(self, event: Event) -> None:
        if event.kind == "study_opened":
            self.hashes = event.data["dataset_sha256"], event.data["base_sha256"]
            self.drawn_at.clear()
        else:
            self._pass(event.time)
        self.state.apply(event)
        if event.kind == "sample_drawn":
            (cell,), (sample,) = self.state.cells.values(), self.state.samples.values()
            group = Group(cell.trial, cell.epoch, cell.adapter_sha256, cell.weight, cell.prompt.name, cell.purpose)
            self.drawn(event.time, sample.cell_key, group, cell.seed, sample.seconds)
            self.state.cells.clear()
            self.state.samples.clear()
        elif event.kind == "verdict_given":
            (verdict,) = self.state.verdicts.values()
            self.judged(event.time, verdict.cell_key, (verdict.judge, verdict.judge_version), verdict.outcome)
            self.state.verdicts.clear()
        elif event.kind == "file_quarantined" and "cell_key" in event.data:
            self.cells.pop(event.data["cell_key"], None)
            for judge in {judge for _, judge in self.outcomes}:
                self.outcomes.pop((event.data["cell_key"], judge), None)


class _Wanted:
    """Whether a cell speaks about an epoch as the study is configured now. Of a group one key is worked out."""

    def __init__(self, target: Target, state: StudyState) -> None:
        self._target, self._state = target, state
        self._drawn = {(t.trial, epoch) for t in target.trials for epoch in t.drawn}
        self._prompts = {prompt.name: prompt for prompt in target.grid.rate_prompts}
        self._seeds = set(target.grid.seeds) if target.decide.policy == "full" else None
        self._known: dict[Group, bool] = {}

    def __call__(self, key: str, group: Group, seed: int) -> bool:
        if self._seeds is not None and seed not in self._seeds:
            return False
        if group not in self._known:
            self._known[group] = self._is_current(key, group, seed)
        return self._known[group]

    def _is_current(self, key: str, group: Group, seed: int) -> bool:
        checkpoint = self._state.checkpoints.get((group.trial, group.epoch))
        prompt = self._prompts.get(group.prompt)
        if checkpoint is None or prompt is None or checkpoint.sha256 != group.adapter_sha256:
            return False
        if group.purpose != "select" or (group.trial, group.epoch) not in self._drawn:
            return False
        grid = self._target.grid
        if group.weight not in grid.weights:
            return False
        return cell_of(checkpoint, group.weight, prompt, seed, grid, self._target.base_sha256).key == key


def _others(ledger: Path, glance: Glance) -> Iterator[Event]:
    """Lines that are not of the two fixed forms, as events; the others are taken in on the way."""
    groups: dict[tuple[bytes, ...], Group] = {}
    with ledger.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if (drawn := _DRAWN.fullmatch(raw)) is not None:
                at, *common, seed, purpose, key, seconds = drawn.groups()
                place = (*common, purpose)
                if place not in groups:
                    trial, epoch, adapter, weight, prompt = (part.decode() for part in common)
                    groups[place] = Group(trial, int(epoch), adapter, float(weight), prompt, purpose.decode())
                glance.drawn(float(at), key.decode(), groups[place], int(seed), float(seconds))
            elif (judged := _JUDGED.match(raw)) is not None and raw.endswith(b"}}\n"):
                at, key, judge, version, outcome = judged.groups()
                glance.judged(float(at), key.decode(), (judge.decode(), int(version)), outcome.decode())  # type: ignore[arg-type]
            elif raw.endswith(b"\n"):
                try:
                    yield Event.from_line(raw.decode())
                except (ValueError, KeyError):
                    list(read_events(ledger))  # says which line it is and how to mend it
                    raise AssertionError(f"line {number} reads now") from None


def last_step(metrics: Path) -> dict[str, float]:
    """The latest step of a trial's metrics, read from the end; nothing where there is none."""
    try:
        with metrics.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - 4096))
            lines = [line for line in stream.read().splitlines() if line.startswith(b"{") and line.endswith(b"}")]
    except OSError:
        return {}
    return dict(json.loads(lines[-1])) if lines else {}
