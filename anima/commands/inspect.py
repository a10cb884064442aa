"""python -m anima inspect: what an adapter file is, whichever model it is for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from anima.adapters.metadata import PREFIX

if TYPE_CHECKING:
    from rich.table import Table

    from anima.adapters.describe import Description
    from anima.commands import Commands

_BAR = 16
_LINE = 160
_PLUMBING = ("format", "checksum")


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "inspect",
        help="what an adapter file is: model, layout, ranks, norms, metadata",
        description="Describe an adapter file of any model family. Nothing is merged and nothing is written.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a .safetensors file")
    parser.add_argument("--json", action="store_true", help="everything, with each layer, as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Describe the file on the terminal, or as JSON."""
    from rich.console import Console

    from anima.adapters.describe import describe
    from anima.order import check_adapter

    check_adapter(options.file)
    description = describe(options.file)
    if options.json:
        print(json.dumps(description.to_json(), indent=2, allow_nan=False))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    for line in _summary(description):
        console.print(line, markup=False)
    if description.layers:
        console.print()
        console.print(_layers(description))
    if description.strings:
        console.print()
        for line in _metadata(description):
            console.print(line, markup=False)
    return 0


def _summary(description: Description) -> list[str]:
    from anima.commands.terminal import size
    from orchestrator.core.command_line import printable

    kinds = ", ".join(f"{count} {kind}" for kind, count in description.kinds().items())
    ranks = ", ".join(f"{rank} ({count} layers)" for rank, count in description.ranks().items())
    scales = ", ".join(f"{scale:g} ({count} layers)" for scale, count in description.scales().items())
    dtypes = ", ".join(f"{dtype} ({count} tensors)" for dtype, count in description.dtypes.items())
    facts = {
        "model": description.family,
        "layout": description.layout if description.layers else "",
        "layers": kinds,
        "rank": ranks,
        "scale": scales and f"{scales} = alpha / rank",
        "stored": f"{dtypes}, {size(description.file.size_bytes)}",
        "sha256": description.file.sha256,
        "checksum": "carries one of this project, which matches" if description.checksum else "",
        "on Anima": "merges where the sizes fit" if description.refusal is None else f"no: it {description.refusal}",
    }
    lines = [printable(str(description.file.path))]
    lines += [f"  {name:<9} {printable(text)}" for name, text in facts.items() if text]
    return lines + [f"  {'note':<9} {printable(note)}" for note in description.notes]


def _layers(description: Description) -> Table:
    """One row per kind of layer; the bar is the mean norm against the largest."""
    from rich.table import Table
    from rich.text import Text

    from orchestrator.core.command_line import printable

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("  layers", no_wrap=True)
    for name in ("count", "rank", "mean norm", "max norm"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    groups = description.groups()
    largest = max((group.mean_norm or 0 for group in groups), default=0)
    component = None
    for group in groups:
        if group.component != component:
            component = group.component
            table.add_row(Text(f"  {printable(component)}", style="bold"))
        bar = "█" * round(_BAR * (group.mean_norm or 0) / largest) if largest else ""
        table.add_row(
            Text(f"    {printable(group.group, limit=48)}"),
            str(group.layers),
            ", ".join(map(str, group.ranks)) or "–",
            "–" if group.mean_norm is None else f"{group.mean_norm:.4g}",
            "–" if group.max_norm is None else f"{group.max_norm:.4g}",
            bar,
        )
    return table


def _metadata(description: Description) -> list[str]:
    """How this project made it, then what else it says of itself."""
    from orchestrator.core.command_line import printable

    lines = ["  metadata"]
    own = description.metadata
    if own is not None:
        shown = f"{own.exposures_per_image:g} exposures per image"
        lines += [
            f"    trained   {own.trial}, epoch {own.epoch}, step {own.step}, {shown}",
            f"    as        rank {own.rank}, alpha {own.alpha:g} (folded in), by version {own.project_version}",
            f"    triggers  {', '.join(own.trigger_words)}",
            f"    base      {own.base_sha256}",
            f"    dataset   {own.dataset_sha256}",
        ]
    rest = {k: t for k, t in sorted(description.strings.items()) if not k.startswith(PREFIX) and k not in _PLUMBING}
    width = max(map(len, rest), default=0)
    lines += [f"    {key:<{width}}  {text}" for key, text in rest.items()]
    return [printable(line, limit=_LINE) for line in lines]
