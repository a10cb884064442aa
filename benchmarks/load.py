"""python -m benchmarks.load: how fast a base of the real sizes loads, and how much memory that takes.

Writes random bf16 weights in the real shapes (about 10 GB, removed at the end), loads them in every way, each time in a
process of its own, checks that single files and folder give identical tensors, and writes benchmarks/load.md.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import CosmosTransformer3DModel
from torch import nn

from anima.load import Base, load_base, load_transformer
from anima.sources.obtain import obtain_base
from anima.sources.store import WeightStore
from benchmarks.random_base import FOLDER_WEIGHTS, single_sources, write_random_base

PAGE = Path(__file__).with_name("load.md")
CACHES = ("cold", "warm")
"""Whether the files' pages are in memory when loading begins."""
BLOCK_BYTES = 16 << 20
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Case:
    """One way to get the transformer (or all of the base) into memory, bf16."""

    told: str
    load: Callable[[Path, str], Sequence[nn.Module]]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What one load took."""

    load_s: float
    """Until the call returned."""
    ready_s: float
    """Until every page of every weight was read once: lazily mapped weights are not free, only later."""
    core_s: float
    """Of a core, until ready."""
    peak_mb: float
    """Most resident memory of the process, libraries and mapped file pages included."""
    libraries_mb: float
    """Resident before loading."""


def _read(root: Path, _device: str) -> Sequence[nn.Module]:
    """The file past the page cache, straight from the disk, one block after the other."""
    descriptor = os.open(root / SINGLE, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, BLOCK_BYTES) as aligned:
            while os.readv(descriptor, [aligned]) == BLOCK_BYTES:
                pass
    finally:
        os.close(descriptor)
    return ()


def _ours(base: Path, device: str) -> Sequence[nn.Module]:
    return (load_transformer(base / "transformer", device=device, dtype=torch.bfloat16),)


def _from_pretrained(root: Path, device: str) -> Sequence[nn.Module]:
    model = CosmosTransformer3DModel.from_pretrained(root / "folder/transformer", torch_dtype=torch.bfloat16)
    return (model.to(device),)


def _from_single_file(root: Path, device: str) -> Sequence[nn.Module]:
    model = CosmosTransformer3DModel.from_single_file(
        str(root / SINGLE), config=str(root / "folder/transformer"), torch_dtype=torch.bfloat16
    )
    return (model.to(device),)


def _whole(folder: Path, device: str) -> Sequence[nn.Module]:
    return modules(load_base(folder, device=device, dtype=torch.bfloat16)).values()  # type: ignore[return-value]


SINGLE = "single/transformer.safetensors"
FOLDER = f"folder/transformer/{FOLDER_WEIGHTS}"
CASES: Mapping[str, Case] = {
    "read": Case("reading the file from the disk, nothing else", _read, (SINGLE,)),
    "single": Case("epochsweep, single file", lambda root, device: _ours(assembled(root), device), (SINGLE,)),
    "folder": Case("epochsweep, folder", lambda root, device: _ours(root / "folder", device), (FOLDER,)),
    "from_pretrained": Case("diffusers `from_pretrained`, folder", _from_pretrained, (FOLDER,)),
    "from_single_file": Case("diffusers `from_single_file`, single file", _from_single_file, (SINGLE,)),
    "base": Case("epochsweep, whole base from single files", lambda root, device: _whole(assembled(root), device), ()),
}
RATIOS = (("from_single_file", "single"), ("from_pretrained", "folder"))


def assembled(root: Path) -> Path:
    """The single files as the folder a study would load."""
    return obtain_base(single_sources(root), store=WeightStore(root / "cache"))


def modules(base: Base) -> dict[str, nn.Module]:
    """The networks of a base."""
    return {
        "transformer": base.transformer,
        "vae": base.codec.vae,
        "text_encoder": base.text.encoder,
        "text_conditioner": base.text.conditioner,
    }


def measure(name: str, cache: str, root: Path, device: str) -> Result:
    """Load once in this process."""
    case = CASES[name]
    files = [root / file for file in case.files] or sorted((root / "single").iterdir())
    for file in files:
        _settle(file, cache)
    before = _memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (man 5 proc)
    began, core_began = time.perf_counter(), time.process_time()
    loaded = case.load(root, device)
    load_s = time.perf_counter() - began
    for module in loaded:
        _touch(module)
    if device != "cpu":
        torch.cuda.synchronize()
    return Result(
        round(load_s, 3),
        round(time.perf_counter() - began, 3),
        round(time.process_time() - core_began, 3),
        round(_memory_mb("VmHWM")),
        round(before),
    )


def _touch(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.device.type == "cpu":
            parameter.detach().view(-1).view(torch.uint8)[::PAGE_BYTES].sum()


def _settle(file: Path, cache: str) -> None:
    """Put the file's pages out of memory, or into it."""
    with file.open("rb", buffering=0) as stream:
        if cache == "cold":
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            buffer = bytearray(BLOCK_BYTES)
            while stream.readinto(buffer):
                pass


def _memory_mb(which: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{which}:"))


def compare_forms(root: Path) -> int:
    """Load both forms whole; gives the number of tensors, every one of them bit for bit the same in both."""
    single = modules(load_base(assembled(root), dtype=torch.bfloat16))
    folder = modules(load_base(root / "folder", dtype=torch.bfloat16))
    count = 0
    for part, module in single.items():
        theirs = folder[part].state_dict()
        if module.state_dict().keys() != theirs.keys():
            raise AssertionError(f"{part}: other tensors")
        for name, tensor in module.state_dict().items():
            if not torch.equal(tensor.view(torch.int16), theirs[name].view(torch.int16)):
                raise AssertionError(f"{part} {name} differs")
            count += 1
    return count


def run_all(root: Path, device: str, repeats: int) -> dict[tuple[str, str], list[Result]]:
    """Every case with both caches, in turn, each time in a process of its own."""
    cases = [(name, cache) for cache in CACHES for name in CASES if (name, cache) != ("read", "warm")]
    results: dict[tuple[str, str], list[Result]] = {case: [] for case in cases}
    for _ in range(repeats):
        for name, cache in results:
            command = [sys.executable, "-m", "benchmarks.load", "--root", str(root), "--device", device]
            child = subprocess.run(
                [*command, "--case", name, "--cache", cache], stdout=subprocess.PIPE, text=True, check=True
            )
            result = Result(**json.loads(child.stdout.splitlines()[-1]))
            print(f"{name} {cache}  {result}", file=sys.stderr)
            results[name, cache].append(result)
    return results


def page(results: Mapping[tuple[str, str], Sequence[Result]], root: Path, device: str, same: int) -> str:
    """The results as Markdown: medians, and the ratios they are about."""
    sizes = {name: sum((root / file).stat().st_size for file in case.files) / 1e9 for name, case in CASES.items()}
    sizes["base"] = sum(file.stat().st_size for file in (root / "single").iterdir()) / 1e9
    heads = ("transformer, bf16", "cache", "file", "returned", "ready", "of a core", "speed", "peak memory")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (name, cache), runs in results.items():
        load, ready, core = (_median(runs, kind) for kind in ("load_s", "ready_s", "core_s"))
        spread = f"{min(run.ready_s for run in runs):.2f}–{max(run.ready_s for run in runs):.2f}"
        peak, size = _median(runs, "peak_mb") / 1e3, sizes[name]
        cells = [
            CASES[name].told,
            cache,
            f"{size:.2f} GB",
            f"{load:.2f} s",
            f"{ready:.2f} s ({spread})",
            f"{core:.2f} s",
        ]
        cells += [f"{size / ready:.2f} GB/s", f"{peak:.2f} GB = {peak / size:.2f} × file" if name != "read" else ""]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| time until ready, as a ratio | cold | warm |", "|---|---|---|"]
    for other, one in RATIOS:
        ratios = (_median(results[other, c], "ready_s") / _median(results[one, c], "ready_s") for c in CACHES)
        lines.append(f"| {CASES[other].told} ÷ {CASES[one].told} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |")
    repeats = len(results["single", "warm"])
    return PAGE_TEXT.format(
        command=shlex.join(["python", "-m", "benchmarks.load", "--device", device, "--repeats", str(repeats)]),
        machine=machine(),
        table="\n".join(lines),
        runs=repeats,
        same=same,
        libraries=_median(results["single", "warm"], "libraries_mb") / 1e3,
        disk=sizes["read"] / _median(results["read", "cold"], "ready_s"),
        cold=sizes["single"] / _median(results["single", "cold"], "ready_s"),
        python=_median(results["single", "warm"], "load_s"),
        device=NO_GPU if device == "cpu" else "",
        touch=_median(results["single", "warm"], "ready_s") - _median(results["single", "warm"], "load_s"),
    )


NO_GPU = """
On the CPU only: loading onto a GPU copies every tensor from the same mapped pages, and was not measured.
"""
PAGE_TEXT = """\
# Loading the base

`{command}` on a {machine}.
Random bf16 weights in the real shapes. Medians of {runs} runs, least and most in brackets; every run in a process of
its own. *Returned* is when the call came back, *ready* when every page of every weight was read once: where device and
dtype are the file's, weights are the file's own pages, which are read when they are used. Memory is all that is
resident, {libraries:.2f} GB of libraries and the mapped pages of the file included.

{table}

Single files and folder gave {same} tensors, all of them bit for bit the same.

**What bounds it.** Cold, the disk: {disk:.2f} GB/s when it is read directly, one block of 16 MiB after the other, and
{cold:.2f} GB/s when loading, which lets the system read ahead. Warm, the call takes {python:.2f} s to check every
tensor and build the modules, whatever the size of the weights, and the first use {touch:.2f} s to enter their pages
into the process.
{device}"""


def _median(runs: Sequence[Result], name: str) -> float:
    return statistics.median(getattr(run, name) for run in runs)


def machine() -> str:
    """Where it ran, in words."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = cpus[0].partition(":")[2].strip() if cpus else platform.machine()
    threads = torch.get_num_threads()
    return f"{os.cpu_count()}-core {name} VM, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or be one load."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--root", type=Path, help="use the weights that are here, and leave them")
    parser.add_argument("--case", choices=CASES, help="load once in this process and print what it took as JSON")
    parser.add_argument("--cache", choices=CACHES, default="warm")
    parser.add_argument("--no-page", action="store_true", help=f"leave {PAGE.name} as it is")
    options = parser.parse_args(arguments)
    if options.case:
        print(json.dumps(asdict(measure(options.case, options.cache, options.root, options.device))))
        return 0
    with tempfile.TemporaryDirectory(prefix="random-base-") as folder:
        root = options.root or Path(folder) / "base"
        if not root.exists():
            write_random_base(root)
        same = compare_forms(root)
        text = page(run_all(root, options.device, options.repeats), root, options.device, same)
    print(text)
    if not options.no_page:
        PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
