"""Load the Anima components of a base folder onto one device, ready to draw or to train on.

The folder holds `transformer/`, `text_conditioner/`, `vae/`, `text_encoder/`, `tokenizer/` and `t5_tokenizer/`.
Nothing is fetched from anywhere: a missing part is reported by name. Modules are built without weights and take the
files' tensors as they are mapped into memory, one at a time onto the device and into the dtype asked for; where both
are the file's own, nothing is copied at all, and the first use reads from the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AnimaTextConditioner, AutoencoderKLQwenImage, CosmosTransformer3DModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model, T5TokenizerFast

from anima.base import missing_parts
from anima.match import WEIGHTED, Match, PartReport, match_part
from anima.text import TextEncoder
from anima.vae import LatentCodec
from orchestrator.core.errors import MissingError, WeightsError

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Base:
    """The frozen base model: transformer, latent codec and text encoder, all in eval mode on `device`."""

    transformer: CosmosTransformer3DModel
    codec: LatentCodec
    text: TextEncoder
    device: torch.device
    dtype: torch.dtype
    reports: tuple[PartReport, ...] = ()
    """What was matched of each component's tensors."""


def load_base(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Base:
    """Load everything. Every component takes `dtype`.

    Raises MissingError naming each part that is not there, and WeightsError when a file is not exactly this model.
    """
    missing = missing_parts(folder)
    if missing:
        raise MissingError(
            f"base model is incomplete: no {', '.join(missing)}",
            where=str(folder),
            fix="download the diffusers-layout folder whole, or correct `base:`",
        )
    found = {part: match_part(folder / part, part) for part in WEIGHTED}
    transformer = _transformer(found["transformer"], device, dtype).eval().requires_grad_(False)
    vae = _vae(found["vae"], device, dtype)
    return Base(
        transformer=transformer,
        codec=LatentCodec(vae),
        text=_text(folder, found, device, dtype),
        device=torch.device(device),
        dtype=dtype,
        reports=tuple(match.report for match in found.values()),
    )


def load_transformer(
    folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> CosmosTransformer3DModel:
    """The DiT with its padding-mask channel folded away.

    The mask is the last input channel of every 2x2 patch and zero for whole pictures, so dropping its columns of the
    patch embedding changes nothing and saves a resize per step (and torchvision, which the resize would need).
    """
    return _transformer(match_part(folder, "transformer"), device, dtype)


def load_vae(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> AutoencoderKLQwenImage:
    """The picture codec, not folded yet."""
    return _vae(match_part(folder, "vae"), device, dtype)


def load_text(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> TextEncoder:
    """Both tokenizers, the Qwen3 encoder and the text conditioner.

    Raises WeightsError when a tokenizer knows more tokens than its reader has rows for.
    """
    found = {part: match_part(folder / part, part) for part in ("text_encoder", "text_conditioner")}
    return _text(folder, found, device, dtype)


def _transformer(found: Match, device: str, dtype: torch.dtype) -> CosmosTransformer3DModel:
    config, state = found.config, _read(found, device, dtype)
    if config.get("concat_padding_mask", True):
        patch = config["patch_size"]
        kept = config["in_channels"] * patch[0] * patch[1] * patch[2]
        state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :kept].contiguous()
    with init_empty_weights(include_buffers=False):
        model = CosmosTransformer3DModel.from_config({**config, "concat_padding_mask": False})
    return _fill(model, state, device)


def _vae(found: Match, device: str, dtype: torch.dtype) -> AutoencoderKLQwenImage:
    with init_empty_weights(include_buffers=False):
        model = AutoencoderKLQwenImage.from_config(found.config)
    return _fill(model, _read(found, device, dtype), device)


def _text(folder: Path, found: Mapping[str, Match], device: str, dtype: torch.dtype) -> TextEncoder:
    with init_empty_weights(include_buffers=False):
        encoder = Qwen3Model(Qwen3Config.from_dict(dict(found["text_encoder"].config)))
        conditioner = AnimaTextConditioner.from_config(found["text_conditioner"].config)
    tokenizer = _tokenizer(Qwen2Tokenizer, folder / "tokenizer", encoder.config.vocab_size)
    t5_tokenizer = _tokenizer(T5TokenizerFast, folder / "t5_tokenizer", conditioner.config.target_vocab_size)
    return TextEncoder(
        tokenizer=tokenizer,
        t5_tokenizer=t5_tokenizer,
        encoder=_fill(encoder, _read(found["text_encoder"], device, dtype), device).eval().requires_grad_(False),
        conditioner=_fill(conditioner, _read(found["text_conditioner"], device, dtype), device)
        .eval()
        .requires_grad_(False),
    )


def _read(found: Match, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every tensor by its name in the module, in the order of the files, so that a disk reads forwards."""
    wanted: dict[Path, dict[str, str]] = {}
    for name, (file, key) in found.places.items():
        wanted.setdefault(file, {})[key] = name
    state: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for path, names in wanted.items():
            file = stack.enter_context(safe_open(path, framework="pt", device=device))
            for key in file.offset_keys():
                if key in names:
                    state[names[key]] = file.get_tensor(key).to(dtype)
    return state


def _fill(model: Model, state: Mapping[str, Tensor], device: str) -> Model:
    """Give an empty module its tensors. Its rotary tables, which no file holds, stay fp32 whatever the weights are."""
    model.load_state_dict(state, assign=True)
    return model.to(device)


def _tokenizer(kind: Any, folder: Path, rows: int) -> Any:
    """A tokenizer whose every token has a row in the embedding that reads it."""
    try:
        tokenizer = kind.from_pretrained(folder)
    except Exception as error:
        # What is wrong with a tokenizer's files is told by whatever stumbles over it first, down to Rust.
        what = f"the tokenizer cannot be read: {' '.join(str(error).split())[:200]}"
        raise WeightsError(what, where=str(folder), fix="fetch its files again") from error
    if len(tokenizer) > rows:
        what = f"the tokenizer knows {len(tokenizer)} tokens, the model reads only {rows}"
        raise WeightsError(what, where=str(folder), fix="take the tokenizers that belong to this base")
    return tokenizer
