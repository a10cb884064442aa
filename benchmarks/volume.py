"""python -m benchmarks.volume: volumes against plain boto3, on the same servers in the same run.

Two loads: one file of an adapter's size, and many small sidecars. Each is put and fetched by

    volume     infra.volume.Volume: sha256 of its own, a commit marker, verified when fetched
    plain      boto3's `upload_file` and `download_file` as they come, with as many threads; nothing is verified
    copy       (folder) `shutil.copyfile` with fsync

over a folder, a strict S3 server (OpenStack Swift) and a gateway to a folder (rclone). Sides take turns. The servers
are those of the tests and run on the same cores: the figures compare sides, and do not tell what a network carries.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.config import S3Config
from infra.open import open_volume
from infra.volume import Volume
from tests.infra.servers import Credentials, Server, rclone, swift

BUCKET = "benchmark"
AT_ONCE = 8
SIDECAR = {
    "cell_key": "0123456789abcdef",
    "prompt": "3girls, left side: kanachan, white background" * 8,
    "seconds": 1.5,
}
SERVERS = {"strict (Swift)": (swift, "minio"), "gateway (rclone)": (rclone, "runpod")}
Side = tuple[Callable[[str, Path], object], Callable[[str, Path], object]]
"""How a side puts a file under a key, and fetches it to a path."""


@dataclass(frozen=True)
class Row:
    """Median seconds of one side with one load in one place."""

    place: str
    side: str
    load: str
    put_s: float
    get_s: float


def write_load(folder: Path, size_mb: int, sidecars: int) -> dict[str, list[Path]]:
    """The files to put: one of an adapter's size, and small ones that differ."""
    adapter = folder / "adapter.safetensors"
    adapter.write_bytes(secrets.token_bytes(size_mb * 10**6))
    small = []
    for n in range(sidecars):
        small.append(folder / f"{n:05d}.json")
        small[-1].write_text(json.dumps({**SIDECAR, "seed": n}, indent=1))
    return {f"one file of {size_mb} MB": [adapter], f"{sidecars} sidecars of {small[0].stat().st_size} B": small}


def volume_side(volume: Volume) -> Side:
    volume.find("warm")  # Reads the credentials and connects, as the other side did before.
    return (volume.put, volume.get)


def copy_side(root: Path) -> Side:
    """What a careful person does by hand."""

    def copy(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        with target.open("rb+") as stream:
            os.fsync(stream.fileno())

    return (lambda key, path: copy(path, root / key), lambda key, path: copy(root / key, path))


def plain_side(client: Any, prefix: str) -> Side:
    def fetch(key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(BUCKET, f"{prefix}/{key}", str(path))

    return (lambda key, path: client.upload_file(str(path), BUCKET, f"{prefix}/{key}"), fetch)


def seconds(work: Callable[[str, Path], object], keys: Sequence[str], paths: Sequence[Path]) -> float:
    """Time to do it with all files, several at a time."""
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, keys, paths))
    return time.perf_counter() - began


def measure(
    place: str, sides: dict[str, Callable[[str], Side]], loads: dict[str, list[Path]], repeats: int
) -> Iterator[Row]:
    """Put and fetch each load with each side in turns, every time under new keys; checks what came back."""
    for load, files in loads.items():
        taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for _ in range(repeats):
            for name, make in sides.items():
                put, get = make(f"r{secrets.token_hex(4)}")
                keys = [file.name for file in files]
                with tempfile.TemporaryDirectory() as folder:
                    targets = [Path(folder) / key for key in keys]
                    taken[name].append((seconds(put, keys, files), seconds(get, keys, targets)))
                    if any(a.read_bytes() != b.read_bytes() for a, b in zip(files, targets, strict=True)):
                        raise SystemExit(f"{name} over {place} gave back something else")
        for name, times in taken.items():
            put_s, get_s = (statistics.median(column) for column in zip(*times, strict=True))
            yield Row(place, name, load, put_s, get_s)


@contextmanager
def served(folder: Path, kind: str) -> Iterator[tuple[Server, Any]]:
    """A server with a bucket, and boto3 as it comes."""
    import boto3

    credentials = Credentials()
    os.environ.update(credentials.environment)
    with SERVERS[kind][0](folder, credentials) as server:
        client = boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield server, client


def rows(loads: dict[str, list[Path]], repeats: int, scratch: Path) -> Iterator[Row]:
    """All that is measured."""
    folder = scratch / "folder"
    yield from measure(
        "folder",
        {
            "volume": lambda prefix: volume_side(open_volume(folder / prefix)),
            "copy": lambda prefix: copy_side(folder / prefix),
        },
        loads,
        repeats,
    )
    shutil.rmtree(folder)
    for kind, (_, dialect) in SERVERS.items():
        with served(scratch / dialect, kind) as (server, client):
            config = S3Config(bucket=BUCKET, endpoint=server.endpoint, dialect=dialect)

            def volume(prefix: str, config: S3Config = config) -> Side:
                return volume_side(open_volume(config.model_copy(update={"prefix": prefix})))

            def plain(prefix: str, client: Any = client) -> Side:
                return plain_side(client, prefix)

            yield from measure(kind, {"volume": volume, "plain": plain}, loads, repeats)
        shutil.rmtree(scratch / dialect)


def report(found: Sequence[Row], loads: dict[str, list[Path]], repeats: int) -> str:
    """The table as Markdown. A ratio above 1 says that the volume is faster."""
    cores = len(os.sched_getaffinity(0))
    command = " ".join(["python -m benchmarks.volume", *sys.argv[1:]])
    lines = [
        "# Volumes",
        "",
        f"`{command}` on {cores} core{'s' if cores > 1 else ''} ({platform.processor() or platform.machine()}), "
        f"which the servers share. Medians of {repeats}; {AT_ONCE} files at a time.",
        "Other side ÷ volume: above 1, the volume is faster. The volume hashes what it sends and checks what it "
        "fetches; the other side does not.",
        "",
        "| place | load | side | put | get | other ÷ volume, put | get |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        size = sum(path.stat().st_size for path in loads[row.load])
        count = len(loads[row.load])
        rates = [
            f"{time_s:.2f} s ({f'{size / time_s / 1e6:.0f} MB/s' if count == 1 else f'{count / time_s:.0f}/s'})"
            for time_s in (row.put_s, row.get_s)
        ]
        own = next(r for r in found if (r.place, r.load, r.side) == (row.place, row.load, "volume"))
        ratios = ["", ""] if row is own else [f"{row.put_s / own.put_s:.2f}", f"{row.get_s / own.get_s:.2f}"]
        lines.append(f"| {row.place} | {row.load} | {row.side} | {' | '.join([*rates, *ratios])} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.volume", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size-mb", type=int, default=180, help="size of the large file in megabytes (180)")
    parser.add_argument("--sidecars", type=int, default=1000, help="number of small files (1000)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side (3)")
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="volume-") as scratch:
        loads = write_load(Path(scratch), options.size_mb, options.sidecars)
        table = report(list(rows(loads, options.repeats, Path(scratch))), loads, options.repeats)
    print(table, end="")
    if options.out:
        options.out.write_text(table)


if __name__ == "__main__":
    main()
