"""python -m benchmarks.train: what a training step takes, beside the same step by other programs, in one run.

Without a GPU: pocket Anima in fp32, sides taking turns step by step. With one: the real sizes with random weights,
rank 256, 1024x1024, batch 1 x 4, bf16, one side after the other. `--count` counts the real step's operations and what
it keeps in memory without making it, on any machine.
"""

from __future__ import annotations

import argparse
import gc
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anima.base import POCKET
from anima.load import Base
from anima.lora import inject
from anima.text import TextEncoder
from anima.vae import LatentCodec
from benchmarks.merge import Size
from benchmarks.random_base import write_random_base
from benchmarks.training_sides import Step, Work, ours, plain, plain_uncached, sd_scripts, session
from trainer.adaptation import adapt
from trainer.cache import LatentCache, View
from trainer.config import DrawnDataset, TrainConfig
from trainer.drawn import ensure_drawn_dataset
from trainer.memory import Largest, kept_bytes
from trainer.text import FrozenText

PEAKS_TFLOPS: Mapping[str, float] = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "4090": 165.2,
    "5090": 209.5,
}
"""Dense bf16 peaks by the makers' data sheets, by a part of the device's name."""
TOKENS, TEXT_ROWS, LATENT = 4096, 512, 128
"""Of a 1024x1024 picture at the real sizes: tokens of the transformer, rows of its text, sides of its latent."""

POCKET_TRAIN = TrainConfig(
    rank=16, learning_rate=2e-3, batch=1, grad_accum=4, resolution=(96, 64), dtype="fp32", threads=1, epochs=10_000
)
REAL_TRAIN = TrainConfig(rank=256, batch=1, grad_accum=4, resolution=(1024, 1024), dtype="bf16", epochs=10_000)


@dataclass
class Measured:
    """What one side took."""

    side: str
    seconds: list[float] = field(default_factory=list)
    """Of each optimizer step, by the clock; of the core where there is no GPU, for neighbours share it."""
    peak_gb: float | None = None
    """Most memory of the GPU; None without one, where all sides share a process."""
    loss: float = float("nan")

    def per_second(self, pictures: int) -> float:
        """Pictures per second, by the median step."""
        return pictures / statistics.median(self.seconds)


def measure(sides: Mapping[str, Callable[[], Step]], rounds: int, warm_up: int, *, cuda: bool) -> list[Measured]:
    """Time steps of all sides: in turns on a CPU, one side after the other on a GPU, whose memory is then its own."""
    results = [Measured(name) for name in sides]
    groups = (
        [[pair] for pair in zip(results, sides.values(), strict=True)]
        if cuda
        else [list(zip(results, sides.values(), strict=True))]
    )
    for group in groups:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        steps = [(result, make()) for result, make in group]
        for number in range(warm_up + rounds):
            # Nobody always comes first.
            for result, step in steps if number % 2 else reversed(steps):
                seconds, loss = _timed(step, cuda)
                if number >= warm_up:
                    result.seconds.append(seconds)
                    result.loss = loss
        if cuda:
            group[0][0].peak_gb = torch.cuda.max_memory_allocated() / 1e9
            del steps
            gc.collect()
            torch.cuda.empty_cache()
    return results


def _timed(step: Step, cuda: bool) -> tuple[float, float]:
    if not cuda:
        began = time.process_time()
        loss = step()
        return time.process_time() - began, loss
    torch.cuda.synchronize()
    began = time.perf_counter()
    loss = step()
    torch.cuda.synchronize()
    return time.perf_counter() - began, loss


def count_flops(transformer: nn.Module, train: TrainConfig, latent: tuple[int, ...], rows: int, width: int) -> int:
    """Floating-point operations of one picture's forward and backward pass, matrix products and attention.

    `transformer` is on the meta device with an adapter of bf16 on it: numbers are never made.
    """
    if train.checkpointing == "on":
        transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    x = torch.empty(1, *latent, device="meta", dtype=torch.bfloat16)
    sigma = torch.empty(1, device="meta", dtype=torch.bfloat16)
    text = torch.empty(1, rows, width, device="meta", dtype=torch.bfloat16)
    counter = FlopCounterMode(display=False)
    with counter:
        transformer(x, sigma, text, return_dict=False)[0].float().square().mean().backward()
    return counter.get_total_flops()


def count_real(train: TrainConfig = REAL_TRAIN, size: Size = Size()) -> int:  # noqa: B008 - a frozen value
    """The same for the released sizes, or others of their kind."""
    transformer = size.shapes()
    for parameter in inject(transformer, train.rank, float(train.rank), 0).parameters:
        parameter.data = parameter.data.to(torch.bfloat16)
    return count_flops(transformer, train, (16, 1, LATENT, LATENT), TEXT_ROWS, size.text)


@dataclass(frozen=True)
class Memory:
    """Where a step's memory goes, in bytes: counted, and measured on one real block on this machine's CPU."""

    base: int
    adapter: int
    """fp32 parameters, gradients and both moments, and the bf16 copies that products are made of."""
    block: int
    """What a block keeps for its backward pass."""
    blocks: int
    boundary: int
    """A block's input, which is what checkpointing keeps."""

    def total(self, *, checkpointing: bool) -> int:
        """At the worst moment: with checkpointing one block is computed again while all inputs are kept."""
        kept = self.blocks * self.boundary + self.block if checkpointing else self.blocks * self.block
        return self.base + self.adapter + kept


def count_memory(train: TrainConfig = REAL_TRAIN, size: Size = Size(), side: int = LATENT) -> Memory:  # noqa: B008
    """Of one picture at a time; the VAE and the text side are not on the GPU while training."""
    shapes = size.shapes()
    base = sum(p.nbytes for p in shapes.parameters())
    adapter = sum(p.numel() for p in inject(shapes, train.rank, 1.0, 0).parameters)
    one = replace(size, blocks=1).transformer()
    codec = SimpleNamespace(latent_shape=lambda width, height: (16, 1, height // 8, width // 8))
    text = torch.zeros(1, TEXT_ROWS, size.text, dtype=torch.bfloat16)
    part = Base(
        one,
        cast(LatentCodec, codec),
        cast(TextEncoder, SimpleNamespace(conditioner=nn.Module())),
        torch.device("cpu"),
        torch.bfloat16,
        (),
    )
    trained = adapt(part, train)
    kept = kept_bytes(part, Largest(8 * side, 8 * side, text), 1)
    # Products take bf16 copies of the adapter, counted with the adapter and not with the block.
    kept -= sum(p.numel() * 2 for p in trained.parameters)
    width = size.heads * 128
    return Memory(base, adapter * (4 * 4 + 2), kept, size.blocks, (side // 2) ** 2 * width * 2)


def matmul_tflops(dtype: torch.dtype, device: str, side: int) -> float:
    """What this device reaches on one large square product: its own dense peak, as far as anybody gets."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = min(_timed(lambda: float((a @ b)[0, 0]), device == "cuda")[0] for _ in range(8))
    return 2 * side**3 / best / 1e12


def peak_tflops(name: str) -> float | None:
    """The data sheet's dense bf16 peak of a GPU; None for one that is not listed."""
    return next((peak for part, peak in PEAKS_TFLOPS.items() if part in name), None)


def table(results: Sequence[Measured], pictures: int, flops: int, peak: float | None) -> str:
    """Markdown; ratios are to the first side."""
    lines = [
        "| side | pictures/s | this project / it | share of the peak | peak memory | last loss |",
        "|---|---|---|---|---|---|",
    ]
    first = results[0].per_second(pictures)
    for result in results:
        rate = result.per_second(pictures)
        share = "–" if peak is None else f"{rate * flops / 1e12 / peak:.1%}"
        memory = "–" if result.peak_gb is None else f"{result.peak_gb:.1f} GB"
        lines.append(f"| {result.side} | {rate:.2f} | {first / rate:.2f} | {share} | {memory} | {result.loss:.3f} |")
    return "\n".join(lines)


def cache_seconds(work: Work, folder: Path) -> float:
    """Encoding all pictures and captions of a trial into empty caches, which happens once."""
    made = session(work)
    latents = LatentCache(folder, made.base, "benchmark", made.dataset.root)
    text = FrozenText(folder, made.base, "benchmark")
    views = [View(item, work.train.resolution, flip=False) for item in made.dataset.items]
    captions = ["", *(item.caption for item in made.dataset.items)]

    def encode() -> float:
        latents.prepare(views)
        text.prepare(captions)
        return 0.0

    return _timed(encode, work.device == "cuda")[0]


def pocket_work(folder: Path, pictures: int, train: TrainConfig) -> Work:
    """Drawn pictures for the shipped miniature."""
    ensure_drawn_dataset(folder / "pictures", DrawnDataset(solo=pictures, pair=0, trio=0))
    for file in (folder / "pictures").glob("k[eo]*"):
        file.unlink()
    return Work(POCKET, folder / "pictures", folder / "study", train, "kanachan")


def real_work(folder: Path, pictures: int, train: TrainConfig) -> Work:
    """The released sizes with random weights, and pictures of noise."""
    write_random_base(folder / "base")
    (folder / "pictures").mkdir()
    for number in range(pictures):
        pixels = np.random.default_rng(number).integers(0, 256, (*reversed(train.resolution), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png", compress_level=1)
        caption = f"trigger, 1girl, solo, picture {number}, standing in a garden, smile, looking at viewer, day"
        (folder / "pictures" / f"{number}.txt").write_text(caption)
    return Work(folder / "base" / "folder", folder / "pictures", folder / "study", train, "trigger")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="timed optimizer steps of each side")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--checkpointing", choices=("auto", "off", "on"), default="auto")
    parser.add_argument("--sd-scripts", type=Path, help="a checkout of kohya-ss/sd-scripts to measure beside")
    parser.add_argument("--real", action="store_true", help="the real sizes; needs a GPU and 12 GB of disk")
    parser.add_argument("--count", action="store_true", help="only count the real step's operations")
    options = parser.parse_args(arguments)
    if options.count:
        print(_counted())
        return 0
    cuda = torch.cuda.is_available()
    if options.real and not cuda:
        print("error: the real sizes are measured on a GPU, and torch finds none here", file=sys.stderr)
        return 3
    print(_machine())
    with tempfile.TemporaryDirectory(prefix="train-") as folder:
        changed = {"checkpointing": options.checkpointing}
        make = real_work if options.real else pocket_work
        train = (REAL_TRAIN if options.real else POCKET_TRAIN).model_copy(update=changed)
        if train.threads:
            torch.set_num_threads(train.threads)
        torch.set_flush_denormal(True)
        work = make(Path(folder), options.pictures, train)
        made = cache_seconds(work, Path(folder) / "caches")
        sides: dict[str, Callable[[], Step]] = {
            "epochsweep": partial(ours, work),
            "diffusers + peft, all encoded once": partial(plain, work),
            "diffusers + peft, encoding at every step": partial(plain_uncached, work),
        }
        if options.sd_scripts:
            sides["sd-scripts' model and network"] = partial(sd_scripts, options.sd_scripts, work)
        results = measure(sides, options.rounds, 2, cuda=cuda)
        flops = count_real(train) if options.real else count_pocket(train)
        peak = peak_tflops(torch.cuda.get_device_name()) if cuda and options.real else None
        own = matmul_tflops(work.dtype, work.device, 8192 if cuda else 1024)
    print(
        f"one picture: {flops / 1e12:.4g} TFLOP; this device's own product: {own:.3g} TFLOPS; data sheet: {peak or '–'}"
    )
    print(f"caches of {options.pictures} pictures: {made:.2f} s once, nothing in later epochs\n")
    print(table(results, train.images_per_step, flops, peak or own))
    return 0


def count_pocket(train: TrainConfig) -> int:
    """Operations of the miniature's step."""
    from diffusers import CosmosTransformer3DModel

    config = CosmosTransformer3DModel.load_config(POCKET / "transformer")
    with torch.device("meta"):
        transformer = CosmosTransformer3DModel.from_config(config).to(torch.bfloat16)
    for parameter in inject(transformer, train.rank, float(train.rank), 0).parameters:
        parameter.data = parameter.data.to(torch.bfloat16)
    width, height = train.resolution
    return count_flops(
        transformer, train, (config["in_channels"], 1, height // 4, width // 4), 80, config["text_embed_dim"]
    )


def _counted() -> str:
    lines, memory = [], count_memory()
    for checkpointing in ("off", "on"):
        flops = count_real(REAL_TRAIN.model_copy(update={"checkpointing": checkpointing}))
        total = memory.total(checkpointing=checkpointing == "on") / 1e9
        lines.append(f"checkpointing {checkpointing}: {flops / 1e12:.1f} TFLOP a picture, {total:.1f} GB")
    return "\n".join([*lines, str(memory)])


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, no GPU"
    return (
        f"torch {torch.__version__}, {device}, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB resident"
    )


if __name__ == "__main__":
    sys.exit(main())
