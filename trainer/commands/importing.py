"""python -m trainer import: another trainer's settings as a study's YAML, and what could not be carried."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator.core.command_line import printable
from orchestrator.core.errors import ConfigError
from trainer.importing.kohya import from_kohya
from trainer.importing.settings import Imported
from trainer.importing.toolkit import SIGNATURE, from_toolkit


def import_settings(file: Path, to: Path | None) -> int:
    """Write the YAML; what is lost goes to the terminal as well. Returns the exit code. Raises ConfigError."""
    imported = read_settings(file)
    text = imported.to_yaml(file)
    if to is None:
        print(text, end="")
    elif to.exists():
        raise ConfigError("is there already", where=str(to), fix="choose another name, or move it away")
    else:
        to.write_text(text, encoding="utf-8")
        print(f"written  {to}   (when the cast is filled in: python -m trainer check {to})")
    for line in (*imported.remarks, *(f"not carried: {lost}" for lost in imported.lost)):
        print(line, file=sys.stderr)
    return 0


def read_settings(file: Path) -> Imported:
    """Recognise a file by its keys. Raises ConfigError for one of no trainer known here."""
    given = _read(file)
    try:
        if file.suffix.lower() in (".yaml", ".yml"):
            if not SIGNATURE & set(given):
                raise ConfigError(
                    "is no AnimaLoraToolkit file: none of its keys is there",
                    fix="read are AnimaLoraToolkit's YAML, and kohya's dataset and argument files (TOML)",
                )
            return from_toolkit(given)
        return from_kohya(given, file, _read)
    except ConfigError as error:
        raise ConfigError(error.what, where=error.where or str(file), fix=error.fix) from error


def _read(file: Path) -> Mapping[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() in (".yaml", ".yml"):
            given = yaml.safe_load(text)
        elif file.suffix.lower() == ".json":
            given = json.loads(text)
        else:
            given = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(file)) from error
    except (ValueError, yaml.YAMLError) as error:
        reason = printable(" ".join(str(error).split()), limit=200)
        raise ConfigError(f"not readable: {reason}", where=str(file)) from error
    if not isinstance(given, Mapping):
        raise ConfigError("settings are a mapping of keys, this is something else", where=str(file))
    return {str(key): value for key, value in given.items()}
