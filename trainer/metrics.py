"""What a trial writes down: `metrics.jsonl`, one row a step, and `exposures.json`, who was shown how often."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.core.files import write_whole
from trainer.balance import Exposures
from trainer.dataset import Dataset, Item
from trainer.facts import StepLogged

log = logging.getLogger(__name__)

REGULARISATION = "regularisation"


def log_step(path: Path, fact: StepLogged) -> None:
    """Append a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(fact.to_json()) + "\n")


def logged_steps(path: Path) -> list[dict[str, Any]]:
    """The rows of a trial so far; a line cut short by a crash is left out."""
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in rows if line.endswith("}")]


def trim(path: Path, after: int) -> None:
    """Forget the steps after step `after`: they will be made again."""
    if path.exists():
        rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in rows if json.loads(line)["step"] <= after]
        write_whole(path, "".join(line + "\n" for line in kept))


def write_exposures(path: Path, epoch: int, dataset: Dataset, shown: Exposures) -> None:
    """Every character and every picture, up to the end of an epoch."""
    pictures = {item.file: times for item, times in zip(dataset.items, shown.items, strict=True)}
    facts = {"epoch": epoch, "characters": dict(shown.characters), "pictures": pictures}
    write_whole(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    log.info("shown so far | epoch=%d | %s", epoch, ", ".join(f"{who} {n}" for who, n in shown.characters.items()))


def by_character(items: Iterable[Item], errors: Iterable[float]) -> Mapping[str, float]:
    """Mean error of the exposures that show each character."""
    sums: defaultdict[str, list[float]] = defaultdict(list)
    for item, error in zip(items, errors, strict=True):
        for who in (REGULARISATION,) if item.regularisation else item.triggers:
            sums[who].append(error)
    return {who: sum(values) / len(values) for who, values in sorted(sums.items())}
