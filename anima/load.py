"""Load the Anima components from a diffusers-layout folder, onto one device, ready to draw or to train on.

The folder holds `transformer/`, `text_conditioner/`, `vae/`, `text_encoder/`, `tokenizer/` and `t5_tokenizer/`.
Nothing is fetched from anywhere: a missing part is reported by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AnimaTextConditioner, AutoencoderKLQwenImage, CosmosTransformer3DModel
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen2Tokenizer, Qwen3Model, T5TokenizerFast
from transformers.utils.logging import disable_progress_bar

from anima.base import missing_parts
from anima.text import TextEncoder
from anima.vae import LatentCodec
from orchestrator.core.errors import MissingError

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Base:
    """The frozen base model: transformer, latent codec and text encoder, all in eval mode on `device`."""

    transformer: CosmosTransformer3DModel
    codec: LatentCodec
    text: TextEncoder
    device: torch.device
    dtype: torch.dtype


def load_base(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Base:
    """Load everything. Every component takes `dtype`.

    Raises MissingError naming each part that is not there.
    """
    missing = missing_parts(folder)
    if missing:
        raise MissingError(
            f"base model is incomplete: no {', '.join(missing)}",
            where=str(folder),
            fix="download the diffusers-layout folder whole, or correct `base:`",
        )
    target = torch.device(device)
    transformer = _place(load_transformer(folder / "transformer"), target, dtype).eval().requires_grad_(False)
    return Base(
        transformer=transformer,
        codec=LatentCodec(_place(load_vae(folder / "vae"), target, dtype)),
        text=load_text(folder, device=device, dtype=dtype),
        device=target,
        dtype=dtype,
    )


def load_transformer(folder: Path) -> CosmosTransformer3DModel:
    """The DiT with its padding-mask channel folded away.

    The mask is the last input channel of every 2x2 patch and zero for whole pictures, so dropping its columns of the
    patch embedding changes nothing and saves a resize per step (and torchvision, which the resize would need).
    """
    config = _config(folder)
    masked = bool(config.get("concat_padding_mask", True))
    state = _weights(folder)
    if masked:
        weight = state["patch_embed.proj.weight"]
        patch = config["patch_size"]
        kept = config["in_channels"] * patch[0] * patch[1] * patch[2]
        state["patch_embed.proj.weight"] = weight[:, :kept].contiguous()
    model = CosmosTransformer3DModel.from_config({**config, "concat_padding_mask": False})
    model.load_state_dict(state)
    return model


def load_vae(folder: Path) -> AutoencoderKLQwenImage:
    """The picture codec, not folded yet, fp32."""
    model = AutoencoderKLQwenImage.from_config(_config(folder))
    model.load_state_dict(_weights(folder))
    return model


def load_text(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> TextEncoder:
    """Both tokenizers, the Qwen3 encoder and the text conditioner."""
    # A bar for files that load in milliseconds would break the study's own progress on the terminal.
    disable_progress_bar()
    encoder = Qwen3Model.from_pretrained(folder / "text_encoder", dtype=dtype)
    conditioner = AnimaTextConditioner.from_config(_config(folder / "text_conditioner"))
    conditioner.load_state_dict(_weights(folder / "text_conditioner"))
    return TextEncoder(
        tokenizer=Qwen2Tokenizer.from_pretrained(folder / "tokenizer"),
        t5_tokenizer=T5TokenizerFast.from_pretrained(folder / "t5_tokenizer"),
        encoder=encoder.to(device).eval().requires_grad_(False),
        conditioner=_place(conditioner, torch.device(device), dtype).eval().requires_grad_(False),
    )


def _place(model: Model, device: torch.device, dtype: torch.dtype) -> Model:
    # diffusers warns at every cast, also at one that changes nothing.
    return model.to(device) if dtype == torch.float32 else model.to(device, dtype)


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        state |= load_file(file)
    return {name: tensor.float() for name, tensor in state.items()}
