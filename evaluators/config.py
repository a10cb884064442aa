"""What is drawn of every saved epoch, who judges it, and how the epoch is chosen. Torch-free, so planning is quick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from evaluators.adapter_source import ShortAdapterSource
from evaluators.prompts import Format, Layout, compose, fill, head_count_lock
from orchestrator.core.layout import safe_name
from orchestrator.core.study import ConstantAdapter, Drawing, Prompt, Role

Side = Annotated[PositiveInt, Field(multiple_of=16)]
"""Pixels along one side of a picture: whole patches of latent cells."""


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


Seeds = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_expand_seeds)]
Epochs = Annotated[EveryEpoch | tuple[PositiveInt, ...], BeforeValidator(_every_epoch)]


class PromptConfig(_Frozen):
    """A prompt, written out or composed, and whom it should show. `text` is in the end what is sent to the model.

    Only prompts whose `role` is `rate` speak for or against an epoch. Controls and probes are drawn, judged where that
    means something, and shown; they may have `seeds`, `epochs` and `weights` of their own, since a few pictures do.
    """

    name: str
    """Short; it names a row of the report."""
    role: Role = "rate"
    """`rate`, `control` (without the adapter, or without its triggers) or `probe` (something unusual is asked for)."""
    text: str = ""
    """As it is sent, or with variables for the cast: `{left}`, `{center}`, `{right}`, `{1}`, `{triggers}`, `{cast}`,
    `{count}`. Empty with a `format`."""
    format: Format | None = None
    """Compose the text: `trigger`, `tags`, `sentence`, `positional` or `json`."""
    layout: Layout | None = None
    """With a format: `side by side`, `touching` or `depth`."""
    add: tuple[str, ...] = ()
    """With a format: tags for everything but the looks, like `white background`."""
    sentence: str = ""
    """With a format: a sentence in plain words, after the tags."""
    cast: tuple[str, ...] = Field((), max_length=5)
    """Triggers, from left to right. A control without triggers has none."""
    positions: Literal["left to right", "any"] = "left to right"
    """Whether the cast must stand in that order."""
    negative: str = ""
    """Counts where `drawing.cfg` is above 1 only."""
    lock_count: bool = False
    """Add the neighbouring head-counts to the negative prompt."""
    weight: NonNegativeFloat = 1.0
    """How much it counts in the rate, for policies that choose by the smoothed curve."""
    size: tuple[Side, Side] | None = None
    """Width and height, where it is not drawn at the grid's."""
    adapter: bool = True
    """Of a control: false draws it with the base alone, once for the whole study."""
    seeds: Seeds | None = Field(None, min_length=1)
    """Of a control or probe: instead of the grid's."""
    epochs: Epochs | None = None
    """Of a control or probe: which of the grid's epochs; left out, all of them."""
    weights: tuple[PositiveFloat, ...] | None = Field(None, min_length=1)
    """Of a control or probe: instead of the grid's."""

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
            if self.layout or self.add or self.sentence:
                raise ValueError("`layout`, `add` and `sentence` go with a `format`; in a `text`, write them yourself")
            text = fill(self.text, self.cast)
        else:
            if not self.cast:
                raise ValueError("a format is filled from the cast, and there is none; write a `text`")
            text = compose(self.format, self.cast, layout=self.layout, add=self.add, sentence=self.sentence)
            if self.text not in ("", text):
                raise ValueError(f"a prompt has a `text` or a `format`, not both; the format makes: {text}")
        read_prompt(text)
        object.__setattr__(self, "text", text)
        return self

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.role == "rate":
            if not self.cast:
                raise ValueError("`cast` is missing: a picture passes when the right people are on it")
            if not self.adapter:
                raise ValueError("`adapter: false` goes with `role: control`; it says nothing about an epoch")
            if own := [key for key in ("seeds", "epochs", "weights") if getattr(self, key) is not None]:
                raise ValueError(f"`{own[0]}` goes with a control or a probe; what counts in a rate follows the grid")
        if self.role == "probe" and not self.adapter:
            raise ValueError("`adapter: false` goes with `role: control`")
        if not self.adapter and (own := [key for key in ("epochs", "weights") if getattr(self, key) is not None]):
            raise ValueError(f"the base alone has no {own[0]}; leave `{own[0]}` out")
        return self

    @field_validator("negative")
    @classmethod
    def _readable(cls, negative: str) -> str:
        read_prompt(negative)
        return negative

    def prompt(self) -> Prompt:
        """The same as the value that travels with every cell."""
        lock = head_count_lock(len(self.cast)) if self.lock_count and self.cast else ""
        negative = ", ".join(part for part in (self.negative, lock) if part)
        ordered = self.positions == "left to right"
        return Prompt(self.name, self.text, self.cast, negative, self.role, ordered)


class DrawingConfig(_Frozen):
    """How every cell is drawn. Defaults are the field's operating point for the real model with a speed adapter."""

    sampler: Literal["er_sde", "euler"] = "er_sde"
    steps: PositiveInt = 8
    cfg: float = Field(1.0, ge=1)
    """Guidance scale; 1 draws without a second, negative pass."""
    shift: PositiveFloat = 3.0
    width: Side = 1024
    height: Side = 1024
    schedule: Literal["simple", "linspace"] = "simple"
    """`simple` is ComfyUI's, `linspace` diffusers'; they are equal where `steps` divides 1000."""
    noise: Literal["keyed", "comfyui"] = "keyed"
    """Noise of er_sde's steps: by seed and step alone, or ComfyUI's, which differs between kinds of device."""
    compile: bool = False
    """Compile the transformer's pass (torch.compile): the first pass of each shape takes longer, the others less.
    Pictures have other last bits, so their cells are others. Needs a C++ compiler on a CPU, Triton on a GPU."""

    def drawing(self) -> Drawing:
        """The same as the value that travels with every cell."""
        return Drawing(**self.model_dump())


class GridConfig(_Frozen):
    """The product of axes that is drawn: epoch x weight x prompt x seed."""

    prompts: tuple[PromptConfig, ...] = Field(min_length=1)
    seeds: Seeds = Field(min_length=1)
    """A list, or `{first: 1, count: 8}`."""
    weights: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1)
    """Strengths the adapter is applied with."""
    epochs: Epochs = EveryEpoch()
    """`all`, `{every: 4, first: 20}`, or a list of epochs."""
    with_adapters: tuple[ShortAdapterSource, ...] = ()
    """Adapters that all cells are drawn with beside the one that is judged, like one that needs few steps: a source as
    for `base`, or `{source: ..., weight: 1.0}`."""
    drawing: DrawingConfig = DrawingConfig()
    batch: PositiveInt = 8
    """Cells per request to an inference actor; they share adapter and weight. Pixels do not depend on it. Every four of
    them keep one thread busy."""

    @field_validator("seeds", "weights", "prompts")
    @classmethod
    def _distinct(cls, axis: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [value.name if isinstance(value, PromptConfig) else value for value in axis]
        if twice := sorted({str(n) for n in names if names.count(n) > 1}):
            raise ValueError(f"listed twice: {', '.join(twice)}")
        return axis

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if not self.rate_prompts:
            raise ValueError("every prompt is a control or a probe; at least one must count in the rate")
        counted = {self._drawn(prompt): prompt.name for prompt in self.rate_prompts}
        for prompt in self.shown_prompts:
            if other := counted.get(self._drawn(prompt)):
                raise ValueError(f"prompts {other!r} and {prompt.name!r} make the same pictures, and only one counts")
        return self

    def _drawn(self, prompt: PromptConfig) -> tuple[object, ...]:
        made = prompt.prompt()
        return made.text, made.negative, self.drawing_of(prompt), prompt.adapter

    @property
    def rate_prompts(self) -> tuple[PromptConfig, ...]:
        """Prompts whose pictures count in the rate."""
        return tuple(prompt for prompt in self.prompts if prompt.role == "rate")

    @property
    def shown_prompts(self) -> tuple[PromptConfig, ...]:
        """Controls and probes."""
        return tuple(prompt for prompt in self.prompts if prompt.role != "rate")

    @property
    def constants(self) -> tuple[ConstantAdapter, ...]:
        """The adapters every cell is drawn with, by content. Raises ValueError before `pinned` said what they hold."""
        return tuple(source.constant() for source in self.with_adapters)

    def pinned(self, hashes: Sequence[str]) -> GridConfig:
        """The same grid, with the content of each of `with_adapters` written down."""
        pins = zip(self.with_adapters, hashes, strict=True)
        return self.model_copy(update={"with_adapters": tuple(a.model_copy(update={"sha256": h}) for a, h in pins)})

    def drawing_of(self, prompt: PromptConfig) -> Drawing:
        """How the cells of a prompt are drawn."""
        drawing = self.drawing.drawing()
        return drawing if prompt.size is None else replace(drawing, width=prompt.size[0], height=prompt.size[1])

    def select_epochs(self, saved: tuple[int, ...]) -> tuple[int, ...]:
        """Which of the `saved` epochs (ascending) are drawn."""
        return _select(self.epochs, saved)

    def shows(self, prompt: PromptConfig, epoch: int, drawn: tuple[int, ...]) -> bool:
        """Whether a control or probe is drawn of this one of the `drawn` epochs (ascending)."""
        return prompt.epochs is None or epoch in _select(prompt.epochs, drawn)


def _select(pick: EveryEpoch | tuple[int, ...], saved: tuple[int, ...]) -> tuple[int, ...]:
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
    minutes: PositiveFloat | None = None
    """Drawing time per trial after which `adaptive` asks for nothing more; left out: no limit."""
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
