"""Settings from a YAML file: OmegaConf reads it, merges `key=value` overrides, resolves `${...}`; models check it.

Bad input is one ConfigError that names the file, the dotted key and the nearest key that exists.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from orchestrator.core.errors import ConfigError, StudyError
from orchestrator.core.layout import safe_name

Model = TypeVar("Model", bound=BaseModel)
StudyName = Annotated[str, AfterValidator(partial(safe_name, what="study"))]
"""The name of a study, which is also the name of its folder."""


def read_yaml(path: Path, overrides: Sequence[str]) -> Any:
    """The mapping in a file as plain data, overrides applied and `${...}` resolved. Raises ConfigError."""
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


def checked(model: type[Model], data: Any, path: Path, overrides: Sequence[str]) -> Model:
    """`data` as a model. Every fault is a ConfigError of one line."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _first_fault(model, error, path, overrides) from error
    except StudyError as error:
        where = f"{path}: {error.where}" if error.where else str(path)
        raise ConfigError(error.what, where=where, fix=error.fix) from None


def refuse_slips(model: type[BaseModel], data: Any) -> None:
    """For models that read a part of a study: other sections are none of their business, but `trian` is."""
    for key in data if isinstance(data, Mapping) else ():
        near = difflib.get_close_matches(str(key), list(model.model_fields), n=1, cutoff=0.75)
        if key not in model.model_fields and near:
            raise ConfigError(f"unknown key {key!r}", fix=f"did you mean {near[0]!r}?")


def nearest(name: str, known: Iterable[str]) -> str:
    """How to go on after a name that does not exist: the nearest one that does, or all of them."""
    known = list(known)
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else ""


def _first_fault(root: type[BaseModel], error: ValidationError, path: Path, overrides: Sequence[str]) -> ConfigError:
    """The first thing wrong, unknown keys before all others: they usually explain the rest."""
    faults = error.errors(include_url=False)
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    steps, owner = _walk(root, fault["loc"])
    dotted = ".".join(str(step) for step in steps)
    overridden = next((o for o in overrides if o.partition("=")[0] == dotted), None)
    where = f"command line: {overridden}" if overridden else str(path)
    if fault["type"] == "extra_forbidden":
        known = list(owner.model_fields) if owner else []
        return ConfigError(f"unknown key {dotted!r}", where=where, fix=nearest(str(steps[-1]), known))
    if fault["type"] == "missing":
        return ConfigError(f"key {dotted!r} is missing", where=where)
    return ConfigError(f"{dotted}: {_complaint(fault)}", where=where)


def _complaint(fault: ErrorDetails) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = fault["input"]
    if fault["type"] == "too_short":
        return "is empty: give at least one" if not value else f"has too few entries: {len(value)}"
    return message if isinstance(value, Mapping | list | tuple) else f"{message}, got {value!r}"


def _walk(root: type[BaseModel], location: Iterable[int | str]) -> tuple[list[int | str], type[BaseModel] | None]:
    """The dotted steps a reader of the YAML would write, and the model the last step was looked up in."""
    steps: list[int | str] = []
    annotation: Any = root
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


def _similar_file(path: Path) -> str:
    """The study beside it whose name is nearest, or all of them; other YAML files are no studies."""
    studies = {p.stem: p for p in sorted(path.parent.glob("*.yaml")) if _holds_a_study(p)}
    if near := difflib.get_close_matches(path.stem, studies, n=1):
        return f"did you mean '{studies[near[0]]}'?"
    listed = ", ".join(str(p) for p in studies.values())
    return f"studies there: {listed}" if listed else "give the path of a study's YAML"


def _holds_a_study(path: Path) -> bool:
    """Whether it has the key that every study has; without reading it as YAML."""
    return path.is_file() and any(line.startswith(b"study:") for line in path.read_bytes().splitlines())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).partition("full_key:")[0].split())
