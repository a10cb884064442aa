"""The controller: one loop that turns facts into decisions and decisions into work, until the study has what it wants.

    ledger ──replay──> state ──policy.decide──> decisions ──crew.submit──> trainer, artists, critic
      ^                                                                          │ write to the volume
      └────────────────────────── record <──────── reports <──── crew.wait ──────┘

- Ledger and state: what is known. Only the controller writes the ledger; it acts on nothing that is not recorded.
- Policy: pure functions; what is missing and may start now. It never remembers, so every run is also a resume.
- Crew: workers in Ray actors, or inline. They write files to the volume and report small facts; nothing else is shared.
- Reconcile: what is recorded but damaged is set apart and made again; what is there unrecorded is adopted.
- Watchers: screen, log, tracker. They are told; nothing is asked of them, and they do not reference the controller.

Failure is ordinary: work that fails rests and is proposed again by the policy, a bounded number of times. When only
work that was given up is left, the study stops with its error, and the same command continues it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from evaluators.critic import judge_of
from infra.volume import LocalVolume
from orchestrator.core.errors import AdapterError, StudyError
from orchestrator.core.fence import Fence
from orchestrator.core.study import Cell, Checkpoint, Sample, Verdict
from orchestrator.crew.work import Crew, Drawn, Failed, Judged, Lost, Report, Slice, Trained
from orchestrator.deciding.board import Board
from orchestrator.deciding.decisions import Adopt, Decision, Draw, Finish, Halt, Judge, Standing, Train, Work
from orchestrator.deciding.policy import decide
from orchestrator.deciding.stopping import advise, as_stopped
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import Event, EventKind, Ledger
from orchestrator.record.reconcile import (
    Loss,
    LostCheckpoint,
    files_of,
    losses,
    lost_checkpoints,
    lost_samples,
    unrecorded_checkpoints,
    unrecorded_sample,
)
from orchestrator.record.state import StudyState
from trainer.facts import StepLogged

Fact = tuple[EventKind, Mapping[str, Any]]

WAIT_S = 0.5
"""How long one look for reports takes at most; also how soon a request to stop is noticed."""


LONGEST_REST_S = 60.0
"""Work that is lost with one machine after another is given to the next one at least this often."""


class Watcher(Protocol):
    """Is told what happens, in the order it is recorded."""

    def event(self, event: Event, state: StudyState) -> None:
        """A fact was recorded; `state` already contains it."""

    def step(self, step: StepLogged) -> None:
        """The trainer made a step."""

    def note(self, sentence: str) -> None:
        """Something worth a line in the log happened."""


class Interrupted(Exception):
    """Someone asked the study to stop; it can be continued by the same command."""


@dataclass(slots=True)
class Failures:
    """What went wrong with which work: how often, until when it rests, and what was given up."""

    attempts: int
    back_off_s: float
    lost_nodes: int = 20
    """How often one piece of work may be lost with its machine; that is no attempt at it."""
    counts: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)
    rests_until: dict[str, float] = field(default_factory=dict)
    given_up: dict[str, StudyError | str] = field(default_factory=dict)

    def count(self, name: str, error: StudyError | str, now: float) -> bool:
        """Take in a failure; True when the work is given up. Errors a person must mend are never tried again."""
        self.counts[name] += 1
        mendable = isinstance(error, StudyError) and not isinstance(error, AdapterError)
        if mendable or self.counts[name] >= self.attempts:
            self.given_up[name] = error
            return True
        self.rests_until[name] = now + self.back_off_s * 2 ** (self.counts[name] - 1)
        return False

    def lose(self, name: str, reason: str, now: float) -> bool:
        """Take in that work was lost with its machine; True when that happened too often."""
        self.losses[name] += 1
        if self.losses[name] > self.lost_nodes:
            self.given_up[name] = StudyError(
                f"lost with its machine {self.losses[name]} times; the last time: {reason}",
                where=name,
                fix="look after the machines; the same command continues the study",
            )
            return True
        self.rests_until[name] = now + min(self.back_off_s * 2 ** (self.losses[name] - 1), LONGEST_REST_S)
        return False

    def done(self, name: str) -> None:
        """Work succeeded: what went wrong before is forgiven."""
        self.counts.pop(name, None)
        self.losses.pop(name, None)

    def held(self, now: float) -> frozenset[str]:
        """Names of work that must not start now."""
        return frozenset(self.given_up) | self.resting(now)

    def resting(self, now: float) -> frozenset[str]:
        """Names of work that will be tried again."""
        for name in [name for name, until in self.rests_until.items() if until <= now]:
            del self.rests_until[name]
        return frozenset(self.rests_until)

    def shortest_rest(self, now: float, *, at_most: float) -> float:
        """Seconds until some work may start again; 0 when none rests."""
        rests = [until - now for until in self.rests_until.values() if until > now]
        return min([at_most, *rests]) if rests else 0.0


class Controller:
    """Runs one study. Everything it knows is in `state`; everything it holds beside that may be lost at any time."""

    def __init__(
        self,
        target: Target,
        volume: LocalVolume,
        ledger: Ledger,
        state: StudyState,
        *,
        published: Callable[[str], Iterable[Checkpoint]],
        attempts: int = 3,
        back_off_s: float = 1.0,
        lost_nodes: int = 20,
        heal: Callable[[Loss], bool] = lambda _: False,
        watchers: Sequence[Watcher] = (),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.target, self.volume, self.state = target, volume, state
        self.stop_requested = self.end_requested = False
        self._ledger, self._published, self._watchers = ledger, published, watchers
        self._clock, self._sleep, self._heal = clock, sleep, heal
        self._failures = Failures(attempts, back_off_s, lost_nodes)
        self._in_flight: set[Work] = set()
        state.follower = Board(target, state)

    def reconcile(self) -> None:
        """Make the records and the volume agree."""
        for loss in list(losses(self.state, self.volume)):
            self._set_apart(loss)
        trials = [t.trial for t in self.target.trials]
        for checkpoint in list(unrecorded_checkpoints(trials, self.state, self._published)):
            self._take_in(checkpoint)

    def done(self) -> bool:
        """Whether nothing is left to do, so that nobody needs to be called."""
        return self.state.finished_at is not None and decide(self.target, self.state, Standing()) == (Finish(),)

    def open(self, study: str, config: Mapping[str, Any], *, base_sha256: str, dataset_sha256: str) -> None:
        """Record that a run begins, and with what."""
        facts = {"base_sha256": base_sha256, "dataset_sha256": dataset_sha256, "config": dict(config)}
        self._record("study_opened", study=study, **facts)

    def stop(self) -> None:
        """Ask for an end soon; may be called from anywhere."""
        self.stop_requested = True

    def end(self) -> None:
        """Ask for an end once the drawings, verdicts and epochs under way are there; may be called from anywhere."""
        self.end_requested = True

    @property
    def in_flight(self) -> tuple[Work, ...]:
        """What was submitted and not answered yet."""
        return tuple(self._in_flight)

    def run(self, crew: Crew) -> None:
        """Work until the study has what it wants. Raises Interrupted when stopped, StudyError when it cannot go on."""
        started, told = self._clock(), False
        try:
            while self.end_requested or not self._decide_and_act(crew):
                if self.stop_requested or (self.end_requested and not self._in_flight):
                    raise Interrupted
                if not self._in_flight:
                    self._sleep(self._failures.shortest_rest(self._clock(), at_most=WAIT_S))
                reports = crew.wait(WAIT_S)
                self._take_in_reports(reports)
                if self.end_requested:
                    if not told:
                        self._note("stopping | on request; first what is under way is finished, to the end of an epoch")
                    told = True
                    self._let_trainers_go(reports, crew)
        except (Interrupted, KeyboardInterrupt):
            self._record("run_interrupted", reason="asked to stop")
            raise
        self._record("study_finished", seconds=round(self._clock() - started, 3))

    def _let_trainers_go(self, reports: Sequence[Report], crew: Crew) -> None:
        """Before an end, a trial trains on until its next epoch is saved: what is left of it would be lost."""
        for report in reports:
            if isinstance(report, Trained) and report.slice.checkpoints and report.work in self._in_flight:
                self._in_flight.discard(report.work)
                crew.halt(report.work)

    def _decide_and_act(self, crew: Crew) -> bool:
        """One round of decisions; True when the study is finished."""
        now = self._clock()
        standing = Standing(frozenset(self._in_flight), self._failures.held(now), crew.slots)
        decisions = decide(self.target, self.state, standing)
        for decision in decisions:
            self._act(decision, crew)
        if not decisions and not self._in_flight and not self._failures.resting(now) and not crew.awaited():
            raise self._dead_end()
        return Finish() in decisions

    def _act(self, decision: Decision, crew: Crew) -> None:
        match decision:
            case Train(trial):
                facts = self._attempt(trial)
                self._record("trial_started", **facts)
                self._in_flight.add(decision)
                crew.submit(decision, attempt=facts["attempt"])
            case Draw(cells):
                if missing := self._adopt_drawn(cells):
                    self._submit(crew, Draw(missing))
            case Judge(cells):
                self._submit(crew, decision, [self.state.samples[cell.key] for cell in cells])
            case Halt(work):
                self._in_flight.discard(work)
                crew.halt(work)
            case Adopt(choice):
                self._record("choice_made", choice=choice.to_json())
            case Finish():
                pass

    def _submit(self, crew: Crew, work: Work, samples: Sequence[Any] = ()) -> None:
        self._in_flight.add(work)
        crew.submit(work, samples)

    def _attempt(self, trial: str) -> dict[str, Any]:
        known = self.state.trials.get(trial)
        saved = [epoch for name, epoch in self.state.checkpoints if name == trial]
        epochs = next(t.epochs for t in self.target.trials if t.trial == trial)
        attempt = 1 + max(known.attempts if known else 0, Fence(self.volume.layout.attempt(trial)).newest)
        return {"trial": trial, "attempt": attempt, "epochs": epochs, "from_epoch": max(saved, default=0)}

    def _take_in_reports(self, reports: Sequence[Report]) -> None:
        """Record what was reported; drawings and verdicts that came together wait for the disk together."""
        facts: list[Fact] = []
        for report in reports:
            match report:
                case Drawn(work, samples):
                    self._succeeded(work)
                    facts += (_drawn(cell, sample) for cell, sample in zip(work.cells, samples, strict=True))
                case Judged(work, verdicts):
                    self._succeeded(work)
                    facts += (_given(verdict) for verdict in verdicts)
        self._record_all(facts)
        for report in reports:
            if isinstance(report, Trained):
                self._take_in_turn(report.work, report.slice)
            elif isinstance(report, Failed):
                self._in_flight.discard(report.work)
                self._failed(report.work, report.error)
            elif isinstance(report, Lost):
                self._in_flight.discard(report.work)
                self._lost(report.work, report.reason)

    def _take_in_turn(self, work: Train, turn: Slice) -> None:
        for watcher in self._watchers:
            for step in turn.steps:
                watcher.step(step)
        for checkpoint in turn.checkpoints:
            self._failures.done(work.name)
            if self.state.checkpoints.get((checkpoint.trial, checkpoint.epoch)) != checkpoint:
                self._take_in(checkpoint)
                self._consider_stopping(work.trial)
        if turn.done:
            self._in_flight.discard(work)
            self._trial_ended(work)

    def _consider_stopping(self, trial: str) -> None:
        advice = advise(self.target, self.state, trial)
        if advice is not None:
            kind: EventKind = "trial_stopped" if self.target.decide.stop == "on" else "stop_advised"
            self._record(kind, advice=advice.to_json())

    def _succeeded(self, work: Work) -> None:
        self._in_flight.discard(work)
        self._failures.done(work.name)

    def _trial_ended(self, work: Train) -> None:
        wanted = next(t.saved for t in as_stopped(self.target, self.state).trials if t.trial == work.trial)
        missing = [epoch for epoch in wanted if (work.trial, epoch) not in self.state.checkpoints]
        if missing:
            self._failed(work, f"training ended, but these epochs are not on the volume: {missing}")
        else:
            self._succeeded(work)
            self._record("trial_finished", trial=work.trial)

    def _failed(self, work: Work, error: StudyError | str) -> None:
        """Work came to nothing: look whether a damaged file explains it, then let it rest or give it up."""
        for loss in list(self._suspects(work)):
            self._set_apart(loss)
        given_up = self._failures.count(work.name, error, self._clock())
        verdict = "given up" if given_up else f"attempt {self._failures.counts[work.name]} failed, will be tried again"
        self._note(f"{verdict} | {work.name} | {error}")
        if not given_up:
            return
        if isinstance(work, Train):
            attempt = self.state.trials[work.trial].attempts
            self._record("trial_failed", trial=work.trial, attempt=attempt, error=str(error))
        elif isinstance(work, Judge) and self.target.judge is not None and not isinstance(error, StudyError):
            del self._failures.given_up[work.name]
            self._record_all(
                [_given(_unscored(cell, judge_of(self.target.judge, cell.prompt), str(error))) for cell in work.cells]
            )

    def _lost(self, work: Work, reason: str) -> None:
        """Work went down with its machine: it is given to another one, after a rest that grows."""
        given_up = self._failures.lose(work.name, reason, self._clock())
        self._note(f"{'given up' if given_up else 'lost, will be done elsewhere'} | {work.name} | {reason}")
        if given_up and isinstance(work, Train):
            attempt = self.state.trials[work.trial].attempts
            self._record("trial_failed", trial=work.trial, attempt=attempt, error=reason)

    def _suspects(self, work: Work) -> Iterable[Loss]:
        """Damaged files the work depends on."""
        match work:
            case Draw(cells):
                checkpoint = self.state.checkpoints.get((cells[0].trial, cells[0].epoch))
                return lost_checkpoints([checkpoint] if checkpoint else [], self.volume)
            case Judge(cells):
                samples = [self.state.samples[cell.key] for cell in cells if cell.key in self.state.samples]
                return lost_samples(samples, self.volume)
            case Train():
                return ()

    def _set_apart(self, loss: Loss) -> None:
        """Get a damaged thing back from the volume; else move it away and forget it, so that it is made again."""
        if self._heal(loss):
            self._note(f"file fetched again | {files_of(loss, self.volume.layout)[0]} | {loss.reason}")
            return
        moved = [self.volume.quarantine(path) for path in files_of(loss, self.volume.layout)]
        if isinstance(loss, LostCheckpoint):
            about: dict[str, Any] = {"trial": loss.checkpoint.trial, "epoch": loss.checkpoint.epoch}
            path = loss.checkpoint.adapter
        else:
            about, path = {"cell_key": loss.sample.cell_key}, loss.sample.image
        self._record("file_quarantined", path=path, moved_to=moved[0], reason=loss.reason, **about)

    def _take_in(self, checkpoint: Checkpoint) -> None:
        """Record a checkpoint whose file bears it out; set apart one whose file does not."""
        for loss in lost_checkpoints([checkpoint], self.volume):
            self._set_apart(loss)
            return
        self._record("checkpoint_saved", checkpoint=checkpoint.to_json())

    def _adopt_drawn(self, cells: Sequence[Cell]) -> tuple[Cell, ...]:
        """Record the cells an earlier run drew without living to say so; returns those still to draw."""
        found = [(cell, unrecorded_sample(cell, self.volume)) for cell in cells]
        self._record_all([_drawn(cell, sample) for cell, sample in found if sample is not None])
        return tuple(cell for cell, sample in found if sample is None)

    def _dead_end(self) -> StudyError:
        name, error = next(iter(self._failures.given_up.items()), ("", "nothing can start, yet something is missing"))
        if isinstance(error, StudyError):
            return error
        last = error.strip().splitlines()[-1] if error.strip() else "no reason given"
        return StudyError(
            f"gave up after {self._failures.attempts} attempts: {last}",
            where=name,
            fix=f"the log has all of it: {self.volume.layout.log}; the same command continues the study",
        )

    def _record(self, kind: EventKind, **data: Any) -> None:
        self._record_all([(kind, data)])

    def _record_all(self, facts: Sequence[Fact]) -> None:
        for event in self._ledger.record_all(facts) if facts else ():
            self.state.apply(event)
            for watcher in self._watchers:
                watcher.event(event, self.state)

    def _note(self, sentence: str) -> None:
        for watcher in self._watchers:
            watcher.note(sentence)


def _drawn(cell: Cell, sample: Sample) -> Fact:
    return "sample_drawn", {"cell": cell.to_json(), "sample": sample.to_json()}


def _given(verdict: Verdict) -> Fact:
    return "verdict_given", {"verdict": verdict.to_json()}


def _unscored(cell: Cell, judge: tuple[str, int], reason: str) -> Verdict:
    return Verdict(cell.key, judge[0], judge[1], "unscored", reason=reason.strip().splitlines()[-1])
