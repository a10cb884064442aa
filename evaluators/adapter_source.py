"""Where an adapter is that all cells of a grid are drawn with, beside the one that is judged. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from anima.sources.config import HubPlace, Source
from orchestrator.core.study import ConstantAdapter


class AdapterSource(Source):
    """An adapter of somebody else that all cells are drawn with, and its strength: `{source: ..., weight: 1.0}`."""

    weight: float = Field(1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_a_file(self) -> Self:
        if isinstance(self.place, HubPlace) and not self.place.file:
            raise ValueError(f"{self.source} is a model, an adapter is a file: add its path, /like/this.safetensors")
        return self

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.source.partition("?")[0].rstrip("/").rpartition("/")[2].removesuffix(".safetensors")

    def constant(self) -> ConstantAdapter:
        """The same as the value that travels with every cell. Its content must be known."""
        if self.sha256 is None:
            raise ValueError(f"nobody looked at the content of {self.source} yet")
        return ConstantAdapter(self.name, self.sha256, self.weight)


def _spelled_out(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


ShortAdapterSource = Annotated[AdapterSource, BeforeValidator(_spelled_out)]
