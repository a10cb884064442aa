"""Adapter files: written whole or not at all, byte for byte repeatable, and read in every layout in use.

A file of this project is safetensors with `diffusion_model.*.lora_A/lora_B.weight` and no alpha keys, the one form that
ComfyUI and diffusers both load. Its metadata says how it was made. `read_adapter` takes files of other programs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anima.adapters.container import AdapterFile, Content, read_content, unsound_numbers, write_content
from anima.adapters.keys import split_key
from anima.adapters.layouts import canonical
from anima.adapters.metadata import AdapterMetadata
from anima.adapters.names import layout_of
from anima.adapters.peft_config import BESIDE, IN_FILE, PeftConfig
from anima.adapters.reading import deltas_of, refuse
from orchestrator.core.errors import AdapterError

__all__ = ["Adapter", "AdapterFile", "AdapterMetadata", "adapter_pairs", "read_adapter", "write_adapter"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A file that was read and found sound. `metadata` is None in files other programs wrote."""

    file: AdapterFile
    state: dict[str, Tensor]
    """Its tensors under this project's names: lora_A/lora_B (or LoKr's, LoHa's, diff), and alpha where that scales."""
    metadata: AdapterMetadata | None
    layers: int
    layout: str
    """How the file names its layers: comfy, kohya, diffusers, lycoris, onetrainer, peft or bare."""


def write_adapter(
    path: Path, state: Mapping[str, Tensor], metadata: AdapterMetadata, *, dtype: torch.dtype = torch.float32
) -> AdapterFile:
    """Write an adapter aside, flush it to the disk, then rename it into place; the folder is made if needed.

    fp32 by default: the file then holds exactly what was trained, so resuming, merging and hashing all speak of the
    same numbers, and the miniature's file is small anyway. Real-size studies pass bf16 or fp16 to halve theirs.
    The same state and metadata give the same bytes. Raises AdapterError for tensors that are not finite in `dtype`.
    """
    adapter_pairs(state, where=path.name)
    tensors = {name: tensor.detach().to("cpu", dtype) for name, tensor in state.items()}
    return write_content(path, tensors, metadata.to_strings())


def read_adapter(path: Path, *, sha256: str | None = None) -> Adapter:
    """Read an adapter onto the CPU in its stored dtype, refusing anything that is not sound or not for Anima.

    With `sha256`, its bytes must be the recorded ones. Raises AdapterError naming the file and what is wrong with it,
    with the first keys concerned.
    """
    content = read_content(path, sha256=sha256)
    deltas = deltas_of(content.tensors, where=str(path), config=peft_config(content))
    for key, what in unsound_numbers(content.tensors).items():
        raise AdapterError(f"{what} in {key}", where=str(path), fix="quarantine it, then fetch or retrain it")
    layout = layout_of(content.tensors)
    return Adapter(content.file, canonical(deltas), metadata_of(content), len(deltas), layout)


def metadata_of(content: Content) -> AdapterMetadata | None:
    """How this project made the file; None if it did not. Raises AdapterError for fields this version does not know."""
    try:
        return AdapterMetadata.from_strings(content.strings)
    except (TypeError, ValueError) as error:
        raise AdapterError(
            f"has metadata this version does not read ({error})", where=str(content.file.path), fix="update the project"
        ) from error


def peft_config(content: Content) -> PeftConfig | None:
    """The configuration that scales the file, from its metadata or, for PEFT's own files, from the file beside it.

    Raises AdapterError where it is needed and not there: without it, alpha is unknown.
    """
    path = content.file.path
    if IN_FILE in content.strings:
        return PeftConfig.parse(content.strings[IN_FILE], f"{path}: {IN_FILE}")
    if "peft" not in layout_of(content.tensors):
        return None
    if any(found is not None and found.part == "alpha" for found in map(split_key, content.tensors)):
        return None
    beside = path.with_name(BESIDE)
    try:
        return PeftConfig.parse(beside.read_text(encoding="utf-8"), str(beside))
    except OSError as error:
        raise AdapterError(
            f"is PEFT's own file, whose alpha is in {BESIDE}, and that cannot be read ({error.strerror})",
            where=str(path),
            fix=f"put its {BESIDE} beside it",
        ) from error


def adapter_pairs(state: Mapping[str, Tensor], *, where: str = "adapter") -> dict[str, tuple[Tensor, Tensor]]:
    """The tensors of this project's own layout as layer name -> (A (rank, in), B (out, rank)).

    Raises AdapterError naming the first offenders: keys of another kind, a half without its other, ranks that disagree,
    or no keys at all.
    """
    if not state:
        raise AdapterError("holds no LoRA tensors at all", where=where)
    sides = (".lora_A.weight", ".lora_B.weight")
    strange = [key for key in state if not (key.startswith("diffusion_model.") and key.endswith(sides))]
    refuse(strange, "has keys other than diffusion_model.*.lora_A.weight and .lora_B.weight", where)
    names = {key.removesuffix(sides[0]).removesuffix(sides[1]): None for key in state}
    refuse([n for n in names if any(n + side not in state for side in sides)], "has only one half of layers", where)
    pairs = {name: (state[name + sides[0]], state[name + sides[1]]) for name in names}
    uneven = [n for n, (a, b) in pairs.items() if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]]
    refuse(uneven, "has lora_A and lora_B that do not multiply", where)
    return pairs
