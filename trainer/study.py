"""The part of a study's YAML that training needs, for training without the rest. Torch-free.

The same file serves `python -m orchestrator`: its grid, judge and cluster are passed over here, a trial gets the same
name, and what was trained is found by either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from anima.base import base_sha256
from anima.match import inspect_base
from anima.settings import StudyName, checked, read_yaml, refuse_slips
from anima.sources.config import BaseSources
from anima.sources.folders import local_folder
from anima.sources.obtain import obtain_base
from orchestrator.core.layout import Layout
from trainer.captions import check_mirroring, one_sided_marks
from trainer.config import DatasetConfig, TrainConfig, Trials, complete_trials
from trainer.dataset import Dataset, bring_dataset, read_dataset
from trainer.identity import trial_id
from trainer.job import TrialJob


class TrainingStudy(BaseModel):
    """What to train, on what, and where it goes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    study: StudyName
    base: BaseSources | str
    cast: dict[str, Any] = Field(min_length=1)
    """The characters to learn: trigger word -> her look, in any words, or nothing."""
    dataset: DatasetConfig = DatasetConfig()
    train: TrainConfig = TrainConfig()
    trials: Trials = Field(min_length=1)
    volume: str = "runs"

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Refuse what looks like a slip: other sections are none of our business, but `trian` is."""
        refuse_slips(cls, data)
        return complete_trials(data)

    @field_validator("volume", mode="before")
    @classmethod
    def _volume_is_a_folder(cls, volume: Any) -> Any:
        """Of a volume that keeps studies elsewhere too, the folder they are trained in."""
        if isinstance(volume, str) and "://" in volume:
            return cls.model_fields["volume"].default
        return volume.get("folder", cls.model_fields["volume"].default) if isinstance(volume, Mapping) else volume

    @model_validator(mode="after")
    def _mirrors_spare_one_sided_marks(self) -> TrainingStudy:
        for train in self.trials.values():
            check_mirroring(train, one_sided_marks(self.cast, self.dataset.one_sided))
        return self

    @property
    def triggers(self) -> tuple[str, ...]:
        """The trigger words, in the order of the YAML."""
        return tuple(self.cast)

    def layout(self) -> Layout:
        """The study's folder."""
        return Layout((Path(self.volume) / self.study).resolve())

    def dataset_root(self) -> Path:
        """Where its pictures are."""
        root = self.dataset.root or ("." if self.dataset.folders else "")
        return local_folder(root) if root else self.layout().dataset

    def read_dataset(self, *, tell: Callable[[str], None] = lambda _: None) -> Dataset:
        """Its pictures and captions, checked; what is elsewhere is fetched. Raises DatasetError, MissingError."""
        bring_dataset(self.dataset, tell=tell)
        return read_dataset(self.dataset_root(), self.dataset, self.triggers)

    def jobs(self, dataset: Dataset, *, tell: Callable[[str], None] = lambda _: None) -> dict[str, TrialJob]:
        """What is to be trained, by the trials' names. What of the base is elsewhere is fetched; `tell` hears of it.

        Raises ConfigError, MissingError, VolumeError or WeightsError for a base that cannot be had.
        """
        folder = obtain_base(self.base, tell=tell).resolve()
        inspect_base(folder)
        base_hash = base_sha256(folder)

        def job(name: str, train: TrainConfig) -> TrialJob:
            identity = trial_id(
                name, train, triggers=self.triggers, dataset_sha256=dataset.sha256, base_sha256=base_hash
            )
            return TrialJob(
                trial=identity,
                study_root=str(self.layout().root),
                base=str(folder),
                base_sha256=base_hash,
                dataset_root=str(self.dataset_root().resolve()),
                dataset=self.dataset,
                train=train,
                triggers=self.triggers,
                dataset_sha256=dataset.sha256,
            )

        return {name: job(name, train) for name, train in self.trials.items()}


def load_study(path: Path, overrides: Sequence[str] = ()) -> TrainingStudy:
    """Read a study's YAML with `key=value` overrides on top. Every fault is a ConfigError of one line."""
    return checked(TrainingStudy, read_yaml(path, overrides), path, overrides)
