"""One page on a dataset: what is taken, at which size, what is cropped or enlarged, what is left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from trainer.buckets import Fit
from trainer.dataset import Dataset, Item

CROPPED = 0.1
"""Share of its area a picture may lose before it is named."""


def dataset_report(dataset: Dataset, fits: Sequence[Fit]) -> str:
    """Plain text for people; `fits` are the items' training sizes, in their order."""
    shown = sum(item.repeats for item in dataset.items) * dataset.repeats
    lines = [f"{len(dataset)} pictures taken from {dataset.root}, {shown} shown per epoch"]
    lines += ["", "who", *_counted(_people(item) for item in dataset.items)]
    repeated = Counter(item.repeats * dataset.repeats for item in dataset.items)
    if len(repeated) > 1:
        lines += ["", "repeats", *(f"  {count:5}  shown {times} times" for times, count in sorted(repeated.items()))]
    lines += ["", "sizes", *_counted(f"{width}x{height}" for width, height in (f.size for f in fits))]
    pairs = list(zip(dataset.items, fits, strict=True))
    cropped = sorted(((f.cropped, i) for i, f in pairs if f.cropped > CROPPED), key=lambda row: (-row[0], row[1].file))
    lines += _section(
        f"cropped by more than {CROPPED:.0%}",
        (f"{share:5.0%}  {i.file} ({i.picture.width}x{i.picture.height})" for share, i in cropped),
    )
    enlarged = [(f.scale, i) for i, f in pairs if f.scale > 1]
    lines += _section("enlarged", (f"{s:5.2f}  {i.file} ({i.picture.width}x{i.picture.height})" for s, i in enlarged))
    lines += _section("left out", dataset.skipped)
    lines += _section("not looked at", (f"{n:5}  {suffix} files" for suffix, n in sorted(dataset.ignored.items())))
    return "\n".join(lines) + "\n"


def _people(item: Item) -> str:
    return "regularisation" if item.regularisation else " + ".join(sorted(item.triggers))


def _counted(names: Iterable[str]) -> list[str]:
    return [f"  {count:5}  {name}" for name, count in sorted(Counter(names).items())]


def _section(title: str, rows: Iterable[str]) -> list[str]:
    rows = [f"  {row}" for row in rows]
    return ["", title, *rows] if rows else []
