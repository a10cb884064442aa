"""Who draws a grid: this program's engine on one device, or a running ComfyUI. Nothing is loaded until it is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from anima.sources.store import Tell
from evaluators.config import PromptConfig
from evaluators.prompt_checks import word_warnings
from evaluators.sweep.run import Artist
from evaluators.sweep.study import SweepStudy


class Backend(Protocol):
    """Something that can draw. `identity` stands for the base in the keys of cells."""

    @property
    def identity(self) -> str: ...

    @property
    def constants(self) -> tuple[str, ...]:
        """What each of the adapters that are drawn along holds, by sha256."""

    def warnings(self, prompts: Sequence[PromptConfig]) -> list[str]:
        """What it cannot see in prompts, in words."""

    def open(self, root: Path, adapters: Mapping[str, Path]) -> Artist:
        """Ready to draw below `root`; `adapters` says where adapters are, by sha256. Raises StudyError."""


@dataclass(frozen=True, slots=True)
class EngineBackend:
    """The engine, with a base that is here."""

    base: Path
    base_name: str
    identity: str
    beside: Mapping[str, Path]
    """Files of the adapters drawn along, by sha256, in order."""
    threads: int

    @property
    def constants(self) -> tuple[str, ...]:
        return tuple(self.beside)

    def warnings(self, prompts: Sequence[PromptConfig]) -> list[str]:
        """Words that the base's text conditioner has no token for."""
        return word_warnings(prompts, self.base)

    def open(self, root: Path, adapters: Mapping[str, Path]) -> Artist:
        """Load the model."""
        from evaluators.engine import Engine

        return Engine(
            str(self.base),
            str(root),
            threads=self.threads,
            adapters={sha256: str(path) for sha256, path in {**adapters, **self.beside}.items()},
            base_name=self.base_name,
        )


def backend_of(study: SweepStudy, *, threads: int, tell: Tell) -> Backend:
    """The backend a study asks for, after fetching what of it is not here yet. Raises StudyError."""
    from anima.headers import read_header
    from anima.sources.adapters import check_layers, obtain_adapters

    # A workflow may be one of another model family.
    check = read_header if study.backend == "comfyui" else check_layers
    beside = obtain_adapters(study.grid.with_adapters, tell=tell, check=check)
    files = {adapter.sha256: adapter.path for adapter in beside}
    if study.backend == "comfyui":
        from evaluators.comfyui.backend import ComfyUIBackend

        return ComfyUIBackend.of(study.comfyui, files)
    from anima.base import base_sha256
    from anima.match import inspect_base
    from anima.sources.config import base_name
    from anima.sources.obtain import obtain_base

    base = obtain_base(study.base, tell=tell).resolve()
    inspect_base(base)
    return EngineBackend(base, base_name(study.base), base_sha256(base), files, threads)
