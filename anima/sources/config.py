"""Where base weights come from, as a study's YAML says it; nothing is looked up or fetched here.

A source is a path, `hf://owner/model[@revision][/file]`, `s3://bucket/key`, `http(s)://...`, or `owner/model` where no
such folder exists. Credentials are never part of it: they are taken from the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from anima.base import base_folder
from anima.headers import refuse_pickle_name
from anima.settings import checked, read_yaml
from orchestrator.core.errors import ConfigError

_HUB_PLACE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>[\w./ -]+))?", re.ASCII)
_BARE_HUB = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
_SECRETS = re.compile(r"token|secret|password|signature|credential|api_?key|^sig$|^key$|^x-amz-", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A file or folder on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A model on the Hugging Face hub, or with `file` one file of it."""

    repo: str
    revision: str = "main"
    file: str = ""


@dataclass(frozen=True, slots=True)
class S3Place:
    """An object, or the start of the names of several."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class WebPlace:
    """A file on a web server, or the folder of several."""

    url: str


Place = LocalPlace | HubPlace | S3Place | WebPlace


def parse_place(text: str) -> Place:
    """What kind of place a source names. Raises ConfigError for what it cannot be, and for credentials in it."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        path = base_folder(text)
        return HubPlace(text) if _BARE_HUB.fullmatch(text) and not _is_local(path) else LocalPlace(path)
    if scheme == "hf":
        found = _HUB_PLACE.fullmatch(rest)
        if found is None or ".." in rest:
            raise ConfigError(f"cannot read {text!r}", fix="write hf://owner/model or hf://owner/model/path/to/file")
        return HubPlace(found["repo"], found["revision"] or "main", found["file"] or "")
    if scheme == "s3":
        bucket, _, key = rest.partition("/")
        if not bucket or not key:
            raise ConfigError(f"cannot read {text!r}", fix="write s3://bucket/path/to/file")
        return S3Place(bucket, key)
    if scheme in ("http", "https"):
        return _web(text)
    raise ConfigError(f"{scheme}:// is no source of weights", fix="known: hf://, s3://, https://, http://, or a path")


def _is_local(path: Path) -> bool:
    return path.exists() or path.suffix == ".safetensors"


def _web(text: str) -> WebPlace:
    url = urlsplit(text)
    if not url.hostname:
        raise ConfigError(f"cannot read {text!r}", fix="write https://host/path/to/file")
    secret = next((name for name, _ in parse_qsl(url.query, keep_blank_values=True) if _SECRETS.search(name)), None)
    if url.username or url.password or secret:
        what = f"parameter {secret!r}" if secret else "user or password"
        raise ConfigError(
            f"the URL at {url.hostname} carries a credential ({what}), which would be written into the study",
            fix="take it out; credentials for a host belong in ~/.netrc",
        )
    return WebPlace(text)


class Source(BaseModel):
    """One source, and optionally what its content must hash to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of a file: it is refused when its content is another."""

    @field_validator("source")
    @classmethod
    def _source_can_be_read(cls, source: str) -> str:
        place = parse_place(source)
        named = urlsplit(source).path if isinstance(place, WebPlace) else source
        refuse_pickle_name(named, where=source)
        return source

    @property
    def place(self) -> Place:
        """What kind of place it names, on this machine."""
        return parse_place(self.source)


def _spelled_out(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


ShortSource = Annotated[Source, BeforeValidator(_spelled_out)]


class BaseSources(BaseModel):
    """A base put together from sources: single files as published for ComfyUI, or parts of diffusers-layout folders.

    Each is a source, or a mapping of `source` and `sha256`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    transformer: ShortSource
    """The DiT; a single file brings the text conditioner (`llm_adapter.*`) along."""
    text_encoder: ShortSource
    """Qwen3-0.6B."""
    vae: ShortSource
    tokenizers: ShortSource | None = None
    """A folder with both tokenizers; left out, the first other source that is a folder or a model on the hub."""
    text_conditioner: ShortSource | None = None
    """The `llm_adapter` half, where it is not in the transformer's file."""
    configs: str | None = None
    """A diffusers-layout folder whose config.json files describe single files of sizes that were never published."""

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, data: Any) -> Any:
        if not isinstance(data, Mapping | BaseSources):
            raise ValueError("give `pocket`, a folder, hf://owner/model, or a mapping of sources")
        return data

    @property
    def sources(self) -> dict[str, Source]:
        """The sources that are given, by their key."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: source for name, source in given.items() if isinstance(source, Source)}


class _Based(BaseModel):
    """Whatever else a YAML says, its `base` can be read."""

    base: BaseSources | str


def read_base(text: str) -> tuple[str, str | BaseSources]:
    """A base as a person names it on the command line: the name by which it is found again, and its source or sources.

    Besides what a study may write, the path of a YAML file: a study, or the mapping of sources by itself. Paths are
    made absolute, so that the name holds from every folder. Raises ConfigError.
    """
    path = Path(text).expanduser()
    if path.suffix.lower() not in (".yaml", ".yml"):
        local = text != "pocket" and isinstance(parse_place(text), LocalPlace)
        name = str(path.resolve()) if local else text
        return name, name
    data = read_yaml(path, ())
    base = checked(_Based, data if "base" in data else {"base": data}, path, ()).base
    name, base = (str(path.resolve()), base) if isinstance(base, BaseSources) else read_base(base)
    return name, base


def base_name(base: BaseSources | str) -> str:
    """What people call a base: the hub's name for it, or the last part of a path."""
    source = base if isinstance(base, str) else base.transformer.source
    if isinstance(parse_place(source), HubPlace):
        return source
    return source.partition("?")[0].rstrip("/").rpartition("/")[2]
