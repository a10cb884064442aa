"""Whether this machine can compile passes: asked before anything is drawn, and without torch."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec

from orchestrator.core.errors import MissingError


def check_compiler(device: str, *, where: str = "grid.drawing.compile") -> None:
    """Raises MissingError where torch.compile has nothing to compile with on `device`, "cpu" or "cuda"."""
    if device == "cpu":
        name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        lacking = "" if shutil.which(name) else f"no C++ compiler ({name})"
        fix = "install one, or name it in CXX"
    else:
        lacking = "" if find_spec("triton") else "no Triton"
        fix = "install the package triton"
    if lacking:
        raise MissingError(f"{lacking} on this machine to compile with", where=where, fix=f"{fix}, or leave it off")
