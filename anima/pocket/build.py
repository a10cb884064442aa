"""Make pocket Anima from nothing: tokenizers, VAE, text side, transformer; finished stages are kept.

    python -m anima.pocket.build --work build/pocket --out anima/pocket/base

Seeded throughout; two CPU cores need two to three hours. The result is written in fp16, the layout of the real model.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from anima.base import PARTS
from anima.load import load_vae
from anima.pocket.corpus import Corpus
from anima.pocket.pictures import Album
from anima.pocket.tokenizers import train_tokenizers
from anima.pocket.train_base import Miniature, Schedule, condition_corpus, train_base
from anima.pocket.train_text import train_text
from anima.pocket.train_vae import train_vae
from anima.vae import LatentCodec

SEED = 7
log = logging.getLogger(__name__)


def main() -> None:
    """Parse, then build every stage that is not there yet."""
    parser = argparse.ArgumentParser(prog="python -m anima.pocket.build", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path("build/pocket"), help="where stages and their states are kept"
    )
    parser.add_argument("--out", type=Path, default=Path("anima/pocket/base"), help="where the finished base goes")
    parser.add_argument("--pictures", type=int, default=24_000, help="pictures drawn for training")
    parser.add_argument("--vae-steps", type=int, default=1850)
    parser.add_argument("--text-steps", type=int, default=1500, help="training steps of the text side")
    parser.add_argument("--wordings", type=int, default=2, help="captions per picture")
    parser.add_argument("--steps", type=int, default=7000, help="training steps of the transformer")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # Numbers near zero that no longer matter would otherwise be computed many times slower.
    torch.set_flush_denormal(True)
    work: Path = args.work
    if not (work / "t5_tokenizer").exists():
        train_tokenizers(work)
    album = Album(SEED, args.pictures)
    if not (work / "vae").exists():
        train_vae(album, work / "vae", steps=args.vae_steps)
    torch.manual_seed(SEED)
    corpus, model = Corpus(SEED), Miniature(work)
    if not (work / "text.pt").exists():
        train_text(model, corpus, work / "text.pt", steps=args.text_steps)
    model.load_state_dict(model.state_dict() | torch.load(work / "text.pt", weights_only=True))
    latents = encode_album(album, load_vae(work / "vae"))
    conditions = condition_corpus(model.eval(), corpus, len(album), args.wordings)
    train_base(model, latents, conditions, work, Schedule(args.steps))
    export(work, args.out)


def encode_album(album: Album, vae: AutoencoderKLQwenImage) -> Tensor:
    """Normalised latents of every picture, fp32 (N, C, 1, h, w)."""
    codec = LatentCodec(vae)
    return torch.cat([codec.encode(album.pixels(rows)) for rows in torch.arange(len(album)).split(64)]).clone()


def export(work: Path, out: Path) -> None:
    """Write the finished base: fp16 weights, tokenizers, scheduler and the pipeline's index."""
    out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        shutil.rmtree(out / part, ignore_errors=True)
        shutil.copytree(work / part, out / part)
        for file in (out / part).glob("*.safetensors"):
            save_file({k: v.half().contiguous() for k, v in load_file(file).items()}, file, {"format": "pt"})
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(out / "scheduler")
    (out / "modular_model_index.json").write_text(json.dumps(_pipeline_index(), indent=2) + "\n")
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    log.info("base written | %s %.1f MB", out, size / 1e6)


def _pipeline_index() -> dict[str, object]:
    classes = {
        "transformer": ("diffusers", "CosmosTransformer3DModel"),
        "text_conditioner": ("diffusers", "AnimaTextConditioner"),
        "vae": ("diffusers", "AutoencoderKLQwenImage"),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "text_encoder": ("transformers", "Qwen3Model"),
        "tokenizer": ("transformers", "Qwen2Tokenizer"),
        "t5_tokenizer": ("transformers", "T5TokenizerFast"),
    }
    index: dict[str, object] = {"_class_name": "AnimaModularPipeline", "_blocks_class_name": "AnimaAutoBlocks"}
    for name, (library, kind) in classes.items():
        place = {"pretrained_model_name_or_path": None, "subfolder": name, "type_hint": [library, kind]}
        index[name] = [library, kind, place]
    return index


if __name__ == "__main__":
    main()
