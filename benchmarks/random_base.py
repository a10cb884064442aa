"""A base of the real sizes with random weights, in both forms that bases are published in; about 11 GB.

python -m benchmarks.random_base FOLDER writes the diffusers layout alone, about 6 GB, as diffusers' pipeline and this
project's engine both draw with it: without the padding mask, whose resize would take torchvision.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from zlib import crc32

import torch
from safetensors.torch import save_file
from torch import Tensor

from anima.base import POCKET
from anima.sources.assemble import CONFIGS
from anima.sources.config import BaseSources
from anima.tensors import TensorSpec, component_tensors

PARTS = ("transformer", "text_conditioner", "text_encoder", "vae")
PUBLISHED = {part: CONFIGS / f"{part}.json" for part in PARTS} | {"transformer": CONFIGS / "transformer-2b.json"}
WEIGHTS = {"text_encoder": "model.safetensors"}
FOLDER_WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_random_base(root: Path, configs: Mapping[str, Path] = PUBLISHED) -> None:
    """`root/single` as ComfyUI's three files, `root/folder` in diffusers layout: the same bf16 tensors.

    `configs` names the config.json of each component; the published sizes are the default.
    """
    single, folder = root / "single", root / "folder"
    single.mkdir(parents=True)
    shared: dict[str, Tensor] = {}
    for part in PARTS:
        config = configs[part]
        specs = component_tensors(part, json.loads(config.read_text()), where=str(config)).values()
        tensors = _random_tensors(part, specs)
        (folder / part).mkdir(parents=True)
        shutil.copy(config, folder / part / "config.json")
        save_file(tensors, folder / part / WEIGHTS.get(part, FOLDER_WEIGHTS), {"format": "pt"})
        named = {spec.original: tensors[spec.name] for spec in specs}
        if part == "transformer":
            shared = {f"net.{key}": tensor for key, tensor in named.items()}
        elif part == "text_conditioner":
            shared |= {f"net.llm_adapter.{key}": tensor for key, tensor in named.items()}
            save_file(shared, single / "transformer.safetensors")
            shared = {}
        else:
            save_file(named, single / f"{part}.safetensors")
    for part in ("tokenizer", "t5_tokenizer"):
        shutil.copytree(POCKET / part, folder / part)


def write_drawing_base(folder: Path, configs: Mapping[str, Path] = PUBLISHED) -> None:
    """A folder to draw with, complete for `ModularPipeline.from_pretrained`."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        config = json.loads(configs["transformer"].read_text()) | {"concat_padding_mask": False}
        maskless = Path(aside) / "transformer.json"
        maskless.write_text(json.dumps(config))
        write_random_base(Path(aside), {**configs, "transformer": maskless})
        (Path(aside) / "folder").rename(folder)
    shutil.copytree(POCKET / "scheduler", folder / "scheduler")
    shutil.copy(POCKET / "modular_model_index.json", folder)


def single_sources(root: Path) -> BaseSources:
    """The single files as a study names them; both tokenizers are pocket's, whose fewer tokens fit."""
    named = {part: str(root / "single" / f"{part}.safetensors") for part in ("transformer", "text_encoder", "vae")}
    return BaseSources.model_validate({**named, "tokenizers": "pocket", "configs": str(root / "folder")})


def _random_tensors(part: str, specs: Iterable[TensorSpec]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for spec in specs:
        generator = torch.Generator().manual_seed(crc32(f"{part} {spec.name}".encode()))
        tensors[spec.name] = torch.empty(spec.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
    return tensors


def main() -> None:
    """Write a base to draw with."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_base")
    parser.add_argument("folder", type=Path, help="must not exist yet; its parent needs 17 GB of room meanwhile")
    write_drawing_base(parser.parse_args().folder.absolute())


if __name__ == "__main__":
    main()
