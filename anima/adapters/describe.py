"""What an adapter file is, of whatever model and in whatever state: told, not judged, and nothing is merged."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from anima.adapter_files import metadata_of, peft_config
from anima.adapters.container import AdapterFile, Content, read_content, unsound_numbers
from anima.adapters.families import component_of, family_of, group_of
from anima.adapters.keys import kind_of, split_key
from anima.adapters.metadata import AdapterMetadata
from anima.adapters.names import COMPONENTS, layer_of, layout_of, position
from anima.adapters.peft_config import PeftConfig
from anima.adapters.reading import Parts, delta_of, deltas_of, parts_by_layer, width_of
from orchestrator.core.errors import AdapterError


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One adapted layer."""

    name: str
    """As the file has it."""
    component: str
    group: str
    """The kind of layer, without the number of its block."""
    kind: str
    rank: int | None
    scale: float | None
    """alpha / rank."""
    norm: float | None
    """Frobenius norm of the change at weight 1; None where it cannot be told."""


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """Layers of one kind together."""

    component: str
    group: str
    layers: int
    ranks: tuple[int, ...]
    mean_norm: float | None
    max_norm: float | None


@dataclass(frozen=True, slots=True)
class Description:
    """Everything a file says."""

    file: AdapterFile
    family: str
    layout: str
    layers: tuple[LayerFacts, ...]
    dtypes: dict[str, int]
    """Tensors by dtype."""
    strings: dict[str, str]
    metadata: AdapterMetadata | None
    """How this project made it; None for files of other programs and of versions it does not know."""
    checksum: bool
    """Whether it carries a checksum of this project (which then matches)."""
    refusal: str | None
    """Why it would not be merged on Anima; None if it would, where the sizes fit."""
    notes: tuple[str, ...]

    def groups(self) -> list[GroupFacts]:
        """The layers by component and kind, in the order of `layers`."""
        members: dict[tuple[str, str], list[LayerFacts]] = {}
        for layer in self.layers:
            members.setdefault((layer.component, layer.group), []).append(layer)
        return [_group(component, group, layers) for (component, group), layers in members.items()]

    def kinds(self) -> dict[str, int]:
        """Layers by the form of their change, the most frequent first."""
        return dict(Counter(layer.kind for layer in self.layers).most_common())

    def ranks(self) -> dict[int, int]:
        """Layers by rank, the most frequent first."""
        return dict(Counter(layer.rank for layer in self.layers if layer.rank is not None).most_common())

    def scales(self) -> dict[float, int]:
        """Layers by alpha / rank, the most frequent first."""
        return dict(Counter(round(layer.scale, 6) for layer in self.layers if layer.scale is not None).most_common())

    def to_json(self) -> dict[str, Any]:
        """Plain data, ready for `json.dumps`."""
        return {
            "path": str(self.file.path),
            "sha256": self.file.sha256,
            "size_bytes": self.file.size_bytes,
            "family": self.family,
            "layout": self.layout,
            "kinds": self.kinds(),
            "ranks": {str(rank): count for rank, count in self.ranks().items()},
            "scales": {str(scale): count for scale, count in self.scales().items()},
            "dtypes": self.dtypes,
            "checksum": self.checksum,
            "merges_on_anima": self.refusal is None,
            "refusal": self.refusal,
            "notes": list(self.notes),
            "groups": [asdict(group) for group in self.groups()],
            "layers": [asdict(layer) for layer in self.layers],
            "metadata": self.strings,
        }


def describe(path: Path) -> Description:
    """Read and describe a file. Raises AdapterError for one that is no sound safetensors file."""
    content = read_content(path)
    tensors = content.tensors
    keys = {text: split_key(text) for text in tensors}
    parts = parts_by_layer((key for key in keys.values() if key is not None), tensors, str(path))
    refusal = _refusal(content)
    config = _config(content)
    layers = tuple(_layer(name, parts[name], config) for name in sorted(parts, key=_order))
    strange = [text for text, key in keys.items() if key is None]
    notes = [f"{key} {what}" for key, what in unsound_numbers(tensors).items()]
    if strange and parts:
        notes.append(f"{len(strange)} tensors are no part of an adapter, the first is {min(strange)}")
    unmoved = [layer for layer in layers if layer.norm == 0]
    if unmoved:
        notes.append(f"{len(unmoved)} layers change nothing (norm 0), the first is {unmoved[0].name}")
    return Description(
        file=content.file,
        family=family_of({name: width_of(own) for name, own in parts.items()}) if parts else "no adapter",
        layout=layout_of(parts),
        layers=layers,
        dtypes=dict(Counter(str(t.dtype).removeprefix("torch.") for t in tensors.values()).most_common()),
        strings=content.strings,
        metadata=_metadata(content),
        checksum=content.checksum,
        refusal=refusal,
        notes=tuple(notes),
    )


def _order(name: str) -> tuple[object, ...]:
    """Anima's layers as they stand in the model, others by name, numbers as numbers."""
    layer = layer_of(name)
    if layer is not None:
        return 0, COMPONENTS.index(layer.component), *position(layer)
    pieces = re.split(r"(\d+)", name)
    return 1, component_of(name), tuple((int(p), "") if p.isdigit() else (-1, p) for p in pieces)


def _group(component: str, group: str, layers: list[LayerFacts]) -> GroupFacts:
    norms = [layer.norm for layer in layers if layer.norm is not None]
    ranks = tuple(sorted({layer.rank for layer in layers if layer.rank is not None}))
    mean = sum(norms) / len(norms) if norms else None
    return GroupFacts(component, group, len(layers), ranks, mean, max(norms, default=None))


def _refusal(content: Content) -> str | None:
    """What `read_adapter` would say against it."""
    try:
        deltas_of(content.tensors, where="", config=peft_config(content))
        metadata_of(content)
    except AdapterError as error:
        return error.what
    unsound = unsound_numbers(content.tensors)
    return next((f"{what} in {key}" for key, what in unsound.items()), None)


def _metadata(content: Content) -> AdapterMetadata | None:
    try:
        return metadata_of(content)
    except AdapterError:
        # Said in the refusal already; the strings are shown as they are.
        return None


def _config(content: Content) -> PeftConfig | None:
    try:
        return peft_config(content)
    except AdapterError:
        # Said in the refusal already; the layers are described as if unscaled.
        return None


def _layer(name: str, parts: Parts, config: PeftConfig | None) -> LayerFacts:
    """What one layer's tensors tell; as much as they tell."""
    kind = kind_of(parts)
    layer = layer_of(name)
    # Convolutions are described as the matrices they are once their kernels are flattened.
    flat: Parts = {part: (key, t.flatten(1) if t.ndim > 2 else t) for part, (key, t) in parts.items()}
    if kind == "DoRA":
        flat = {part: pair for part, pair in flat.items() if part != "magnitude"}
    try:
        delta = delta_of(flat, lambda rank: config.scale(layer, rank) if config and layer else 1.0)
    except ValueError:
        return LayerFacts(name, component_of(name), group_of(name), kind, _rank(parts), None, None)
    norm = delta.norm()
    return LayerFacts(
        name, component_of(name), group_of(name), kind, delta.rank, delta.scale, norm if math.isfinite(norm) else None
    )


def _rank(parts: Parts) -> int | None:
    """Rows of lora_A, where the other half or more is missing."""
    found: Tensor | None = parts["a"][1] if "a" in parts else None
    return found.shape[0] if found is not None and found.ndim >= 2 else None
