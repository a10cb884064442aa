"""One YAML is one study: read with `key=value` overrides on top (`anima/settings.py`), checked by frozen models.

The parts sit beside their owners (`trainer/config.py`, `evaluators/config.py`, `infra/config.py`); this file composes
them. Bad input is one ConfigError that names the file, the dotted key and the nearest key that exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anima.settings import StudyName, checked, read_yaml
from anima.sources.config import BaseSources
from evaluators.config import DecideConfig, GridConfig, JudgeConfig
from evaluators.judges.look import CharacterLook
from evaluators.prompt_checks import check_cast
from infra.config import ClusterConfig, VolumeConfig
from orchestrator.core.errors import ConfigError
from orchestrator.core.layout import Layout
from trainer.captions import check_mirroring, one_sided_marks
from trainer.config import DatasetConfig, TrainConfig, Trials, complete_trials


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WandbConfig(_Frozen):
    """Where W&B records go. `offline` needs no account; `python -m orchestrator sync` uploads such runs later."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "anima-studies"
    entity: str | None = None
    """Whose project; by default the key's own."""
    adapters: Literal["reference", "upload", "none"] = "reference"
    """Saved epochs as artifacts: by their address on an S3 volume, with their weights, or not at all."""
    pictures: int = Field(8, ge=0, le=200)
    """Pictures of each epoch and weight in the growing table; 0 for none."""


class StudyConfig(_Frozen):
    """Everything a study is: what to train, what to draw, how to decide, and where."""

    study: StudyName
    """Its name, and the name of its folder on the volume."""
    base: BaseSources | str
    """`pocket` (the shipped miniature), a folder in diffusers layout, `hf://owner/model`, or a mapping of sources."""
    cast: dict[str, CharacterLook] = Field(min_length=1)
    """The characters to learn: trigger word -> what must show."""
    dataset: DatasetConfig = DatasetConfig()
    train: TrainConfig = TrainConfig()
    """What every trial has in common."""
    trials: Trials = Field(min_length=1)
    """Name -> what differs from `train`; one trial called `main` when left out."""
    grid: GridConfig
    decide: DecideConfig = DecideConfig()
    judge: JudgeConfig = JudgeConfig()
    volume: VolumeConfig = VolumeConfig()
    """Where studies live: a folder, `s3://bucket/prefix`, or both with more to say."""
    cluster: ClusterConfig = ClusterConfig()
    wandb: WandbConfig = WandbConfig()

    @model_validator(mode="before")
    @classmethod
    def _complete_trials(cls, data: Any) -> Any:
        return complete_trials(data)

    @model_validator(mode="after")
    def _prompts_show_the_cast(self) -> StudyConfig:
        check_cast(self.grid.prompts, self.cast)
        return self

    @model_validator(mode="after")
    def _mirrors_spare_one_sided_marks(self) -> StudyConfig:
        looks = {name: look.model_dump() for name, look in self.cast.items()}
        for train in self.trials.values():
            check_mirroring(train, one_sided_marks(looks, self.dataset.one_sided))
        return self

    @property
    def triggers(self) -> tuple[str, ...]:
        """The trigger words, in the order of the YAML."""
        return tuple(self.cast)

    def layout(self) -> Layout:
        """The study's folder."""
        return Layout(Path(self.volume.folder) / self.study)


def load_config(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study's YAML with `key=value` overrides on top. Every fault is a ConfigError of one line."""
    return checked(StudyConfig, read_yaml(path, overrides), path, overrides)


def parse_config(data: Mapping[str, Any]) -> StudyConfig:
    """The configuration a ledger recorded. Raises ConfigError for one that this version does not know."""
    try:
        return StudyConfig.model_validate(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}",
            where="the configuration in the ledger",
            fix="read the study with the version of this program that ran it, or run it again with this one",
        ) from None


def to_data(config: StudyConfig) -> dict[str, Any]:
    """The configuration as plain data, with every default written out."""
    return config.model_dump(mode="json")


def to_yaml(config: StudyConfig) -> str:
    """The configuration as YAML, with every default written out."""
    return OmegaConf.to_yaml(OmegaConf.create(to_data(config)))
