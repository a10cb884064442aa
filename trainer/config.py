"""What a trial is trained with, and on what. Torch-free, so planning never loads a model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


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


class DatasetConfig(_Frozen):
    """A folder of pictures, each with a caption of the same name (`.txt`)."""

    root: str = ""
    """The folder; empty together with `drawn` means the study's own `dataset/`."""
    repeats: PositiveInt = 1
    """How often an epoch shows each picture."""
    drawn: DrawnDataset | None = None
    """Draw the dataset in the pocket world first, if it is not there yet."""
    expect: dict[str, PositiveInt] = Field(default_factory=dict)
    """Pictures per set of triggers, as in `{kanachan: 81, kanachan+keichan: 20}`: `plan` counts with these while the
    folder is not there, and warns when the folder says otherwise."""


class TrainConfig(_Frozen):
    """How a LoRA is trained. Defaults are the field's for character adapters."""

    epochs: PositiveInt = 150
    save_every: PositiveInt = 1
    """Save an adapter every so many epochs; the last epoch is always saved."""
    keep_states: PositiveInt = 2
    """Training states kept to resume from, newest first; each is three times the size of an adapter."""
    rank: PositiveInt = 32
    alpha: PositiveFloat | None = None
    """Scale is alpha / rank; None means alpha = rank. Folded into the file, so the file's own scale is 1."""
    targets: Literal["dit-280"] = "dit-280"
    """Self- and cross-attention q, k, v, out and both MLP layers of every block: 280 layers in the real model."""
    learning_rate: PositiveFloat = 2e-5
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: stay at `learning_rate`, or fall to 2 % of it along a half cosine by the last step of `epochs`
    (another number of epochs is then another trial)."""
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: PositiveFloat = 1.0
    batch: PositiveInt = 1
    """Pictures per forward pass."""
    grad_accum: PositiveInt = 4
    """Forward passes per optimizer step."""
    caption_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of exposures trained with the empty prompt."""
    sigma_shift: PositiveFloat = 3.0
    """Training sigmas are shift(sigmoid(normal)): 1 puts the median at 0.5, 3 at 0.75."""
    resolution: tuple[PositiveInt, PositiveInt] = (1024, 1024)
    """Width and height in pixels; pictures are resized to cover it and cropped to the centre."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Of the frozen base; adapters and optimizer are always fp32."""
    threads: int = Field(0, ge=0)
    """CPU threads of the trainer; 0 leaves torch's choice. Fixed threads make CPU results repeatable."""
    seed: int = 0

    @property
    def images_per_step(self) -> int:
        """Pictures behind one optimizer step."""
        return self.batch * self.grad_accum
