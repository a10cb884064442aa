"""What a trial is trained with, and on what. Torch-free, so planning never loads a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
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
from orchestrator.core.layout import safe_name

CaptionKind = Literal["txt", "caption", "json"]
Role = Literal["solo", "pair", "trio", "regularisation"]

TargetSet = Literal["dit-280", "toolkit-316", "with-adaln-448"]

SIDE = 16
"""Sides of training pictures are multiples of this: eight pixels a latent cell, two cells a patch."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DrawnDataset(_Frozen):
    """Pictures the study draws for itself in the pocket world: how many of each group."""

    solo: PositiveInt = 16
    """Pictures of each character alone."""
    pair: int = Field(8, ge=0)
    """Pictures of each pair of characters."""
    trio: int = Field(12, ge=0)
    """Pictures of all three."""
    seed: int = 1


class FolderConfig(_Frozen):
    """One folder of a dataset, and what holds for all its pictures. Captions are held to `role` and `cast`."""

    path: str
    """Relative to `dataset.root`, or to where the program runs when there is none; or `s3://bucket/prefix`."""
    repeats: PositiveInt = 1
    """On top of `dataset.repeats` and of the folder names' own."""
    role: Role | None = None
    """`solo`, `pair`, `trio`: captions name one, two, three of the cast. `regularisation`: they name nobody."""
    cast: tuple[str, ...] = ()
    """Whom every caption here names, nobody else; empty leaves it to the captions."""

    @model_validator(mode="after")
    def _role_fits_cast(self) -> FolderConfig:
        people = {"solo": 1, "pair": 2, "trio": 3, "regularisation": 0}.get(self.role or "")
        if self.cast and people is not None and len(self.cast) != people:
            raise ValueError(f"role {self.role} means {people} of the cast, not {len(self.cast)}")
        return self


class DatasetConfig(_Frozen):
    """Pictures, each with a caption of the same name: one folder (`root`), or several (`folders`)."""

    root: str = ""
    """The folder, here or in a store (`s3://bucket/prefix`); empty together with `drawn` means the study's own."""
    repeats: PositiveInt = 1
    """How often an epoch shows each picture. A subfolder named `5_anything` shows its pictures five times as often."""
    folders: tuple[FolderConfig, ...] = ()
    """Only these folders, each with its own repeats, role and cast, instead of everything below `root`."""
    captions: tuple[CaptionKind, ...] = ("txt", "caption", "json")
    """Kinds of caption files, the preferred one first; a picture with several takes the first."""
    caption_lines: Literal["together", "each"] = "together"
    """`each`: every line of a caption file is a caption of its own, and each exposure draws one of them."""
    faulty: Literal["stop", "skip"] = "stop"
    """What to do about pictures that cannot be trained on: refuse the dataset, or leave them out and say so."""
    one_sided: dict[str, str] = Field(default_factory=dict)
    """Marks of the cast that a mirror would move to the other side, as in `{koharu: ribbon}`, where the words of her
    look (`side ponytail`, `mole under eye`) do not say it."""
    drawn: DrawnDataset | None = None
    """Draw the dataset in the pocket world first, if it is not there yet."""
    expect: dict[str, PositiveInt] = Field(default_factory=dict)
    """Pictures per set of triggers, as in `{kanachan: 81, kanachan+keichan: 20}`: `plan` counts with these while the
    folder is not there, and warns when the folder says otherwise."""

    @model_validator(mode="after")
    def _drawn_needs_no_folders(self) -> DatasetConfig:
        if self.drawn is not None and self.folders:
            raise ValueError("drawn pictures have one folder: leave out `folders` or `drawn`")
        if not self.captions:
            raise ValueError("captions names no kind of caption file")
        return self


class BucketConfig(_Frozen):
    """Sizes that pictures of different shapes are trained at, each about as large as `train.resolution`."""

    step: PositiveInt = 64
    """Sides are multiples of this, and this of 16."""
    min_side: PositiveInt = 512
    max_side: PositiveInt = 2048
    max_aspect: PositiveFloat = 2.0
    """Longer by shorter side of the slimmest bucket; a slimmer picture is cropped to it."""
    upscale: bool = True
    """Whether a picture smaller than its bucket is enlarged; otherwise it is trained at its own size, rounded down."""

    @model_validator(mode="after")
    def _sides_fit(self) -> BucketConfig:
        if self.step % SIDE:
            raise ValueError(f"step must be a multiple of {SIDE}, not {self.step}")
        if self.min_side > self.max_side or self.max_aspect < 1:
            raise ValueError("no picture fits: min_side must not exceed max_side, nor max_aspect be below 1")
        return self


class SamplesConfig(_Frozen):
    """Pictures drawn while training, of the adapter as it is then: to look at, not evidence. Of a few fixed seeds."""

    prompts: tuple[str, ...] = ()
    """As they are sent to the model. One way of writing a prompt hides what another shows, so give several; none means
    each trigger alone, and for each character a caption she is trained with."""
    negative: str = ""
    """Counts where `cfg` is above 1 only."""
    seeds: tuple[NonNegativeInt, ...] = Field((42, 43), min_length=1)
    every: PositiveInt = 1
    """Epochs from one set of pictures to the next; before the first epoch and after the last there always is one."""
    sampler: Literal["er_sde", "euler"] = "er_sde"
    steps: PositiveInt = 20
    cfg: float = Field(4.0, ge=1)
    shift: PositiveFloat = 3.0
    size: tuple[PositiveInt, PositiveInt] | None = None
    """Width and height; None means `train.resolution`."""
    batch: PositiveInt = 2
    """Pictures drawn at once."""

    @field_validator("size")
    @classmethod
    def _whole_patches(cls, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return None if size is None else _sides(size)

    @field_validator("prompts", "negative")
    @classmethod
    def _readable(cls, written: tuple[str, ...] | str) -> tuple[str, ...] | str:
        for prompt in (written,) if isinstance(written, str) else written:
            read_prompt(prompt)
        return written


class TrainConfig(_Frozen):
    """How a LoRA is trained. Defaults are the field's for character adapters."""

    epochs: PositiveInt = 150
    save_every: PositiveInt = 1
    """Save an adapter every so many epochs; the last epoch is always saved."""
    state_every_steps: NonNegativeInt = 0
    """Also keep a training state every so many optimizer steps within an epoch; 0 keeps those of whole epochs only."""
    keep_states: PositiveInt = 2
    """Training states kept to resume from, newest first; each is three times the size of an adapter."""

    rank: PositiveInt = 32
    alpha: PositiveFloat | None = None
    """Scale is alpha / rank; None means alpha = rank. Folded into the file, so the file's own scale is 1."""
    targets: str = "dit-280"
    """Which layers are adapted. `dit-280`: self- and cross-attention q, k, v, out and both MLP layers of every block.
    `toolkit-316`: and the text conditioner's q, k, v. `with-adaln-448`: and the blocks' modulation. Anything else is a
    regular expression that is looked for in the layers' original names, like `blocks\\.\\d+\\.cross_attn`."""
    ranks: dict[str, PositiveInt] = Field(default_factory=dict)
    """Other ranks for layers whose name holds a match of the regular expression: `{mlp: 16}`. The first match counts;
    alpha keeps its ratio to the rank."""

    optimizer: Literal["adamw", "adamw8bit", "adafactor", "nadam", "prodigy", "radam", "muon"] = "adamw"
    """`adamw8bit` keeps its moments in 8 bits: three quarters less memory for them. `prodigy` finds the rate itself and
    multiplies it by `learning_rate`, which is 1 then."""
    learning_rate: PositiveFloat = 2e-5
    lr_schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After the warm-up: stay at `learning_rate`, or fall to 2 % of it, along a half cosine or a line, by the last step
    of `epochs` (another number of epochs is then another trial)."""
    warmup_steps: NonNegativeInt = 0
    betas: tuple[float, float] = (0.9, 0.99)
    """Of the optimizers that have them; `muon` takes the first as its momentum."""
    weight_decay: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat = 1.0

    batch: PositiveInt = 1
    """Pictures per forward pass."""
    grad_accum: PositiveInt = 4
    """Forward passes per optimizer step."""
    balance: Literal["none", "per_character"] = "none"
    """`per_character`: an epoch shows the solo pictures of characters with fewer exposures more often, in turn, until
    every character is shown equally often."""
    regularisation_weight: PositiveFloat = 1.0
    """Weight of the loss of regularisation pictures."""

    caption_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of exposures trained with the empty prompt."""
    shuffle_caption: bool = False
    """Put a caption's tags in another order at each exposure."""
    keep_tokens: NonNegativeInt = 1
    """First tags that are neither moved nor dropped (of captions in text; in JSON the fields say it). A tag that names
    one of the cast is never dropped either."""
    tag_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the other tags left out, drawn anew at each exposure."""
    flip_augment: bool = False
    """Show every other exposure mirrored. Refused when the cast has a mark on one side, for the mirror image teaches
    the wrong one. Pictures whose caption says left or right are never mirrored."""
    flip_forced: bool = False
    """Mirror even then."""
    sigma_shift: PositiveFloat = 3.0
    """Training sigmas are shift(sigmoid(normal)): 1 puts the median at 0.5, 3 at 0.75."""
    sigma_mean: float = 0.0
    """Mean and standard deviation of the normal."""
    sigma_std: PositiveFloat = 1.0
    sigma_range: tuple[float, float] = (0.0, 1.0)
    """Sigmas are moved linearly from [0, 1] into this range."""
    loss_weighting: Literal["none", "min_snr", "cosmap"] = "none"
    """`min_snr`: min(SNR, 5) on the predicted picture; `cosmap`: 2 / (pi (1 - 2 sigma + 2 sigma^2))."""

    resolution: tuple[PositiveInt, PositiveInt] = (1024, 1024)
    """Width and height in pixels; pictures are resized to cover it and cropped to the centre."""
    buckets: BucketConfig | None = None
    """Train each picture at the size of this area that suits its shape, instead of all at `resolution`."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Of the frozen base; adapters and optimizer are always fp32."""
    checkpointing: Literal["off", "on", "auto"] = "auto"
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time. `auto`
    does so on a GPU whose memory would not hold them."""
    compile: bool = False
    """Compile the transformer's blocks first: minutes at the start (and per size), then faster steps."""
    samples: SamplesConfig | None = None
    """Pictures to draw while training, like `{prompts: ["kanachan, 1girl"], seeds: [42]}`, or `{}`; none by default,
    for a study's grid draws every saved epoch anyway."""
    threads: NonNegativeInt = 0
    """CPU threads of the trainer; 0 leaves torch's choice. Fixed threads make CPU results repeatable."""
    seed: int = 0

    @field_validator("resolution")
    @classmethod
    def _whole_patches(cls, resolution: tuple[int, int]) -> tuple[int, int]:
        return _sides(resolution)

    @field_validator("targets")
    @classmethod
    def _targets_compile(cls, targets: str) -> str:
        if targets not in get_args(TargetSet):
            _compiles(targets)
        return targets

    @field_validator("ranks")
    @classmethod
    def _ranks_compile(cls, ranks: dict[str, int]) -> dict[str, int]:
        for pattern in ranks:
            _compiles(pattern)
        return ranks

    @field_validator("sigma_range")
    @classmethod
    def _is_a_range(cls, sigmas: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= sigmas[0] < sigmas[1] <= 1:
            raise ValueError("must be two numbers with 0 <= first < second <= 1")
        return sigmas

    @field_validator("betas")
    @classmethod
    def _are_shares(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("must be at least 0 and below 1")
        return betas

    @model_validator(mode="after")
    def _prodigy_finds_the_rate(self) -> TrainConfig:
        if self.optimizer == "prodigy" and self.learning_rate < 0.1:
            raise ValueError("prodigy finds the rate itself and multiplies it by learning_rate: set that to 1")
        return self

    @property
    def images_per_step(self) -> int:
        """Pictures behind one optimizer step."""
        return self.batch * self.grad_accum


def _named(trials: dict[str, TrainConfig]) -> dict[str, TrainConfig]:
    for name in trials:
        safe_name(name, what="trial")
    return trials


Trials = Annotated[dict[str, TrainConfig], AfterValidator(_named)]
"""Trials by their names, which are also names of folders."""


def complete_trials(data: Any) -> Any:
    """A study's plain data with each trial as `train` with its own keys on top, one called `main` when left out."""
    if not isinstance(data, Mapping):
        return data
    common, trials = data.get("train") or {}, data.get("trials") or {"main": {}}
    if not isinstance(common, Mapping) or not isinstance(trials, Mapping):
        return data
    return {**data, "trials": {name: {**common, **(own or {})} for name, own in trials.items()}}


def _sides(size: tuple[int, int]) -> tuple[int, int]:
    if any(side % SIDE for side in size):
        raise ValueError(f"sides must be multiples of {SIDE}")
    return size


def _compiles(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is neither a named set nor a regular expression: {error}") from error
