"""The plain workers of a study: trainer, artist, critic. They live wherever a crew puts them, and load torch there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from evaluators.critic import PictureCritic
from evaluators.judges.look import CharacterLook
from orchestrator.crew.work import Artist, Slice
from trainer.config import DatasetConfig, TrainConfig
from trainer.facts import CheckpointSaved, StepLogged, TrialFact


@dataclass(frozen=True, slots=True)
class StudyWorkers:
    """What every worker of one study needs to know; small, torch-free, and pickled to where they live."""

    trials: Mapping[str, TrainConfig]
    """By trial id."""
    base: str
    base_sha256: str
    study_root: str
    dataset_root: str
    dataset_sha256: str
    dataset: DatasetConfig
    looks: Mapping[str, CharacterLook]
    judge: tuple[str, int] | None
    threads: int
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Files of adapters that every cell is drawn with, by the sha256 of their content."""
    base_name: str = ""
    """What people call the base."""

    def trainer(self, trial: str, attempt: int = 0) -> TrialTrainer:
        return TrialTrainer(_facts(self, trial, attempt))

    def artist(self) -> Artist:
        from evaluators.engine import Engine

        return Engine(
            self.base,
            self.study_root,
            threads=self.threads,
            adapters=self.adapters,
            base_name=self.base_name,
        )

    def critic(self) -> PictureCritic:
        if self.judge is None:
            raise ValueError("a study without a judge asks for no verdicts")
        return PictureCritic(self.study_root, self.looks, self.judge)


class TrialTrainer:
    """One trial's training, a turn at a time."""

    def __init__(self, facts: Iterator[TrialFact]) -> None:
        self._facts = facts

    def advance(self, turn_s: float) -> Slice:
        """Train until `turn_s` seconds went by, an epoch was saved, or nothing is left."""
        until = time.monotonic() + turn_s
        steps: list[StepLogged] = []
        for fact in self._facts:
            match fact:
                case StepLogged():
                    steps.append(fact)
                case CheckpointSaved(checkpoint):
                    return Slice(tuple(steps), (checkpoint,))
            if time.monotonic() >= until:
                return Slice(tuple(steps))
        return Slice(tuple(steps), done=True)


def _facts(workers: StudyWorkers, trial: str, attempt: int) -> Iterator[TrialFact]:
    from trainer.trial import TrialJob, run_trial

    job = TrialJob(
        trial=trial,
        study_root=workers.study_root,
        base=workers.base,
        base_sha256=workers.base_sha256,
        dataset_root=workers.dataset_root,
        dataset=workers.dataset,
        train=workers.trials[trial],
        triggers=tuple(workers.looks),
        dataset_sha256=workers.dataset_sha256,
        attempt=attempt,
    )
    return run_trial(job)
