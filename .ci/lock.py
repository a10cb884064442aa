"""Resolve the ranges of pyproject.toml to one exact version each and write them to requirements.lock.

pip resolves without installing anything. It must run on the oldest Python the project supports: some packages are
needed there only, and a newer Python's choice may not install on it. It must run on Linux: the servers that tests start
are installed there only, and what only they lead to is marked so.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Every package of the project, pinned exactly. Made from the ranges of pyproject.toml by `make lock`: edit those.
#
# There are no hashes, because torch has no single one: the same pin takes the CPU build on one machine and the CUDA
# build on another, and pip demands hashes for all packages or for none. The CUDA build brings NVIDIA packages (and
# triton), which are not listed here: torch's own requirements choose them.
"""
LINUX_ONLY = "sys_platform == 'linux'"
BROUGHT_BY_TORCH = re.compile(r"(nvidia|cuda)-.*|triton")


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=")
    if sys.version_info[:2] != tuple(int(part) for part in oldest.split(".")):
        sys.exit(f"The lock is made with Python {oldest}: remove .venv, then make PYTHON=python{oldest} lock")
    if sys.platform != "linux":
        sys.exit("The lock is made on Linux: other systems lack packages that it holds")
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pins = resolve(wanted)
    everywhere = resolve([requirement for requirement in wanted if LINUX_ONLY not in requirement])
    lines = (f"{n}=={v}\n" if n in everywhere else f"{n}=={v}; {LINUX_ONLY}\n" for n, v in sorted(pins.items()))
    lock = ROOT / "requirements.lock"
    lock.write_text(HEADER + "".join(lines))
    print(f"{lock.name}: {len(pins)} packages")


def resolve(requirements: list[str]) -> dict[str, str]:
    """Exact version of every package these requirements lead to, by normalised name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", str(report), *requirements], check=True)
        packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    named = {re.sub(r"[-_.]+", "-", p["name"]).lower(): public_version(p["version"]) for p in packages}
    return {name: version for name, version in named.items() if not BROUGHT_BY_TORCH.fullmatch(name)}


def public_version(version: str) -> str:
    """`version` without its local part: 2.13.0+cpu and 2.13.0+cu130 are both 2.13.0 to a requirement."""
    return version.partition("+")[0]


if __name__ == "__main__":
    main()
