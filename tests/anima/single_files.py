"""A diffusers-layout base written out as the single files that are published for ComfyUI, with the tensors it has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anima.base import POCKET
from anima.tensors import TensorSpec, component_tensors


@dataclass(frozen=True, slots=True)
class SingleFiles:
    """Where they are."""

    transformer: Path
    text_encoder: Path
    vae: Path


def write_single_files(out: Path, base: Path = POCKET, *, root: str = "net.", tables: bool = False) -> SingleFiles:
    """Write the three files; `root` goes in front of every transformer key, `tables` adds the rotary tables."""
    out.mkdir(parents=True, exist_ok=True)
    files = SingleFiles(out / "dit.safetensors", out / "qwen.safetensors", out / "vae.safetensors")
    state = {f"{root}{spec.original}": t for spec, t in _part(base, "transformer")}
    state |= {f"{root}llm_adapter.{spec.original}": t for spec, t in _part(base, "text_conditioner")}
    if tables:
        state |= {f"{root}pos_embedder.{name}": torch.zeros(7) for name in ("seq", "dim_spatial_range")}
        state |= {f"{root}pos_embedder.dim_temporal_range": torch.zeros(3)}
    save_file(state, files.transformer)
    save_file({spec.original: t for spec, t in _part(base, "text_encoder")}, files.text_encoder)
    save_file({spec.original: t for spec, t in _part(base, "vae")}, files.vae)
    return files


def _part(base: Path, part: str) -> list[tuple[TensorSpec, Tensor]]:
    config = json.loads((base / part / "config.json").read_text())
    specs = component_tensors(part, config, where=part)
    (file,) = (base / part).glob("*.safetensors")
    state = load_file(file)
    assert state.keys() == specs.keys()
    return [(spec, state[name]) for name, spec in specs.items()]
