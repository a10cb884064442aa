"""What adapters record as their maker is what pyproject.toml says."""

import tomllib
from pathlib import Path

from orchestrator.core.version import VERSION


def test_there_is_one_version() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
