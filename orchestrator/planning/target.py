"""From a study's YAML and the content of its files to what must exist in the end: trials, identities, and epochs."""

from __future__ import annotations

from evaluators.critic import judge_identity
from infra.pods import hourly_price
from orchestrator.planning.config import StudyConfig
from orchestrator.planning.wanted import Target, TrialTarget
from orchestrator.record.state import StudyState
from trainer.checkpoints import saved_epochs
from trainer.identity import trial_id


def judge_id(config: StudyConfig) -> tuple[str, int] | None:
    """Name and version verdicts are recorded under. The name carries the cast: other looks are other questions."""
    return judge_identity(config.judge, config.cast)


def build_target(config: StudyConfig, *, dataset_sha256: str, base_sha256: str) -> Target:
    """Everything the study wants."""
    return Target(
        trials=tuple(_trial_target(config, name, dataset_sha256, base_sha256) for name in config.trials),
        grid=config.grid,
        decide=config.decide,
        judge=judge_id(config),
        base_sha256=base_sha256,
        dollars_per_hour=hourly_price(config.cluster.dollars_per_hour),
    )


def _trial_target(config: StudyConfig, name: str, dataset_sha256: str, base_sha256: str) -> TrialTarget:
    train = config.trials[name]
    saved = saved_epochs(train.epochs, train.save_every)
    return TrialTarget(
        trial=trial_id(name, train, triggers=config.triggers, dataset_sha256=dataset_sha256, base_sha256=base_sha256),
        epochs=train.epochs,
        saved=saved,
        drawn=config.grid.select_epochs(saved),
    )


def recorded_target(state: StudyState, config: StudyConfig) -> Target:
    """What the study wants, with the base and dataset its latest run was opened with."""
    return build_target(config, dataset_sha256=state.dataset_sha256, base_sha256=state.base_sha256)
