"""The commands of `python -m orchestrator`, one module each: `add_parser` says its arguments, `run` does it.

A module here imports what it needs when it runs, so that `--help` starts at once. `run` returns the exit code, or
raises a StudyError, which has one. What all commands share is in `arguments.py` (RUN, CONF, --json) and `output.py`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
