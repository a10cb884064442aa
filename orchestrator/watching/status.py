"""`status`: what the ledger of a study says, and who runs it, without starting anything and within a second."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.grid import pictures_to_show
from orchestrator.core.errors import ConfigError, MissingError
from orchestrator.core.layout import Layout
from orchestrator.core.lock import Holder, holder_of
from orchestrator.core.study import EpochRate
from orchestrator.deciding.policy import cells_beside
from orchestrator.deciding.stopping import as_stopped
from orchestrator.keeping.uploads import Uploads, read_uploads
from orchestrator.planning.config import StudyConfig, load_config, parse_config
from orchestrator.planning.target import build_target
from orchestrator.planning.wanted import Target, TrialTarget
from orchestrator.record.state import StudyState
from orchestrator.watching.glance import Glance, last_step
from orchestrator.watching.lines import choice_lines, curve_lines
from orchestrator.watching.pulse import Now, read_now
from orchestrator.watching.watch import Tally

TROUBLE = re.compile(r"\S+ \S+ (given up|attempt \d+ failed|lost, |trial failed|file set apart|warning|W&B )")
"""Lines of run.log that say what went wrong."""
LOG_TAIL = 200_000
PACE_EPOCHS = 5


def find_layout(name: str) -> Layout:
    """The folder of a study named by its YAML, its folder, or its name below runs/. Raises MissingError."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        layout = load_config(path).layout()
    else:
        layout = next((Layout(p) for p in (path, Path("runs") / name) if (p / "ledger.jsonl").exists()), Layout(path))
    if not layout.ledger.exists():
        there = sorted(p.parent.name for p in Path("runs").glob("*/ledger.jsonl"))
        known = f"studies under runs/: {', '.join(there)}" if there else "start one: python -m orchestrator run CONF"
        raise MissingError("no ledger: this study has not been run here", where=str(layout.root), fix=known)
    return layout


def recorded_config(state: StudyState, layout: Layout) -> StudyConfig:
    """The configuration of the latest run, as the ledger keeps it."""
    if not state.config:
        raise ConfigError("the ledger has no configuration: the study never started", where=str(layout.ledger))
    return parse_config(state.config)


@dataclass(frozen=True, slots=True)
class Status:
    """How far a study is. Times are seconds, or Unix seconds where the name ends in `_at`."""

    layout: Layout
    glance: Glance
    target: Target
    holder: Holder | None
    now: Now | None
    uploads: Uploads | None
    total: int
    drawn: int
    judged: int
    rates: list[EpochRate]
    training: Mapping[str, Mapping[str, float]]
    """The latest step of each trial."""
    trouble: list[str]
    at: float

    @property
    def state(self) -> StudyState:
        return self.glance.state

    @property
    def standing(self) -> str:
        """One word."""
        if self.holder is not None:
            return "running"
        if self.state.finished_at is not None:
            return "finished"
        return "failed" if any(trial.error for trial in self.state.trials.values()) else "stopped"

    @property
    def wall_s(self) -> float:
        """Time of all runs; that of one under way until now."""
        return self.glance.wall_s + (max(0.0, self.at - self.state.last_event_at) if self.holder else 0.0)

    @property
    def pictures_per_minute(self) -> float | None:
        """The pace of the latest pictures of the latest run; None before the second."""
        times = self.glance.drawn_at
        return 60 * (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else None

    @property
    def training_left_s(self) -> float | None:
        """What the missing epochs take at the pace of the latest ones; None before the first."""
        left = 0.0
        for trial in self.target.trials:
            known = self.state.trials.get(trial.trial)
            newest = max((e for t, e in self.state.checkpoints if t == trial.trial), default=0)
            if newest >= trial.epochs or (known and (known.finished or known.stopped)):
                continue
            paces = [
                c.seconds
                for (t, e), c in self.state.checkpoints.items()
                if t == trial.trial and e > newest - PACE_EPOCHS
            ]
            if not paces:
                return None
            left += (trial.epochs - newest) * sum(paces) / len(paces)
        return left

    @property
    def left_s(self) -> float | None:
        """Until the end, if training and drawing go on side by side as they do. None while that is unknown."""
        if self.state.finished_at is not None:
            return 0.0
        training, missing = self.training_left_s, max(0, self.total - self.drawn)
        pace = self.pictures_per_minute
        if training is None or (missing and not pace):
            return None
        return max(training, 60 * missing / pace if pace else 0.0)

    def dollars(self, seconds: float) -> float | None:
        """What so much wall time costs; None when nobody said what an hour costs."""
        price = self.target.dollars_per_hour
        return None if price is None else seconds / 3600 * price

    def line(self) -> str:
        """All of it on one line, for logs."""
        saved = sum((t.trial, e) in self.state.checkpoints for t in self.target.trials for e in t.saved)
        epochs = sum(len(t.saved) for t in self.target.trials)
        left = "" if self.left_s is None else f", about {duration(self.left_s)} left"
        return f"{saved} of {epochs} epochs, {self.drawn} of {self.total} pictures, {self.judged} judged{left}"

    def to_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        state, left = self.state, self.left_s
        return {
            "study": state.study or self.layout.root.name,
            "standing": self.standing,
            "process": None
            if self.holder is None
            else {"pid": self.holder.pid, "host": self.holder.host, "since": self.holder.since},
            "last_fact_at": state.last_event_at,
            "runs": len(state.opened_at),
            "trials": [self._trial_json(trial) for trial in self.target.trials],
            "pictures": {
                "total": self.total,
                "drawn": self.drawn,
                "judged": self.judged,
                "per_minute": self.pictures_per_minute,
            },
            "actors": None
            if self.now is None
            else {"in_flight": dict(self.now.in_flight), "places": dict(self.now.places), "awaited": self.now.awaited},
            "left_s": left,
            "wall_s": round(self.wall_s, 3),
            "dollars": self.dollars(self.wall_s),
            "dollars_left": None if left is None else self.dollars(left),
            "set_apart": len(state.quarantined),
            "trouble": self.trouble,
            "uploads": None
            if self.uploads is None
            else {
                "place": self.uploads.place,
                "waiting_bytes": self.uploads.waiting_bytes,
                "outage": self.uploads.outage,
            },
            "rates": [rate.to_json() | {"rate": rate.rate if rate.scored else None} for rate in self.rates],
            "choice": None if state.choice is None else state.choice.to_json(),
        }

    def _trial_json(self, wanted: TrialTarget) -> dict[str, Any]:
        known, step = self.state.trials.get(wanted.trial), self.training.get(wanted.trial, {})
        saved = [epoch for epoch in wanted.saved if (wanted.trial, epoch) in self.state.checkpoints]
        return {
            "trial": wanted.trial,
            "epochs": wanted.epochs,
            "saved": len(saved),
            "to_save": len(wanted.saved),
            "newest_epoch": saved[-1] if saved else None,
            "step": step.get("step"),
            "loss": step.get("loss"),
            "attempts": known.attempts if known else 0,
            "finished": bool(known and known.finished),
            "stopped": bool(known and known.stopped),
            "error": known.error if known else "",
        }


def study_status(layout: Layout, target: Target | None = None) -> Status:
    """Look at a study, which wants what its ledger recorded unless a `target` is given. Raises StudyError."""
    glance = Glance.of(layout.ledger)
    if target is None:
        config = recorded_config(glance.state, layout)
        target = build_target(config, dataset_sha256=glance.hashes[0], base_sha256=glance.hashes[1])
    target = as_stopped(target, glance.state)
    tally, holder = Tally(target), holder_of(layout.lock)
    drawn, judged = glance.counts(target, tally.confirm)
    return Status(
        layout=layout,
        glance=glance,
        target=target,
        holder=holder,
        now=read_now(layout) if holder is not None else None,
        uploads=read_uploads(layout),
        total=tally.total,
        drawn=drawn,
        judged=judged,
        rates=glance.rates(target),
        training={t.trial: last_step(layout.metrics(t.trial)) for t in target.trials},
        trouble=_trouble(layout.log),
        at=time.time(),
    )


def status_lines(status: Status) -> Iterator[str]:
    """Progress in words and figures, of what the study wants now. Most important first; fits 80 columns mostly."""
    state, target = status.state, status.target
    who = f" by process {status.holder.pid} on {status.holder.host}" if status.holder else ""
    ago = duration(max(0.0, status.at - state.last_event_at))
    yield f"study    {state.study or status.layout.root.name}: {status.standing}{who}; last fact {ago} ago"
    for trial in target.trials:
        yield from _trial_lines(status, trial)
    pace = status.pictures_per_minute
    speed = f", {pace:.0f} a minute" if pace and status.holder else ""
    apart = f", {len(state.quarantined)} files set apart" if state.quarantined else ""
    yield f"grid     {status.drawn} of {status.total} pictures drawn, {status.judged} judged{speed}{apart}"
    if beside := pictures_to_show(target.grid, [trial.drawn for trial in target.trials]):
        there = sum(key in status.glance.cells for key in cells_beside(target, state))
        yield f"beside   {there} of {beside} controls and probes drawn"
    if status.now is not None:
        yield f"actors   {status.now.line()}"
    yield f"time     {_time_line(status)}"
    if status.uploads is not None:
        yield f"kept     {status.uploads.line()}"
    for line in status.trouble:
        yield f"trouble  {line}"
    if status.rates:
        yield from _curve_lines(status.rates)
    if state.choice is not None:
        yield from choice_lines(state.choice, status.layout)
    elif status.holder is None and state.finished_at is None:
        yield "next     python -m orchestrator run CONF goes on where it ended"


def _trial_lines(status: Status, wanted: TrialTarget) -> Iterator[str]:
    trial, known = wanted.trial, status.state.trials.get(wanted.trial)
    saved = [epoch for epoch in wanted.saved if (trial, epoch) in status.state.checkpoints]
    step = status.training.get(trial, {})
    newest = f", newest epoch {saved[-1]}" if saved and saved[-1] != wanted.epochs else ""
    doing = ""
    if step and status.holder and len(saved) < len(wanted.saved) and "steps_per_epoch" in step:
        at, of = int(step["step"]), int(step["steps_per_epoch"]) * wanted.epochs
        doing = f"; step {at} of {of}, loss {step['loss']:.3f}, {step['seconds']:.2g} s a step"
    yield f"trial    {trial}: {len(saved)} of {len(wanted.saved)} epochs saved{newest}{doing}"
    if known and known.error:
        yield f"         failed: {known.error}"
    if known and known.advice:
        advice = known.advice
        did = f"stopped, saving {advice.saving()}" if known.stopped else f"stopping would have saved {advice.saving()}"
        yield f"         at epoch {advice.epoch}: {did}; {advice.reason}"


def _time_line(status: Status) -> str:
    spent, left = status.wall_s, status.left_s
    price = status.dollars(spent)
    said = f"{duration(spent)} so far" + ("" if price is None else f", ${price:.2f}")
    if status.state.finished_at is not None:
        return said
    if left is None:
        return f"{said}; how long it takes is not known yet"
    more = status.dollars(left)
    return f"{said}; about {duration(left)} left" + ("" if more is None else f", ${more:.2f}")


SHOWN_EPOCHS = 6


def _curve_lines(rates: list[EpochRate]) -> Iterator[str]:
    """The rate by epoch, the latest epochs only where there are many."""
    for place in sorted({(r.trial, r.weight) for r in rates}):
        own = [r for r in rates if (r.trial, r.weight) == place]
        before = f"(… {len(own) - SHOWN_EPOCHS} before) " if len(own) > SHOWN_EPOCHS else ""
        for line in curve_lines(own[-SHOWN_EPOCHS:]):
            head, _, figures = line.partition("  ")
            name = "" if len({(r.trial, r.weight) for r in rates}) == 1 else f"{place[0]} at {place[1]:g}: "
            yield f"passed   {name}{before}{figures or head}"


def _trouble(log: Path, most: int = 3) -> list[str]:
    """The latest lines of the log that say what went wrong, since the latest run began."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - LOG_TAIL))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    begun = max((at for at, line in enumerate(lines) if " study opened | " in line), default=0)
    return [line[:300] for line in lines[begun:] if TROUBLE.match(line)][-most:]


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
