"""The crew on Ray: plain workers in actors, a deadline on every wait.

Every actor is asked, beside its work, whether it lives. One that dies, hangs, or raises something unforeseen is let go.
What it was at is reported: as Failed when the work may be to blame, as Lost when its machine is; what it had not begun
is Lost too. Whether and when to try again is the controller's decision. `roster.py` keeps the books.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from orchestrator.crew.session import RaySession, one_line

# isort: split
# Only now, for the session sets the environment that Ray reads while it is imported.
import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from infra.config import ClusterConfig
from orchestrator.core.errors import StudyError
from orchestrator.core.study import Cell, Sample, Verdict
from orchestrator.crew.roster import Hand, Patience, Roster, Suspects, placement
from orchestrator.crew.work import (
    Artist,
    Critic,
    Drawn,
    Failed,
    Judged,
    Lost,
    Report,
    Slice,
    Trained,
    Trainer,
    Workers,
)
from orchestrator.deciding.decisions import Draw, Judge, Role, Train, Work

TURN_S = 1.0
"""How long a trainer works before it reports; what a dead driver leaves running at most, beside a step."""
MACHINES_S = 2.0
"""How old what is known of the machines may be."""
CHOOSY_S = 60.0
"""How long an actor that avoids suspected machines waits for another one before it takes any."""


class _Living:
    """Answers beside its work that it lives, and where: the answer comes from a thread of its own."""

    @ray.method(concurrency_group="beat")
    def beat(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


class TrainerActor(_Living):
    """Keeps one trial's trainer between turns."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._attempt = ("", 0)
        self._trainer: Trainer | None = None

    def work(self, trial: str, attempt: int, turn_s: float) -> Slice:
        if self._trainer is None or self._attempt != (trial, attempt):
            self._attempt, self._trainer = (trial, attempt), self._workers.trainer(trial, attempt)
        turn = self._trainer.advance(turn_s)
        if turn.done:
            self._trainer = None
        return turn


class ArtistActor(_Living):
    """Keeps the loaded model between batches."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._artist: Artist | None = None

    def warm_up(self) -> None:
        """Load the model while there is nothing to draw yet."""
        self._artist = self._artist or self._workers.artist()

    def work(self, cells: Sequence[Cell]) -> list[Sample]:
        self._artist = self._artist or self._workers.artist()
        return self._artist.draw(cells)


class CriticActor(_Living):
    """Keeps the judge between batches."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._critic: Critic | None = None

    def work(self, cells: Sequence[Cell], samples: Sequence[Sample]) -> list[Verdict]:
        self._critic = self._critic or self._workers.critic()
        return self._critic.judge(cells, samples)


_ACTORS: Mapping[Role, type] = {"train": TrainerActor, "draw": ArtistActor, "judge": CriticActor}


class RayCrew:
    """Workers in Ray actors: trainers, artists, one critic."""

    def __init__(self, workers: Workers, cluster: ClusterConfig, *, train_threads: int = 0) -> None:
        self._workers, self._cluster = workers, cluster
        self._threads: Mapping[Role, int] = {"train": train_threads, "draw": cluster.threads, "judge": 1}
        patience = Patience(cluster.heartbeat_s, cluster.missed_s, cluster.silence_s, cluster.placement_s)
        self._roster = Roster(patience, depth=cluster.in_flight)
        self._suspects = Suspects()
        self._attempts: dict[str, int] = {}
        self._halted: set[str] = set()
        """Trials whose training ends with the turn under way."""
        self._session = RaySession(cluster)
        self._gpu_share = 0.0
        self._alive: dict[str, Mapping[str, float]] = {}
        self._machines_due = self._hire_due = float("-inf")
        self._hire_rest_s = 0.0
        self._without_artist_since = time.monotonic()

    @property
    def slots(self) -> Mapping[Role, int]:
        """Artists take work as soon as they are there; the others may be given some before."""
        artists = len(self._roster.ready("draw"))
        depth = self._cluster.in_flight
        return {"train": self._cluster.trainers, "draw": depth * artists, "judge": depth}

    def awaited(self) -> str:
        if self._roster.ready("draw"):
            return ""
        waited = time.monotonic() - self._without_artist_since
        if waited > self._cluster.placement_s:
            wanted = " or ".join(str(dict(labels)) for labels in self._cluster.draw_on) or "any labels"
            raise StudyError(
                f"no machine could take an inference actor for {self._cluster.placement_s:g} s",
                where=f"cluster of {len(self._alive)} machines, wanted with {wanted}",
                fix="let another machine join, or ask for less in `cluster`; the same command continues the study",
            )
        return "an inference actor"

    def open(self) -> RayCrew:
        """Start Ray on this machine, or join the cluster that the study names."""
        counted: Mapping[Role, int] = {"train": self._cluster.trainers, "draw": self._artists(), "judge": 1}
        self._session.open(sum(count * self._cpus(role) for role, count in counted.items()))
        now = self._without_artist_since = time.monotonic()
        self._look_at_machines(now)
        if self._cluster.device == "cuda":
            self._gpu_share = 1.0 if self._cluster.address else self._share_of_gpus()
        self._staff(now)
        return self

    def _share_of_gpus(self) -> float:
        gpus = sum(resources.get("GPU", 0.0) for resources in self._alive.values())
        return min(1.0, round(gpus / (self._cluster.trainers + self._artists()), 3))

    def submit(self, work: Work, samples: Sequence[Sample] = (), attempt: int = 0) -> None:
        role: Role = "train" if isinstance(work, Train) else "draw" if isinstance(work, Draw) else "judge"
        hand = self._roster.free(role) or self._hire(role)
        if isinstance(work, Train):
            self._attempts[work.trial] = attempt
            self._halted.discard(work.trial)
        self._give(hand, work, tuple(samples))

    def halt(self, work: Train) -> None:
        self._halted.add(work.trial)

    def wait(self, timeout_s: float) -> list[Report]:
        self._tend(time.monotonic())
        beats = {hand.beat: hand for hand in self._roster.hands if hand.beat is not None}
        calls = {call.ref: hand for hand in self._roster.hands for call in hand.calls}
        refs = [*calls, *beats]
        if not refs:
            time.sleep(min(timeout_s, self._cluster.heartbeat_s))
            return []
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        reports: list[Report] = []
        for ref in sorted(ready, key=lambda ref: ref in calls):
            hand = calls.get(ref) or beats[ref]
            if hand not in self._roster.hands:
                continue
            reports += self._answered(hand, ref) if ref in calls else self._heard(hand, ref)
        return [*reports, *self._overdue(time.monotonic())]

    def close(self) -> None:
        for hand in list(self._roster.hands):
            self._roster.dismiss(hand)
            if self._cluster.address and ray.is_initialized():
                ray.kill(hand.actor, no_restart=True)
        self._session.close()

    def _tend(self, now: float) -> None:
        """Look after everybody: who is asked whether he lives, who is still to be hired."""
        if now >= self._machines_due:
            self._look_at_machines(now)
        for hand in self._roster.due(now):
            hand.beat, hand.asked_at = hand.actor.beat.remote(), now
        for hand in self._roster.of("draw"):
            if hand.avoids and not hand.is_ready and now - hand.hired_at > CHOOSY_S:
                self._let_go(hand, "")
        if now >= self._hire_due:
            self._staff(now)
        if self._roster.ready("draw"):
            self._without_artist_since = now

    def _look_at_machines(self, now: float) -> None:
        self._machines_due = now + MACHINES_S
        self._alive = {machine.node: machine.resources for machine in self._session.machines()}

    def _artists(self) -> int:
        """How many actors should draw: as many as were asked for, or as all machines that joined have room for."""
        wanted = self._cluster.inference_actors
        if wanted != "all":
            return wanted
        kind, need = ("GPU", 1) if self._cluster.device == "cuda" else ("CPU", self._cpus("draw"))
        if not self._cluster.address and kind == "CPU":
            return max(1, ((os.cpu_count() or 1) - self._cluster.trainers * self._cpus("train")) // need)
        room = sum(int(resources.get(kind, 0.0) / need) for resources in self._alive.values())
        taken = self._cluster.trainers * (1 if kind == "GPU" else -(-self._cpus("train") // need))
        return max(1, room - taken)

    def _staff(self, now: float) -> None:
        """Hire the artists that are missing, slower each time until one of them is there."""
        missing = self._artists() - len(self._roster.of("draw"))
        for _ in range(missing):
            artist = self._hire("draw")
            artist.actor.warm_up.remote()
        if missing > 0:
            self._hire_rest_s = min(max(self._cluster.back_off_s, 2 * self._hire_rest_s), 30.0)
            self._hire_due = now + self._hire_rest_s

    def _hire(self, role: Role) -> Hand:
        now = time.monotonic()
        need = "GPU" if self._cluster.device == "cuda" and role != "judge" else "CPU"
        able = [node for node, resources in self._alive.items() if resources.get(need, 0.0) > 0]
        avoid = self._suspects.to_avoid(able, now)
        preferred = {"train": self._cluster.train_on, "draw": self._cluster.draw_on, "judge": ()}[role]
        first, others = placement(preferred, avoid)
        actor: Any = cast(Any, ray.remote)(concurrency_groups={"beat": 1})(_ACTORS[role])
        hired: Any = actor.options(
            num_cpus=0 if role == "judge" and self._cluster.address else self._cpus(role),
            num_gpus=0 if role == "judge" else self._gpu_share,
            max_restarts=0,
            label_selector=first or None,
            fallback_strategy=[{"label_selector": labels} for labels in others] or None,
        )
        hand = self._roster.hire(role, hired.remote(self._workers), now)
        hand.avoids = bool(avoid)
        return hand

    def _cpus(self, role: Role) -> int:
        """CPUs an actor counts for. Ray makes it the actor's OMP_NUM_THREADS, unless that is set in our environment."""
        return self._threads[role] or os.cpu_count() or 1

    def _give(self, hand: Hand, work: Work, samples: tuple[Sample, ...] = ()) -> None:
        match work:
            case Train(trial):
                ref = hand.actor.work.remote(trial, self._attempts[trial], TURN_S)
            case Draw(cells):
                ref = hand.actor.work.remote(cells)
            case Judge(cells):
                ref = hand.actor.work.remote(cells, samples)
        self._roster.give(hand, work, ref, time.monotonic())

    def _heard(self, hand: Hand, ref: Any) -> list[Report]:
        """An actor says that it lives; one that died says so through its calls, if it has any."""
        try:
            node = ray.get(ref)
        except RayError as error:
            hand.beat = None
            return [] if hand.calls else self._bury(hand, error)
        if not hand.is_ready:
            self._hire_rest_s = 0.0
        self._roster.heard(hand, node, time.monotonic())
        return []

    def _answered(self, hand: Hand, ref: Any) -> list[Report]:
        try:
            answer = ray.get(ref, timeout=self._cluster.silence_s)
        except RayTaskError as error:
            work = self._roster.answered(hand, ref, time.monotonic()).work
            if isinstance(error.cause, StudyError):
                return [Failed(work, error.cause)]
            return [Failed(work, str(error)), *self._let_go(hand, "the work before it brought the actor down")]
        except RayError as error:
            return self._bury(hand, error)
        work = self._roster.answered(hand, ref, time.monotonic()).work
        match work:
            case Train(trial):
                if trial in self._halted:
                    # Its memory is wanted for drawing, and nothing more is trained.
                    self._let_go(hand, "")
                elif not answer.done:
                    self._give(hand, work)
                return [Trained(work, answer)]
            case Draw():
                return [Drawn(work, tuple(answer))]
            case Judge():
                return [Judged(work, tuple(answer))]

    def _bury(self, hand: Hand, error: RayError) -> list[Report]:
        """An actor is gone. Its machine is to blame if that is gone too, or if nobody can tell."""
        now = time.monotonic()
        self._look_at_machines(now)
        reason = f"its actor died: {one_line(error)}"
        gone = hand.is_ready and hand.node not in self._alive
        if gone or isinstance(error, ActorUnavailableError) or "node has died" in str(error):
            self._suspects.add(hand.node, now)
            return self._let_go(hand, f"its machine was lost: {one_line(error)}")
        at_work = [hand.calls.popleft()] if hand.calls else []
        return [*(Failed(call.work, reason) for call in at_work), *self._let_go(hand, reason)]

    def _overdue(self, now: float) -> list[Report]:
        reports: list[Report] = []
        for late in self._roster.late(now):
            hand = late.hand
            if late.blames_work:
                reports.append(Failed(hand.calls.popleft().work, late.reason))
            else:
                self._suspects.add(hand.node, now)
            reports += self._let_go(hand, late.reason)
        return reports

    def _let_go(self, hand: Hand, reason: str) -> list[Report]:
        """End an actor; what it was given and did not answer is lost."""
        left = self._roster.dismiss(hand)
        ray.kill(hand.actor, no_restart=True)
        return [Lost(call.work, reason) for call in left]
