"""What is drawn of every saved epoch, who judges it, and how the epoch is chosen. Torch-free, so planning is quick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from anima.prompt import read_prompt
from evaluators.prompts import Format, Layout, compose, fill, head_count_lock
from orchestrator.core.layout import safe_name
from orchestrator.core.study import Drawing, Prompt


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _expand_seeds(value: Any) -> Any:
    """`{first: 1, count: 8}` is short for `[1, ..., 8]`."""
    if not isinstance(value, Mapping):
        return value
    if set(value) - {"first", "count"} or not isinstance(value.get("count"), int) or value["count"] < 1:
        raise ValueError("seeds are a list like [1, 2, 3] or {first: 1, count: 8}")
    first = value.get("first", 1)
    return list(range(first, first + value["count"]))


def _every_epoch(value: Any) -> Any:
    return {"every": 1} if value == "all" else value


class EveryEpoch(_Frozen):
    """Every `every`-th saved epoch from `first` on; the last epoch is always drawn."""

    every: PositiveInt = 1
    first: PositiveInt = 1


class PromptConfig(_Frozen):
    """A prompt, written out or composed, and whom it should show. `text` is in the end what is sent to the model."""

    name: str
    """Short; it names a row of the report."""
    text: str = ""
    """As it is sent, or with variables for the cast: `{left}`, `{center}`, `{right}`, `{1}`, `{triggers}`, `{cast}`,
    `{count}`. Empty with a `format`."""
    format: Format | None = None
    """Compose the text: `trigger`, `tags`, `sentence`, `positional` or `json`."""
    layout: Layout | None = None
    """With a format: `side by side`, `touching` or `depth`."""
    add: tuple[str, ...] = ()
    """With a format: tags for everything but the looks, like `white background`."""
    cast: tuple[str, ...] = Field(min_length=1, max_length=5)
    """Triggers from left to right."""
    negative: str = ""
    """Counts where `drawing.cfg` is above 1 only."""
    lock_count: bool = False
    """Add the neighbouring head-counts to the negative prompt."""
    weight: NonNegativeFloat = 1.0
    """How much it counts in the rate, for policies that choose by the smoothed curve."""

    @field_validator("name")
    @classmethod
    def _nameable(cls, name: str) -> str:
        return safe_name(name, what="prompt name")

    @model_validator(mode="after")
    def _written_out(self) -> Self:
        """Compose or fill the text, once: a prompt that was written out comes out the same."""
        if self.format is None:
            if not self.text:
                raise ValueError("a prompt needs a `text` or a `format`")
            if self.layout or self.add:
                raise ValueError("`layout` and `add` go with a `format`; in a `text`, write them yourself")
            text = fill(self.text, self.cast)
        else:
            text = compose(self.format, self.cast, layout=self.layout, add=self.add)
            if self.text not in ("", text):
                raise ValueError(f"a prompt has a `text` or a `format`, not both; the format makes: {text}")
        read_prompt(text)
        object.__setattr__(self, "text", text)
        return self

    @field_validator("negative")
    @classmethod
    def _readable(cls, negative: str) -> str:
        read_prompt(negative)
        return negative

    def prompt(self) -> Prompt:
        """The same as the value that travels with every cell."""
        lock = head_count_lock(len(self.cast)) if self.lock_count else ""
        return Prompt(self.name, self.text, self.cast, ", ".join(part for part in (self.negative, lock) if part))


class DrawingConfig(_Frozen):
    """How every cell is drawn. Defaults are the field's operating point for the real model with a speed adapter."""

    sampler: Literal["er_sde", "euler"] = "er_sde"
    steps: PositiveInt = 8
    cfg: float = Field(1.0, ge=1)
    """Guidance scale; 1 draws without a second, negative pass."""
    shift: PositiveFloat = 3.0
    width: PositiveInt = 1024
    height: PositiveInt = 1024
    schedule: Literal["simple", "linspace"] = "simple"
    """`simple` is ComfyUI's, `linspace` diffusers'; they are equal where `steps` divides 1000."""
    noise: Literal["keyed", "comfyui"] = "keyed"
    """Noise of er_sde's steps: by seed and step alone, or ComfyUI's, which differs between kinds of device."""

    def drawing(self) -> Drawing:
        """The same as the value that travels with every cell."""
        return Drawing(**self.model_dump())


class GridConfig(_Frozen):
    """The product of axes that is drawn: epoch x weight x prompt x seed."""

    prompts: tuple[PromptConfig, ...] = Field(min_length=1)
    seeds: Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_expand_seeds)] = Field(min_length=1)
    """A list, or `{first: 1, count: 8}`."""
    weights: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1)
    """Strengths the adapter is applied with."""
    epochs: Annotated[EveryEpoch | tuple[PositiveInt, ...], BeforeValidator(_every_epoch)] = EveryEpoch()
    """`all`, `{every: 4, first: 20}`, or a list of epochs."""
    drawing: DrawingConfig = DrawingConfig()
    batch: PositiveInt = 8
    """Cells per request to an inference actor; they share adapter, weight and prompt."""

    @field_validator("seeds", "weights", "prompts")
    @classmethod
    def _distinct(cls, axis: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [value.name if isinstance(value, PromptConfig) else value for value in axis]
        if twice := sorted({str(n) for n in names if names.count(n) > 1}):
            raise ValueError(f"listed twice: {', '.join(twice)}")
        return axis

    def select_epochs(self, saved: tuple[int, ...]) -> tuple[int, ...]:
        """Which of the `saved` epochs (ascending) are drawn."""
        pick = self.epochs
        if isinstance(pick, EveryEpoch):
            return tuple(e for e in saved if e >= pick.first and (e % pick.every == 0 or e == saved[-1]))
        return tuple(e for e in saved if e in pick)


def _switch(value: Any) -> Any:
    """YAML reads a bare `on` and `off` as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class DecideConfig(_Frozen):
    """Which pictures are drawn to choose by, and how an epoch is adopted."""

    policy: Literal["full", "coarse_to_fine", "adaptive"] = "full"
    """`full` draws the whole grid and adopts the right edge of its plateau. `coarse_to_fine` draws every few epochs,
    then the best three on other seeds; `adaptive` draws where it teaches most, with seeds beyond the grid's as it needs
    them. Both adopt the epoch of smallest expected loss on the smoothed curve."""
    budget: PositiveInt = 230
    """Pictures per trial that `adaptive` may draw to choose by."""
    target_regret: float = Field(0.02, ge=0, lt=1)
    """`adaptive` is content when the chosen epoch is expected to lie at most this much below the best."""
    coarse_every: PositiveInt = 4
    """`coarse_to_fine` draws every so-many-th epoch of the grid first."""
    finalist_seeds: PositiveInt = 10
    """Further seeds on which `coarse_to_fine` draws its three finalists."""
    margin: float = Field(0.1, ge=0, lt=1)
    """Epochs whose rate is at most this much below the best belong to the plateau."""
    confirm_seeds: PositiveInt = 20
    """Fresh seeds, per prompt, drawn of the adopted epoch alone; they give the rate that is reported."""
    confirm_first_seed: NonNegativeInt = 1_000_000
    """Fresh seeds count up from here, leaving out any seed of the grid."""
    stop: Annotated[Literal["off", "advise", "on"], BeforeValidator(_switch)] = "off"
    """When the best epoch is behind, as the verdicts so far say: `advise` says so once, `on` ends the training."""
    stop_threshold: float = Field(0.95, gt=0.5, le=1)
    """How probable it must be that the best epoch is behind."""
    stop_exposures: NonNegativeFloat = 0.0
    """How often every picture must have been shown before that is considered."""


class JudgeConfig(_Frozen):
    """Who looks at the pictures."""

    name: Literal["pixel", "none"] = "pixel"
    """`pixel` reads pictures of the drawn world; `none` only draws, and nothing is adopted."""
