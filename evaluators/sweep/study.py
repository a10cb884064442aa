"""The part of a study's YAML that drawing needs, for grids without the rest: adapters from anywhere. Torch-free.

The same file serves `python -m orchestrator`: what it trains is passed over here, a cell gets the same key, and what
was drawn is found by either.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from anima.settings import StudyName, checked, read_yaml, refuse_slips
from anima.sources.config import BaseSources
from evaluators.comfyui.config import ComfyUIConfig
from evaluators.config import GridConfig, JudgeConfig
from evaluators.judges.look import CharacterLook
from evaluators.prompt_checks import check_cast
from orchestrator.core.errors import ConfigError
from orchestrator.core.layout import Layout


class SweepStudy(BaseModel):
    """What to draw, with what, and where it goes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    study: StudyName
    base: BaseSources | str = ""
    """As for a study; the ComfyUI backend needs none."""
    cast: dict[str, CharacterLook] = Field(min_length=1)
    grid: GridConfig
    judge: JudgeConfig = JudgeConfig()
    volume: str = "runs"
    adapters: str = ""
    """A folder of adapters, one file or folder per epoch; left out, those the study trained."""
    backend: Literal["engine", "comfyui"] = "engine"
    """Who draws: this program, or a running ComfyUI."""
    comfyui: ComfyUIConfig = ComfyUIConfig()

    @model_validator(mode="before")
    @classmethod
    def _refuse_slips(cls, data: Any) -> Any:
        """Other sections are none of our business, but `grdi` is."""
        refuse_slips(cls, data)
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> SweepStudy:
        check_cast(self.grid.prompts, self.cast)
        if self.backend == "engine" and not self.base:
            raise ConfigError("no base to draw with", where="base", fix="name one, or draw by backend: comfyui")
        if self.backend == "comfyui" and self.grid.drawing.compile:
            fix = "leave it out, or put a node that compiles into the workflow"
            raise ConfigError("only the engine compiles", where="grid.drawing.compile", fix=fix)
        return self

    def layout(self) -> Layout:
        """The study's folder."""
        if "://" in self.volume:
            raise ConfigError(
                f"a grid is drawn into a folder, not into {self.volume}", where="volume", fix="volume=runs"
            )
        return Layout((Path(self.volume).expanduser() / self.study).resolve())


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepStudy:
    """Read a study's YAML with `key=value` overrides on top. Every fault is a ConfigError of one line."""
    return checked(SweepStudy, read_yaml(path, overrides), path, overrides)
