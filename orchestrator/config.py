"""One YAML is one study: OmegaConf reads it, merges `key=value` overrides, resolves `${...}`; frozen models check it.

The parts sit beside their owners (`trainer/config.py`, `evaluators/config.py`, `infra/config.py`); this file composes
them. Bad input is one ConfigError that names the file, the dotted key and the nearest key that exists.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from yaml import YAMLError

from anima.sources.config import BaseSources
from evaluators.config import DecideConfig, GridConfig, JudgeConfig
from evaluators.judges.look import CharacterLook
from infra.config import ClusterConfig
from orchestrator.core.errors import ConfigError, StudyError
from orchestrator.core.layout import Layout, safe_name
from trainer.captions import check_mirroring, one_sided_marks
from trainer.config import DatasetConfig, TrainConfig


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WandbConfig(_Frozen):
    """Where W&B records go. `offline` needs no account; `wandb sync` uploads such a run later."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "anima-studies"
    entity: str | None = None


class StudyConfig(_Frozen):
    """Everything a study is: what to train, what to draw, how to decide, and where."""

    study: str
    """Its name, and the name of its folder on the volume."""
    base: BaseSources | str
    """`pocket` (the shipped miniature), a folder in diffusers layout, `hf://owner/model`, or a mapping of sources."""
    cast: dict[str, CharacterLook] = Field(min_length=1)
    """The characters to learn: trigger word -> what must show."""
    dataset: DatasetConfig = DatasetConfig()
    train: TrainConfig = TrainConfig()
    """What every trial has in common."""
    trials: dict[str, TrainConfig] = Field(min_length=1)
    """Name -> what differs from `train`; one trial called `main` when left out."""
    grid: GridConfig
    decide: DecideConfig = DecideConfig()
    judge: JudgeConfig = JudgeConfig()
    volume: str = "runs"
    """The folder that holds the folders of all studies."""
    cluster: ClusterConfig = ClusterConfig()
    wandb: WandbConfig = WandbConfig()

    @model_validator(mode="before")
    @classmethod
    def _complete_trials(cls, data: Any) -> Any:
        """Each trial is `train` with its own keys on top."""
        if not isinstance(data, Mapping):
            return data
        common = data.get("train") or {}
        trials = data.get("trials") or {"main": {}}
        if not isinstance(common, Mapping) or not isinstance(trials, Mapping):
            return data
        return {**data, "trials": {name: {**common, **(own or {})} for name, own in trials.items()}}

    @field_validator("study")
    @classmethod
    def _study_is_a_name(cls, study: str) -> str:
        return safe_name(study, what="study")

    @field_validator("trials")
    @classmethod
    def _trials_are_names(cls, trials: dict[str, TrainConfig]) -> dict[str, TrainConfig]:
        for name in trials:
            safe_name(name, what="trial")
        return trials

    @model_validator(mode="after")
    def _prompts_show_the_cast(self) -> StudyConfig:
        for prompt in self.grid.prompts:
            for who in prompt.cast:
                if who not in self.cast:
                    near = _nearest(who, self.cast)
                    raise ConfigError(
                        f"prompt {prompt.name!r} shows {who!r}, who is not in the cast", where="grid.prompts", fix=near
                    )
                if who not in prompt.text:
                    raise ConfigError(
                        f"the text of prompt {prompt.name!r} does not name {who!r}",
                        where="grid.prompts",
                        fix="write the trigger into the text, or take it out of the prompt's cast",
                    )
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
        return Layout(Path(self.volume) / self.study)


def load_config(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study's YAML with `key=value` overrides on top. Every fault is a ConfigError of one line."""
    data = _read(path, overrides)
    try:
        return StudyConfig.model_validate(data)
    except ValidationError as error:
        raise _first_fault(error, path, overrides) from error
    except StudyError as error:
        raise ConfigError(
            error.what, where=f"{path}: {error.where}" if error.where else str(path), fix=error.fix
        ) from None


def parse_config(data: Mapping[str, Any]) -> StudyConfig:
    """The configuration a ledger recorded."""
    return StudyConfig.model_validate(data)


def _read(path: Path, overrides: Sequence[str]) -> Any:
    if not path.is_file():
        raise ConfigError("there is no such file", where=str(path), fix=_similar_file(path))
    try:
        merged = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"not readable as YAML: {_one_line(error)}", where=str(path)) from error
    if not OmegaConf.is_dict(merged):
        raise ConfigError("a study is a mapping of keys, this is something else", where=str(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"cannot read override {override!r}", where="command line", fix="write key=value")
        try:
            value = OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]  # type: ignore[index,call-overload]
            both_mappings = isinstance(value, dict) and OmegaConf.is_dict(OmegaConf.select(merged, key))
            OmegaConf.update(merged, key, value, merge=both_mappings, force_add=True)
        except (YAMLError, OmegaConfBaseException, ValueError, TypeError, AttributeError, IndexError) as error:
            raise ConfigError(
                f"cannot apply override {override!r}: {_one_line(error)}", where="command line"
            ) from error
    try:
        return OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error), where=str(path)) from error


def _first_fault(error: ValidationError, path: Path, overrides: Sequence[str]) -> ConfigError:
    """The first thing wrong, unknown keys before all others: they usually explain the rest."""
    faults = error.errors(include_url=False)
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    steps, model = _walk(fault["loc"])
    dotted = ".".join(str(step) for step in steps)
    overridden = next((o for o in overrides if o.partition("=")[0] == dotted), None)
    where = f"command line: {overridden}" if overridden else str(path)
    if fault["type"] == "extra_forbidden":
        known = list(model.model_fields) if model else []
        return ConfigError(f"unknown key {dotted!r}", where=where, fix=_nearest(str(steps[-1]), known))
    if fault["type"] == "missing":
        return ConfigError(f"key {dotted!r} is missing", where=where)
    return ConfigError(f"{dotted}: {_complaint(fault)}", where=where)


def _complaint(fault: ErrorDetails) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = fault["input"]
    return message if isinstance(value, Mapping | list | tuple) else f"{message}, got {value!r}"


def _walk(location: Iterable[int | str]) -> tuple[list[int | str], type[BaseModel] | None]:
    """The dotted steps a reader of the YAML would write, and the model the last step was looked up in."""
    steps: list[int | str] = []
    annotation: Any = StudyConfig
    owner: type[BaseModel] | None = None
    for step in location:
        models = [m for m in _alternatives(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
        if any(step == m.__name__ for m in models) or (
            isinstance(step, str) and step.startswith(("tuple[", "function-"))
        ):
            continue
        steps.append(step)
        owner = models[0] if models else None
        if owner is not None:
            known = owner.model_fields.get(str(step))
            annotation = known.annotation if known else None
        else:
            annotation = _element(annotation)
    return steps, owner


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _element(annotation: Any) -> Any:
    """What a list or a mapping holds."""
    inner = [a for a in get_args(annotation) if a is not Ellipsis]
    return inner[-1] if inner else None


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else ""


def _similar_file(path: Path) -> str:
    here = [str(p) for p in sorted(path.parent.glob("*.yaml"))] if path.parent.is_dir() else []
    return _nearest(str(path), here) if here else "give the path of a study's YAML"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).partition("full_key:")[0].split())


def to_data(config: StudyConfig) -> dict[str, Any]:
    """The configuration as plain data, with every default written out."""
    return config.model_dump(mode="json")


def to_yaml(config: StudyConfig) -> str:
    """The configuration as YAML, with every default written out."""
    return OmegaConf.to_yaml(OmegaConf.create(to_data(config)))
