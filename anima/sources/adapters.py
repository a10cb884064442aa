"""Adapters that pictures are drawn with beside the judged one: from wherever they are to files here. No torch.

They come from the same kinds of sources as a base, are kept in the same cache, and are looked at before anything is
drawn: a file that names no layer of Anima is refused at once, whether it fits the base is seen when it is merged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anima.adapters.keys import split_key
from anima.adapters.names import layer_of
from anima.base import content_sha256
from anima.headers import read_header
from anima.sources.config import Source
from anima.sources.obtain import fetch, missing_source
from anima.sources.store import Tell, WeightStore
from orchestrator.core.errors import AdapterError, MissingError

KEY = "grid.with_adapters"


@dataclass(frozen=True, slots=True)
class ObtainedAdapter:
    """An adapter's file on this machine, and what it holds."""

    path: Path
    sha256: str


def obtain_adapters(
    sources: Sequence[Source],
    *,
    tell: Tell = lambda _: None,
    store: WeightStore | None = None,
    check: Callable[[Path], object] | None = None,
) -> tuple[ObtainedAdapter, ...]:
    """Every source as a file here, in their order. `tell` hears what is being fetched.

    `check` looks at each file; if nothing is given, at whether it names layers of Anima. Raises AdapterError for one
    that does not, and what `obtain_base` raises.
    """
    store, found = store or WeightStore.of_this_machine(), []
    for source in sources:
        path = fetch(KEY, source, store, tell, threading.Event())
        (check or check_layers)(path)
        found.append(ObtainedAdapter(path.resolve(), content_sha256(path)))
    return tuple(found)


def missing_adapters(sources: Sequence[Source]) -> list[MissingError]:
    """Sources that are not there and cannot be fetched, as far as this machine can tell by itself."""
    return [fault for source in sources if (fault := missing_source(KEY, source))]


def check_layers(path: Path) -> None:
    """Raises AdapterError, WeightsError or MissingError unless the file's header names changes of Anima's layers."""
    keys = [split_key(key) for key in read_header(path)]
    if not any(key and layer_of(key.layer) for key in keys):
        raise AdapterError(
            "changes no layer of Anima" if any(keys) else "is no adapter: none of its tensors is part of one",
            where=str(path),
            fix="give the .safetensors of an adapter that was trained on Anima",
        )
