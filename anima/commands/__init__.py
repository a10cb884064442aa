"""The commands of `python -m anima`, one module each: `add_parser` says its arguments, `run` does it.

A module here imports what it needs when it runs, so that `--help` starts at once.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
