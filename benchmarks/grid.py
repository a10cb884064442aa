"""python -m benchmarks.grid: pictures per second of this project's engine against loops a diffusers user would write.

Every side draws the same cells (adapters x seeds of one prompt, Euler, cfg 1) from the same noise on the same number of
threads, in a process of its own, and writes PNG files:

    engine     evaluators.engine.Engine: merge in place, one batch shape, text encoded once, sidecars beside pictures
    plain      diffusers' AnimaModularPipeline: load the adapter, then one call per picture
    batched    the same with all seeds of a batch in one call

The pictures are compared, so that nobody is fast by drawing something else. The engine's profile names what its time
goes to.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from anima.adapter_files import AdapterMetadata, write_adapter
from anima.base import POCKET
from anima.flow import initial_noise
from anima.load import load_base
from anima.lora import target_names
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

    @property
    def drawing(self) -> Drawing:
        return Drawing(sampler="euler", steps=self.steps, width=96, height=64, schedule="linspace")

    def path(self, epoch: int) -> str:
        """An adapter, relative to the folder."""
        return f"trials/benchmark/epoch-{epoch:04d}/adapter.safetensors"


@dataclass
class Result:
    """What one side took, after a first picture that is not counted."""

    side: str
    pictures: int
    seconds: float
    profile: dict[str, float] = field(default_factory=dict)
    """Seconds by part; the parts of the engine only."""


def write_adapters(work: Work) -> None:
    """Random adapters, strong enough to change every picture."""
    transformer = load_base(POCKET).transformer
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
    drawer = Engine("pocket", work.folder, threads=work.threads, batch=work.batch)
    prompt = Prompt("trio", TEXT, ("kanachan", "keichan", "koharu"))

    def cells(epoch: int, seeds: Sequence[int]) -> list[Cell]:
        path = Path(work.folder) / work.path(epoch)
        sha = sha256(path.read_bytes()).hexdigest()
        return [
            Cell("benchmark", epoch, work.path(epoch), sha, 1.0, prompt, seed, work.drawing, "pocket") for seed in seeds
        ]

    drawer.draw(cells(1, [0]))
    profile = _profile(drawer)
    began = time.perf_counter()
    for epoch in range(1, work.adapters + 1):
        wanted = cells(epoch, range(1, work.seeds + 1))
        for cell, sample in zip(wanted, drawer.draw(wanted), strict=True):
            _link(work, "engine", epoch, cell.seed, Path(work.folder) / sample.image)
    seconds = time.perf_counter() - began
    return Result("engine", work.adapters * work.seeds, seconds, {**profile, "other": seconds - sum(profile.values())})


def pipeline(work: Work, *, batch: int) -> Result:
    """diffusers' own pipeline with its own LoRA loader, `batch` seeds a call."""
    from diffusers import ModularPipeline
    from diffusers.guiders import ClassifierFreeGuidance

    torch.set_num_threads(work.threads)
    torch.set_flush_denormal(True)
    side = "plain" if batch == 1 else "batched"
    pipe: Any = ModularPipeline.from_pretrained(str(POCKET))
    pipe.load_components(dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=1.0))
    shape = load_base(POCKET).codec.latent_shape(96, 64)

    def call(seeds: Sequence[int]) -> list[Image.Image]:
        latents = torch.stack([initial_noise(seed, shape) for seed in seeds])
        pictures = pipe(
            prompt=[TEXT] * len(seeds),
            width=96,
            height=64,
            num_inference_steps=work.steps,
            latents=latents,
            output="images",
            output_type="pil",
        )
        return list(pictures)

    call([0])
    began = time.perf_counter()
    for epoch in range(1, work.adapters + 1):
        pipe.load_lora_weights(str(Path(work.folder) / work.path(epoch)), adapter_name="swept")
        pipe.set_adapters(["swept"], [1.0])
        for start in range(1, work.seeds + 1, batch):
            seeds = range(start, min(start + batch, work.seeds + 1))
            for seed, picture in zip(seeds, call(seeds), strict=True):
                picture.save(_picture(work, side, epoch, seed))
        pipe.unload_lora_weights()
    return Result(side, work.adapters * work.seeds, time.perf_counter() - began)


def _profile(drawer: Engine) -> dict[str, float]:
    """Seconds the engine spends in each part, filled in while it works."""
    spent = {"merge adapters": 0.0, "transformer": 0.0, "decode": 0.0, "write files": 0.0}

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.perf_counter() - began

        return call

    parts: list[tuple[str, Any, str]] = [
        ("merge adapters", drawer, "_merge"),
        ("write files", drawer, "_write"),
        ("decode", drawer._base.codec, "decode"),
    ]
    for part, owner, name in parts:
        object.__setattr__(owner, name, timed(part, getattr(owner, name)))
    transformer: nn.Module = drawer._base.transformer
    transformer.forward = timed("transformer", transformer.forward)
    return spent


def _picture(work: Work, side: str, epoch: int, seed: int) -> Path:
    path = Path(work.folder) / side / f"{epoch}-{seed}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _link(work: Work, side: str, epoch: int, seed: int, drawn: Path) -> None:
    _picture(work, side, epoch, seed).symlink_to(drawn)


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


def table(results: Sequence[Result], work: Work, apart: tuple[int, float]) -> str:
    """The figures as Markdown."""
    by_side = {r.side: r for r in results}
    ours = by_side["engine"]
    lines = ["| side | ms per picture | engine is faster by |", "|---|---|---|"]
    for result in results:
        ratio = (result.seconds / result.pictures) / (ours.seconds / ours.pictures)
        factor = "–" if result is ours else f"{ratio:.1f} x"
        lines.append(f"| {result.side} | {1000 * result.seconds / result.pictures:.0f} | {factor} |")
    parts = ", ".join(f"{name} {100 * spent / ours.seconds:.0f} %" for name, spent in ours.profile.items())
    return "\n".join(
        [
            f"{work.adapters} adapters x {work.seeds} seeds, {work.steps} Euler steps, batch {work.batch},"
            f" {work.threads} threads, {platform.processor() or platform.machine()}, torch {torch.__version__}",
            "",
            *lines,
            "",
            f"Where the engine's time goes: {parts}.",
            f"Pictures: no level of any pixel differs by more than {apart[0]} of 255 from the plain loop's"
            f" (mean {apart[1]:.3f}).",
        ]
    )


def main() -> None:
    """Draw with every side in turn and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
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
    with tempfile.TemporaryDirectory() as folder:
        work = Work(folder, args.adapters, args.seeds, args.steps, args.batch, args.threads)
        write_adapters(work)
        results = [run_side(side, work) for side in SIDES]
        print(table(results, work, differences(work)))


if __name__ == "__main__":
    main()
