"""What kind of machine this is, in labels that we set ourselves: GPU family, compute capability, memory, pod.

    ray start --address=HEAD:6379 --labels="$(python -m infra.labels)"

Ray's own label of a GPU is made from its marketing name: two chips, of 2018 and 2022, are both `RTX-6000`. A study
never goes by it.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys

QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits")
ASK_S = 20.0


def gpu_family(name: str) -> str:
    """The family of a GPU by the name its driver gives: 'NVIDIA GeForce RTX 5090' -> 'rtx5090'.

    Memory, form and makers say nothing about the family: 'NVIDIA H100 80GB HBM3' and 'NVIDIA H100 PCIe' are 'h100'.
    """
    words = re.sub(
        r"\b(nvidia|geforce|quadro|tesla|generation|laptop|gpu|pcie|sxm\d?|hbm\w*|nvl|\d+gb)\b", " ", name.lower()
    )
    parts = re.findall(r"[a-z0-9]+", words)
    if not parts:
        return "unknown"
    # 'rtx 6000 ada' is rtx6000-ada, 'rtx pro 6000 blackwell' rtx-pro-6000-blackwell: what follows a number is a suffix.
    family = "-".join(parts)
    return re.sub(r"^(rtx|gtx|a|l|t|v)-(\d+)", r"\1\2", family)


def labels_of(listing: str, pod: str) -> dict[str, str]:
    """Labels from the listing of `nvidia-smi` (lines of name, capability, MiB) and the pod's name.

    Several GPUs of a machine are of one kind; the first one speaks for all.
    """
    labels = {"pod": re.sub(r"[^A-Za-z0-9._-]", "-", pod)[:63].strip("._-") or "unnamed"}
    first = next((line for line in listing.splitlines() if line.count(",") >= 2), "")
    if not first:
        return labels | {"gpu": "none"}
    name, capability, memory = (part.strip() for part in first.rsplit(",", 2))
    labels["gpu"] = gpu_family(name)
    labels["sm"] = capability.replace(".", "")
    if memory.isdigit():
        labels["memory_gb"] = str(round(int(memory) / 1024))
    return labels


def this_machine() -> dict[str, str]:
    """The labels of this machine."""
    try:
        asked = subprocess.run(QUERY, capture_output=True, text=True, timeout=ASK_S, check=False)
        listing = asked.stdout if asked.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        listing = ""
    return labels_of(listing, socket.gethostname())


if __name__ == "__main__":
    sys.stdout.write(",".join(f"{name}={value}" for name, value in sorted(this_machine().items())) + "\n")
