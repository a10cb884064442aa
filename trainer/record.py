"""What a trial was begun on, kept beside it: a dataset that was edited since is noticed, never mixed in.

`dataset.json` lists each picture with the hash of its bytes and of its captions, in training order. A later attempt
must find the same content; files that were only renamed keep their place in the order. Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.core.errors import DatasetError
from orchestrator.core.files import write_whole
from orchestrator.core.identity import digest
from trainer.dataset import Dataset, Item

RECORD = "dataset.json"


def hold_to_record(folder: Path, dataset: Dataset) -> Dataset:
    """The dataset in the order the trial was begun with; the first attempt writes that down.

    Raises DatasetError naming the files that were edited, added or removed since.
    """
    path = folder / RECORD
    if not path.exists():
        write_whole(path, json.dumps(_recorded(dataset), indent=1, ensure_ascii=False) + "\n")
        return dataset
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["sha256"] != dataset.sha256:
        changes = list(_changes(record["pictures"], dataset.items))
        rest = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        raise DatasetError(
            f"the dataset was edited since this trial began: {', '.join(islice(changes, 5)) or 'its repeats'}{rest}",
            where=str(dataset.root),
            fix="put it back, or start the study again: it will train the edited one as another trial",
        )
    place = {(row["sha256"], row["captions"]): number for number, row in enumerate(record["pictures"])}
    ordered = sorted(dataset.items, key=lambda item: place[item.sha256, _captions_sha256(item)])
    return replace(dataset, items=tuple(ordered))


def _recorded(dataset: Dataset) -> dict[str, Any]:
    pictures = [{"file": i.file, "sha256": i.sha256, "captions": _captions_sha256(i)} for i in dataset.items]
    return {"sha256": dataset.sha256, "pictures": pictures}


def _captions_sha256(item: Item) -> str:
    return digest({"identity": item.identity()}, length=32)


def _changes(before: Iterable[Mapping[str, str]], now: Iterable[Item]) -> Iterator[str]:
    known = {row["file"]: row for row in before}
    found = {item.file: item for item in now}
    yield from (f"{name} is gone" for name in known if name not in found)
    yield from (f"{name} is new" for name in found if name not in known)
    for name, item in found.items():
        row = known.get(name)
        if row is not None and row["sha256"] != item.sha256:
            yield f"{name} is another picture"
        elif row is not None and row["captions"] != _captions_sha256(item):
            yield f"{name} has another caption or other repeats"
