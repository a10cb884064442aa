"""What W&B was told of a run in all its segments, kept in a file beside them, so that nothing is told twice."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from orchestrator.core.errors import VolumeError

Value = str | int


@dataclass(slots=True)
class Told:
    """Marks of one run: name of a thing told, and what tells one version of it from another."""

    path: Path
    marks: dict[str, Value] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, run_id: str) -> Self:
        """The marks of a run. Raises VolumeError for a file that is no such thing."""
        path = folder / f"told-{run_id}.json"
        if not path.exists():
            return cls(path)
        try:
            return cls(path, dict(json.loads(path.read_text(encoding="utf-8"))))
        except ValueError as error:
            raise VolumeError(
                f"damaged ({error})", where=str(path), fix="remove it: W&B may then be told some things twice"
            ) from error

    def add(self, name: str, value: Value) -> None:
        """Remember one thing more, on disk."""
        self.marks[name] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".partial")
        aside.write_text(json.dumps(self.marks), encoding="utf-8")
        aside.replace(self.path)
