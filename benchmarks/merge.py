"""python -m benchmarks.merge: time and memory to put a rank-256 adapter into the real model's shapes and take it out.

Both ways start from one random transformer in bf16 and one adapter file, each in a process of its own: this project's
read and merge, and diffusers with peft (load, fuse, unfuse). Each result is held against W0 + B A computed apart, and
every tensor of the model against what it was before.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AnimaModularPipeline, CosmosTransformer3DModel
from torch import Tensor

from anima.adapter_files import AdapterMetadata, adapter_pairs, read_adapter, write_adapter
from anima.lora import Merger, target_names

SIDES = ("epochsweep", "peft")
STEPS = ("read", "merge", "merge at another weight", "take out")
_SPREAD = 0.02


@dataclass(frozen=True)
class Size:
    """Sizes of transformer and adapter; the defaults are the released model's."""

    blocks: int = 28
    heads: int = 16
    text: int = 1024
    modulation: int = 256
    rank: int = 256

    def shapes(self) -> CosmosTransformer3DModel:
        """The transformer without numbers, bf16."""
        with torch.device("meta"):
            model = CosmosTransformer3DModel(
                num_attention_heads=self.heads,
                attention_head_dim=128,
                num_layers=self.blocks,
                text_embed_dim=self.text,
                adaln_lora_dim=self.modulation,
                concat_padding_mask=False,
                extra_pos_embed_type=None,
            )
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        return model.requires_grad_(False)

    def transformer(self) -> CosmosTransformer3DModel:
        """The transformer with random weights, each a function of its place alone."""
        model = self.shapes().to_empty(device="cpu")
        for place, parameter in enumerate(model.parameters()):
            parameter.copy_(_random(parameter, place))
        return model

    def write_adapter(self, path: Path) -> int:
        """Write a random bf16 adapter on every target, the change about a tenth of the weights; gives its bytes."""
        shapes = self.shapes()
        generator = torch.Generator().manual_seed(1)
        state = {}
        for name, module in target_names(shapes).items():
            out, inputs = shapes.get_submodule(module).weight.shape
            # Entries of B A then spread a tenth as wide as the weights.
            b_spread = 0.1 * _SPREAD * (inputs / self.rank) ** 0.5
            for side, shape, spread in (("A", (self.rank, inputs), inputs**-0.5), ("B", (out, self.rank), b_spread)):
                state[f"{name}.lora_{side}.weight"] = torch.empty(shape).normal_(0, spread, generator=generator)
        metadata = AdapterMetadata(self.rank, float(self.rank), "", "", "benchmark", 1, 1, 1.0, (), "benchmark")
        return write_adapter(path, state, metadata, dtype=torch.bfloat16).size_bytes


@dataclass
class Result:
    """What one side took, and how right it was."""

    side: str
    model_mb: float
    """Resident memory with the model loaded, before anything is read."""
    load: float
    """Processes that wanted a core when it began, of the whole machine."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of a core, by step: on shared cores, what the clock on the wall says belongs to the neighbours too."""
    wall_s: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)
    """Most resident memory during each step, over the model."""
    layers: int = 0
    merged: int = 0
    """Weights of all adapted layers."""
    misrounded: int = 0
    """Merged weights that are not the formula's number rounded to bf16."""
    largest_error: float = 0.0
    """Largest distance from the formula, in bf16 units in the last place of the larger of W0 and W."""
    others_changed: int = 0
    """Tensors that are no target and are not what they were."""
    not_restored: int = 0
    """Tensors that are not what they were once all is taken out."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Take a step's time and memory peak."""
        gc.collect()
        # glibc keeps freed pages; handed back, they do not count for the next step. 5 resets the peak (man 5 proc).
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        began, wall_began = time.process_time(), time.perf_counter()
        yield
        self.seconds[name] = round(time.process_time() - began, 2)
        self.wall_s[name] = round(time.perf_counter() - wall_began, 2)
        self.peak_mb[name] = round(_memory_mb("VmHWM") - self.model_mb)

    def check(self, model: torch.nn.Module, adapter: Path, before: dict[str, str]) -> None:
        """Every target against the formula, layer by layer, and every other tensor against its fingerprint."""
        pairs = adapter_pairs(read_adapter(adapter).state)
        plain = _plain_parameters(model)
        places = {name: place for place, name in enumerate(plain)}
        targets = {f"{module}.weight": original for original, module in target_names(model).items()}
        for name, original in targets.items():
            a, b = pairs[original]
            pristine = _random(plain[name], places[name]).float()
            exact = torch.addmm(pristine, b.float(), a.float())
            self.layers += 1
            self.merged += exact.numel()
            self.misrounded += int((plain[name] != exact.bfloat16()).sum())
            # Where weight and change cancel, the sum's own unit would say nothing.
            # bf16 has 8 significant bits: the unit of a number in [2^e, 2^(e+1)) is 2^(e-7).
            unit = torch.exp2(torch.maximum(exact.abs(), pristine.abs()).clamp_min(2.0**-120).log2().floor() - 7)
            error = ((plain[name].float() - exact).abs() / unit).max()
            self.largest_error = max(self.largest_error, round(float(error), 3))
        now = fingerprints(model)
        self.others_changed = sum(now[name] != mark for name, mark in before.items() if name not in targets)


def run_side(side: str, size: Size, adapter: Path) -> Result:
    """Merge, check, merge again, take out, check, with one of SIDES."""
    model = size.transformer()
    before = fingerprints(model)
    gc.collect()
    result = Result(side, model_mb=round(_memory_mb("VmRSS")), load=round(os.getloadavg()[0], 1))
    {"epochsweep": _epochsweep, "peft": _peft}[side](model, adapter, result, before)
    now = fingerprints(model)
    result.not_restored = sum(now[name] != mark for name, mark in before.items())
    return result


def _epochsweep(model: CosmosTransformer3DModel, adapter: Path, result: Result, before: dict[str, str]) -> None:
    with result.step("read"):
        state = read_adapter(adapter).state
    with result.step("merge"):
        merger = Merger(model)
        merger.merge(state)
    result.check(model, adapter, before)
    with result.step("merge at another weight"):
        merger.merge(state, 0.8)
    with result.step("take out"):
        merger.restore()


def _peft(model: CosmosTransformer3DModel, adapter: Path, result: Result, before: dict[str, str]) -> None:
    pipeline: Any = AnimaModularPipeline()
    pipeline.update_components(transformer=model)
    with result.step("read"):
        pipeline.load_lora_weights(str(adapter), local_files_only=True)
    with result.step("merge"):
        pipeline.fuse_lora(components=["transformer"])
    result.check(model, adapter, before)
    with result.step("merge at another weight"):
        pipeline.unfuse_lora(components=["transformer"])
        pipeline.fuse_lora(components=["transformer"], lora_scale=0.8)
    with result.step("take out"):
        pipeline.unfuse_lora(components=["transformer"])
        pipeline.unload_lora_weights()


def fingerprints(model: torch.nn.Module) -> dict[str, str]:
    """sha256 of every weight of the base, whatever is wrapped around it."""
    return {
        name: hashlib.sha256(parameter.detach().view(torch.uint8).numpy().data).hexdigest()
        for name, parameter in _plain_parameters(model).items()
    }


def _plain_parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    named = ((name.replace(".base_layer", ""), p) for name, p in model.named_parameters() if "lora_" not in name)
    return dict(named)


def _random(like: Tensor, place: int) -> Tensor:
    return torch.empty_like(like).normal_(0, _SPREAD, generator=torch.Generator().manual_seed(place))


def _memory_mb(which: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{which}:"))


def compare(size: Size) -> list[Result]:
    """Both sides, one after the other, each in its own process."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter.safetensors"
        print(f"adapter  {size.write_adapter(adapter) / 1e6:.0f} MB", file=sys.stderr)
        for side in SIDES:
            command = [sys.executable, "-m", "benchmarks.merge", "--side", side, "--adapter", str(adapter)]
            command += ["--size", json.dumps(asdict(size))]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append(Result(**json.loads(child.stdout.splitlines()[-1])))
            print(f"{side}  {child.stdout.splitlines()[-1]}", file=sys.stderr)
    return results


def table(results: Sequence[Result]) -> str:
    """The results side by side, as Markdown."""
    rows = [("core time (wall clock), peak memory over the model", *(result.side for result in results))]
    for step in STEPS:
        took = (f"{r.seconds[step]:.1f} s ({r.wall_s[step]:.1f} s), {r.peak_mb[step]:,.0f} MB" for r in results)
        rows.append((step, *took))
    told = {
        "layers": "layers merged",
        "misrounded": "merged weights that are not the formula's number rounded to bf16",
        "largest_error": "largest distance from the formula, in bf16 units in the last place of max(W0, W)",
        "others_changed": "other tensors changed by merging",
        "not_restored": "tensors that are not bit-identical once all is taken out",
        "model_mb": "memory of process and model before, MB",
        "load": "load average of the machine when it began",
    }
    rows += [(text, *(f"{getattr(result, name):,}" for result in results)) for name, text in told.items()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def machine() -> str:
    """Where it ran, in words."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = cpus[0].partition(":")[2].strip() if cpus else platform.machine()
    threads = torch.get_num_threads()
    return f"{os.cpu_count()}-core {name} VM, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or be one side."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merge", description=__doc__)
    parser.add_argument("--size", type=json.loads, default={}, help='JSON, like {"blocks": 2, "rank": 16}')
    parser.add_argument("--side", choices=SIDES, help="run one side in this process and print it as JSON")
    parser.add_argument("--adapter", type=Path, help="the file --side reads")
    options = parser.parse_args(arguments)
    size = Size(**options.size)
    if options.side:
        print(json.dumps(asdict(run_side(options.side, size, options.adapter))))
        return 0
    print(f"{machine()}\n\n{table(compare(size))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
