"""`status` and `report`: what the ledger of a study says, without starting anything."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from evaluators.grid import pictures_to_show
from orchestrator.board import Board
from orchestrator.config import StudyConfig, load_config, parse_config
from orchestrator.core.errors import ConfigError, MissingError
from orchestrator.core.layout import Layout
from orchestrator.ledger import read_events
from orchestrator.policy import Target, TrialTarget, cells_beside, rates
from orchestrator.state import StudyState, replay
from orchestrator.stopping import as_stopped
from orchestrator.uploads import read_uploads
from orchestrator.watch import Tally, choice_lines, curve_text


def find_layout(name: str) -> Layout:
    """The folder of a study named by its YAML, its folder, or its name below runs/. Raises MissingError."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        layout = load_config(path).layout()
    else:
        layout = next((Layout(p) for p in (path, Path("runs") / name) if (p / "ledger.jsonl").exists()), Layout(path))
    if not layout.ledger.exists():
        raise MissingError("no ledger: this study has not been run here", where=str(layout.root))
    return layout


def show_status(name: str, console: Console) -> int:
    """Print how far a study is."""
    from orchestrator.target import recorded_target

    layout = find_layout(name)
    state = replay(read_events(layout.ledger))
    target = recorded_target(state, recorded_config(state, layout))
    state.follower = Board(target, state)
    for line in status_lines(state, target, layout):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def status_lines(state: StudyState, target: Target, layout: Layout) -> list[str]:
    """Progress in words and figures, of what the study wants now."""
    target = as_stopped(target, state)
    ago, tally = max(0.0, time.time() - state.last_event_at), Tally(target)
    lines = [
        f"study    {state.study or layout.root.name} ({_standing(state)}; last fact {_duration(ago)} ago)",
        *(_trial_line(state, trial) for trial in target.trials),
        f"grid     {tally.drawn(state)} of {tally.total} pictures drawn, {tally.judged(state)} judged,"
        f" {len(state.quarantined)} files set apart",
        *_beside_line(state, target),
    ]
    if uploads := read_uploads(layout):
        lines.append(f"kept     {uploads.line()}")
    if curve := rates(target, state):
        lines.append(str(curve_text(curve)))
    if state.choice is not None:
        lines += choice_lines(state.choice, layout)
    return lines


def rebuild_report(name: str, console: Console) -> int:
    """Write report.html again from the ledger alone."""
    from orchestrator.report import write_report

    layout = find_layout(name)
    state = replay(read_events(layout.ledger))
    console.print(f"report   {write_report(state, layout, recorded_config(state, layout))}", highlight=False)
    return 0


def recorded_config(state: StudyState, layout: Layout) -> StudyConfig:
    """The configuration of the latest run, as the ledger keeps it."""
    if not state.config:
        raise ConfigError("the ledger has no configuration: the study never started", where=str(layout.ledger))
    return parse_config(state.config)


def _standing(state: StudyState) -> str:
    if state.finished_at is not None:
        return "finished"
    failed = [trial for trial, known in state.trials.items() if known.error]
    return f"failed: {', '.join(failed)}" if failed else "not finished"


def _beside_line(state: StudyState, target: Target) -> list[str]:
    """Controls and probes, where the grid has any."""
    wanted = pictures_to_show(target.grid, [trial.drawn for trial in target.trials])
    drawn = sum(key in state.samples for key in cells_beside(target, state))
    return [f"beside   {drawn} of {wanted} controls and probes drawn"] if wanted else []


def _trial_line(state: StudyState, wanted: TrialTarget) -> str:
    trial = wanted.trial
    known = state.trials.get(trial)
    saved = [epoch for epoch in wanted.saved if (trial, epoch) in state.checkpoints]
    newest = f"newest epoch {saved[-1]}" if saved else "no epoch yet"
    failed = f", failed: {known.error}" if known and known.error else ""
    line = f"trial    {trial}: {len(saved)} of {len(wanted.saved)} epochs saved, {newest} of {wanted.epochs}{failed}"
    if known is None or known.advice is None:
        return line
    advice = known.advice
    did = f"stopped, saving {advice.saving()}" if known.stopped else f"stopping would have saved {advice.saving()}"
    return f"{line}\n         at epoch {advice.epoch}: {did}; {advice.reason}"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
