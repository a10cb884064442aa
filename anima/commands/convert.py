"""python -m anima convert: an adapter of Anima in the names another program reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anima.commands import Commands


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "convert",
        help="write an adapter in the layout of ComfyUI, kohya or diffusers",
        description="Write an adapter of Anima in another layout. It merges to the same weights; metadata is kept.",
    )
    parser.add_argument("source", metavar="IN", type=Path, help="adapter file of any layout")
    parser.add_argument("target", metavar="OUT", type=Path, help="the new file, named .safetensors")
    parser.add_argument("--format", required=True, choices=("comfy", "kohya", "diffusers"), help="layout to write")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Convert and say what was written."""
    from anima.adapters.convert import convert
    from anima.commands.terminal import size
    from anima.order import check_adapter
    from orchestrator.core.command_line import printable

    check_adapter(options.source)
    done = convert(options.source, options.target, options.format, replace=options.force)
    layers = f"{done.layers} {' and '.join(done.kinds)} layers"
    print(f"read     {printable(str(done.source.path))} | {done.source_layout} | {layers}")
    written = f"{done.target_layout} | {size(done.target.size_bytes)} | sha256 {done.target.sha256}"
    print(f"written  {printable(str(done.target.path))} | {written}")
    if done.widened:
        print(f"note     {done.widened} tensors are fp32 now: alpha / rank folded in does not fit their dtype")
    return 0
