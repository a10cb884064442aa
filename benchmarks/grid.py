"""python -m benchmarks.grid: pictures per second of this project's engine against loops a diffusers user would write.

Every side draws the same cells (adapters x seeds of one prompt, Euler, cfg 1) from the same noise on the same number of
threads, in a process of its own, and writes PNG files:

    engine     evaluators.engine.Engine: merge in place, passes of one shape, texts encoded once, sidecars written
    plain      diffusers' AnimaModularPipeline: load the adapter, set its weight, then one call per picture
    batched    the same with all seeds of a batch in one call

The sides take turns, so that a machine's moods meet all of them; medians are compared. So are the pictures, that nobody
is fast by drawing something else. The engine's profile names what its time goes to.

On a GPU: `--base FOLDER --size 1024 --rank 256`, with the folder `python -m benchmarks.random_base FOLDER` writes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any

import numpy as np
import torch
from diffusers import CosmosTransformer3DModel
from PIL import Image
from torch import Tensor

from anima.adapter_files import AdapterMetadata, write_adapter
from anima.base import base_folder
from anima.flow import initial_noise
from anima.load import load_vae
from anima.lora import target_names
from anima.vae import LatentCodec
from evaluators.engine import Engine
from orchestrator.core.study import Cell, Drawing, Prompt

SIDES = ("engine", "plain", "batched")
TEXT = "3girls, left side: kanachan, center: keichan, right side: koharu, white background"


@dataclass(frozen=True)
class Work:
    """What every side draws."""

    folder: str
    adapters: int
    seeds: int
    steps: int
    batch: int
    threads: int
    rank: int = 16
    base: str = "pocket"
    width: int = 96
    height: int = 64
    compiled: bool = False

    @property
    def drawing(self) -> Drawing:
        return Drawing("euler", self.steps, width=self.width, height=self.height, schedule="linspace")

    def path(self, epoch: int) -> str:
        """An adapter, relative to the folder."""
        return f"trials/benchmark/epoch-{epoch:04d}/adapter.safetensors"


@dataclass
class Result:
    """What one side took, after a first picture that is not counted."""

    side: str
    pictures: int
    seconds: float
    core_seconds: float = 0.0
    """What all threads together had of the cores."""
    peak_mb: float = 0.0
    """Most memory that was resident, libraries included; on a GPU, most that was allocated there."""
    profile: dict[str, float] = field(default_factory=dict)
    """Of the engine: seconds of its threads by part. On a CPU those a core was really busy; they overlap."""
    switch_ms: float = 0.0
    """Of the engine: median time to put another adapter, read ahead, into the weights."""


def write_adapters(work: Work) -> None:
    """Random adapters, strong enough to change every picture."""
    with torch.device("meta"):
        config = json.loads((base_folder(work.base) / "transformer" / "config.json").read_text())
        transformer = CosmosTransformer3DModel.from_config(config)
    for epoch in range(1, work.adapters + 1):
        generator = torch.Generator().manual_seed(epoch)
        state: dict[str, Tensor] = {}
        for name, module in target_names(transformer).items():
            out, inputs = transformer.get_submodule(module).weight.shape
            state[f"{name}.lora_A.weight"] = torch.randn(work.rank, inputs, generator=generator) * inputs**-0.5
            state[f"{name}.lora_B.weight"] = torch.randn(out, work.rank, generator=generator) * 0.01
        metadata = AdapterMetadata(work.rank, work.rank, "", "", "benchmark", epoch, epoch, 1.0, (), "benchmark")
        write_adapter(Path(work.folder) / work.path(epoch), state, metadata)


def engine(work: Work) -> Result:
    """Our engine, as a study's artist uses it."""
    drawer = Engine(work.base, work.folder, threads=work.threads)
    prompt = Prompt("trio", TEXT, ("kanachan", "keichan", "koharu"))
    drawing = replace(work.drawing, compile=work.compiled)

    def cells(epoch: int, seeds: Sequence[int]) -> list[Cell]:
        path = Path(work.folder) / work.path(epoch)
        sha = sha256(path.read_bytes()).hexdigest()
        return [Cell("benchmark", epoch, work.path(epoch), sha, 1.0, prompt, seed, drawing, "base") for seed in seeds]

    wanted = [cell for epoch in range(1, work.adapters + 1) for cell in cells(epoch, range(1, work.seeds + 1))]
    drawer.draw(cells(1, [0]))
    profile, switches = _profile(drawer)
    began, busy = time.perf_counter(), time.process_time()
    samples = drawer.draw(wanted)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    for cell, sample in zip(wanted, samples, strict=True):
        _picture(work, "engine", cell.epoch, cell.seed).symlink_to(Path(work.folder) / sample.image)
    return Result("engine", len(wanted), seconds, busy, _peak_mb(), profile, 1000 * median(switches))


def pipeline(work: Work, *, batch: int) -> Result:
    """diffusers' own pipeline with its own LoRA loader, `batch` seeds a call."""
    from diffusers import ModularPipeline
    from diffusers.guiders import ClassifierFreeGuidance

    torch.set_num_threads(work.threads)
    torch.set_flush_denormal(True)
    cuda = torch.cuda.is_available()
    side = "plain" if batch == 1 else "batched"
    folder = base_folder(work.base)
    pipe: Any = ModularPipeline.from_pretrained(str(folder))
    pipe.load_components(dtype=torch.bfloat16 if cuda else torch.float32)
    pipe.to("cuda" if cuda else "cpu")
    pipe.set_progress_bar_config(disable=True)
    pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=1.0))
    shape = LatentCodec(load_vae(folder / "vae")).latent_shape(work.width, work.height)

    def call(seeds: Sequence[int]) -> list[Image.Image]:
        latents = torch.stack([initial_noise(seed, shape) for seed in seeds])
        pictures = pipe(
            prompt=[TEXT] * len(seeds),
            width=work.width,
            height=work.height,
            num_inference_steps=work.steps,
            latents=latents,
            output="images",
            output_type="pil",
        )
        return list(pictures)

    call([0])
    began, busy = time.perf_counter(), time.process_time()
    for epoch in range(1, work.adapters + 1):
        pipe.load_lora_weights(str(Path(work.folder) / work.path(epoch)), adapter_name="swept")
        pipe.set_adapters(["swept"], [1.0])
        for start in range(1, work.seeds + 1, batch):
            seeds = range(start, min(start + batch, work.seeds + 1))
            for seed, picture in zip(seeds, call(seeds), strict=True):
                picture.save(_picture(work, side, epoch, seed))
        pipe.unload_lora_weights()
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    return Result(side, work.adapters * work.seeds, seconds, busy, _peak_mb())


def _profile(drawer: Engine) -> tuple[dict[str, float], list[float]]:
    """Seconds the engine spends in each part, and of each change of adapters; filled in while it works."""
    spent = dict.fromkeys(("denoise", "decode", "encode and write files", "merge adapters", "read adapters"), 0.0)
    switches: list[float] = []
    lock = Lock()

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            wall, busy = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                with lock:
                    spent[part] += time.thread_time() - busy
                    if part == "merge adapters":
                        switches.append(time.perf_counter() - wall)

        return call

    parts = [
        ("denoise", drawer, "_denoise"),
        ("decode", drawer, "_decode"),
        ("encode and write files", drawer, "_write"),
        ("merge adapters", drawer._merger, "merge_all"),
        ("read adapters", drawer, "_reading"),
    ]
    for part, owner, name in parts:
        setattr(owner, name, timed(part, getattr(owner, name)))
    return spent, switches


def _peak_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _picture(work: Work, side: str, epoch: int, seed: int) -> Path:
    path = Path(work.folder) / side / f"{epoch}-{seed}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def differences(work: Work) -> tuple[int, float]:
    """Largest difference of any level (0 to 255) between a picture of the engine and the plain loop's; and its mean."""
    largest, means = 0, []
    for path in sorted((Path(work.folder) / "plain").glob("*.png")):
        ours, theirs = (
            np.asarray(Image.open(p).convert("RGB"), np.int16) for p in (Path(work.folder) / "engine" / path.name, path)
        )
        apart = np.abs(ours - theirs)
        largest = max(largest, int(apart.max()))
        means.append(float(apart.mean()))
    return largest, sum(means) / len(means)


def run_side(side: str, work: Work) -> Result:
    """One side in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.grid", "--side", side, "--work", json.dumps(asdict(work))]
    environment = os.environ | {"OMP_NUM_THREADS": str(work.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def middle(results: Sequence[Result]) -> Result:
    """The result of median time."""
    return sorted(results, key=lambda r: r.seconds)[len(results) // 2]


def table(rounds: Sequence[Sequence[Result]], work: Work, apart: tuple[int, float]) -> str:
    """The figures as Markdown; a round holds one result of each side, the engine's first."""
    sides = [middle(results) for results in zip(*rounds, strict=True)]
    ours = sides[0]
    lines = [
        "| side | ms per picture | engine is faster by | core ms | less by | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for place, result in enumerate(sides):
        factors = [[r[place].seconds / r[0].seconds for r in rounds]]
        factors.append([r[place].core_seconds / r[0].core_seconds for r in rounds])
        wall, core = ("–" if result is ours else _spread(ratios) for ratios in factors)
        times = [1000 * s / result.pictures for s in (result.seconds, result.core_seconds)]
        lines.append(
            f"| {result.side} | {times[0]:.0f} | {wall} | {times[1]:.0f} | {core} | {result.peak_mb:,.0f} MB |"
        )
    busy = sum(ours.profile.values())
    parts = ", ".join(f"{name} {100 * spent / busy:.1f} %" for name, spent in ours.profile.items())
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{work.threads} threads"
    return "\n".join(
        [
            f"{work.adapters} adapters of rank {work.rank} x {work.seeds} seeds, {work.width}x{work.height},"
            f" {work.steps} Euler steps, base {Path(work.base).name}, {where}, {platform.machine()},"
            f" torch {torch.__version__}; {len(rounds)} rounds",
            "",
            *lines,
            "",
            f"Where the time of the engine's threads goes: {parts}.",
            f"Changing adapters takes {ours.switch_ms:.1f} ms (median of {work.adapters}).",
            f"Pictures: no level of any pixel differs by more than {apart[0]} of 255 from the plain loop's"
            f" (mean {apart[1]:.3f}).",
        ]
    )


def _spread(ratios: Sequence[float]) -> str:
    """The median, with least and most where there are several."""
    ends = f" ({min(ratios):.1f}–{max(ratios):.1f})" if len(ratios) > 1 else ""
    return f"{median(ratios):.1f} ×{ends}"


def main() -> None:
    """Draw with every side in turn and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8, help="of the batched loop; the engine has its own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base", default="pocket", help="`pocket`, or a folder in diffusers layout")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--size", type=int, help="draw squares of so many pixels (default: 96x64)")
    parser.add_argument("--compile", action="store_true", help="let the engine compile the transformer's pass")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        work = Work(**json.loads(args.work))
        result = (
            engine(work) if args.side == "engine" else pipeline(work, batch=1 if args.side == "plain" else work.batch)
        )
        print(json.dumps(asdict(result)))
        return
    rounds: list[list[Result]] = []
    apart = (0, 0.0)
    width, height = (args.size, args.size) if args.size else (96, 64)
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            work = Work(
                folder,
                args.adapters,
                args.seeds,
                args.steps,
                args.batch,
                args.threads,
                args.rank,
                args.base,
                width,
                height,
                args.compile,
            )
            write_adapters(work)
            rounds.append([])
            for side in SIDES:
                rounds[-1].append(run_side(side, work))
                print(f"{side}: {rounds[-1][-1].seconds:.2f} s", file=sys.stderr)
            apart = max(apart, differences(work))
    print(table(rounds, work, apart))


if __name__ == "__main__":
    main()
