"""Settings of another trainer on their way into ours: what is taken, what is lost, and what a person must fill in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from orchestrator.core.command_line import printable
from orchestrator.core.errors import ConfigError
from orchestrator.core.layout import safe_name
from trainer.config import SIDE

BASE = "hf://circlestone-labs/Anima-Base-v1.0-Diffusers"


@dataclass(frozen=True, slots=True)
class Lost:
    """A key that could not be carried, and why."""

    key: str
    value: Any
    why: str

    def __str__(self) -> str:
        return f"{printable(self.key)} = {printable(str(self.value), limit=60)}: {self.why}"


@dataclass(slots=True)
class Settings:
    """Another trainer's keys. Each is taken once; what nobody took is lost."""

    given: Mapping[str, Any]
    defaults: Mapping[str, Any]
    """What that trainer does where the file says nothing."""
    lost: list[Lost] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def take(self, key: str) -> Any:
        """The value of a key, or that trainer's default."""
        self.taken.add(key)
        value = self.given.get(key)
        return self.defaults.get(key) if value is None else value

    def number(self, key: str, kind: Callable[[Any], Any] = float) -> Any:
        """A number, whatever it was written as. Raises ConfigError."""
        value = self.take(key)
        try:
            return kind(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{key} is {printable(str(value))!r}, not a number", fix="correct it") from error

    def lose(self, key: str, why: str) -> None:
        """Say that a key could not be carried, if it was given and is not empty or off."""
        self.taken.add(key)
        value = self.given.get(key)
        if value not in (None, "", False, 0, [], {}):
            self.lost.append(Lost(key, value, why))

    def lose_rest(self, reasons: Mapping[str, str]) -> None:
        """Lose every key that nobody took: for the reason given, or as unknown."""
        for key in self.given:
            if key in self.taken:
                continue
            if key in reasons:
                self.lose(key, reasons[key])
            else:
                self.lost.append(Lost(key, self.given[key], "unknown here"))


@dataclass(frozen=True, slots=True)
class Imported:
    """A study's YAML made of another trainer's settings."""

    source: str
    data: Mapping[str, Any]
    lost: tuple[Lost, ...]
    remarks: tuple[str, ...]
    """What a person should know or fill in."""

    def to_yaml(self, file: Path) -> str:
        """The YAML, with what is lost and what is left to do on top."""
        head = [f"Imported from {printable(file.name)} ({self.source})."]
        head += [f"To do or to know: {remark}" for remark in self.remarks]
        head += [f"Not carried: {lost}" for lost in self.lost]
        return "".join(f"# {line}\n" for line in head) + OmegaConf.to_yaml(OmegaConf.create(dict(self.data)))


def base_of(keys: Settings, names: Mapping[str, str]) -> str | dict[str, str]:
    """A base out of single files, `names` being their keys by ours, if the three that are needed are given."""
    given = {ours: str(value) for ours, theirs in names.items() if (value := keys.given.get(theirs))}
    if not {"transformer", "text_encoder", "vae"} <= set(given):
        return BASE
    keys.taken |= {names[ours] for ours in given}
    return given | {"tokenizers": BASE}


def study_name(name: str) -> str:
    """A name for the study out of an output name: signs no file name should have become `_`."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name).strip("._-")
    return safe_name(kept[:60].replace("..", "_") or "imported", what="study")


def whole_patches(side: int) -> int:
    """A side as a multiple of 16."""
    return max(side // SIDE * SIDE, SIDE)
