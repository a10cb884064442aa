"""The pictures that were drawn while training, as their sidecars tell. Torch-free; `trainer/samples.py` draws them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.layout import Layout

_EPOCH = re.compile(r"epoch-(\d{4,})")


@dataclass(frozen=True, slots=True)
class Sampled:
    """One picture: to look at, not evidence."""

    path: Path
    epoch: int
    prompt: str
    seed: int
    setting: str
    """Everything else it was drawn with, as JSON: pictures of one prompt can be compared where it is the same."""

    @property
    def slug(self) -> str:
        """The prompt as the file's name has it."""
        return self.path.stem.rsplit("-", 2)[0]


def sampled(layout: Layout, trial: str, *, after: int = -1) -> list[Sampled]:
    """What there is of a trial's epochs `after` one, by prompt, setting, seed and epoch.

    A picture without a sound sidecar is left out.
    """
    found = []
    for folder in (layout.trial(trial) / "samples").glob("epoch-*"):
        if (epoch := _EPOCH.fullmatch(folder.name)) is None or int(epoch[1]) <= after:
            continue
        for path in folder.glob("*.png"):
            # The sidecar is written first.
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
                found.append(_read(path, int(epoch[1]), facts))
    return sorted(found, key=lambda one: (one.prompt, one.setting, one.seed, one.epoch, one.path.name))


def _read(path: Path, epoch: int, facts: Mapping[str, Any]) -> Sampled:
    setting = json.dumps({"negative": facts["negative"], **facts["drawing"]}, sort_keys=True, ensure_ascii=False)
    return Sampled(path, epoch, str(facts["prompt"]), int(facts["seed"]), setting)
