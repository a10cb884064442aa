"""Find every tensor of a component in its files, whatever names they use, and refuse whatever does not fit exactly.

A component's folder holds config.json and safetensors files, either as diffusers and transformers save them or as they
are published for ComfyUI: `net.`, `model.diffusion_model.` or nothing in front, the text conditioner as `llm_adapter.`
in the transformer's file, Wan's names for the VAE. Keys are only read here, so a study learns what is wrong with its
weights before it loads torch, let alone rents a GPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anima.headers import Stored, read_header
from anima.tensors import TensorSpec, component_tensors
from orchestrator.core.errors import MissingError, WeightsError

WEIGHTED = ("transformer", "text_conditioner", "text_encoder", "vae")
"""The components that have weights."""
ROOTS = ("net.", "model.diffusion_model.", "diffusion_model.", "")
"""What published transformer files put in front of every key."""
ADAPTER = "llm_adapter."
KINDS = ("BF16", "F16", "F32")
HARMLESS = re.compile(r"(^|\.)(pos_embedder\.(seq|dim_spatial_range|dim_temporal_range)|rotary_emb\.inv_freq)$")
"""Tables of rotary embeddings that some trainers save; every model computes them itself."""


@dataclass(frozen=True, slots=True)
class PartReport:
    """How one component's files met its configuration; a line of the study's log."""

    part: str
    matched: int
    expected: int
    kinds: tuple[str, ...]
    files: tuple[str, ...]
    ignored: int

    def __str__(self) -> str:
        aside = f", {self.ignored} rotary tables left aside" if self.ignored else ""
        return (
            f"weights matched | {self.part} {self.matched} of {self.expected} tensors,"
            f" {'+'.join(self.kinds).lower()}{aside} | {', '.join(self.files)}"
        )


@dataclass(frozen=True, slots=True)
class Match:
    """Where each tensor of a component is: by its name in the module, the file and the key there."""

    config: Mapping[str, Any]
    places: Mapping[str, tuple[Path, str]]
    report: PartReport


def inspect_base(folder: Path) -> tuple[PartReport, ...]:
    """Check all weights of a base against its configurations; raises what `match_part` raises, for the first fault."""
    return tuple(match_part(folder / part, part).report for part in WEIGHTED)


def match_part(folder: Path, part: str) -> Match:
    """Find every tensor of the component in `folder`.

    Raises MissingError when config or weights are not there; WeightsError, naming file and key, when a file is damaged,
    or a tensor is missing, of another shape, of a kind that cannot be trained on, or one too many.
    """
    config = read_config(folder / "config.json")
    specs = component_tensors(part, config, where=str(folder / "config.json"))
    stored = {file: read_header(file, shown=shown(file)) for file in weight_files(folder)}
    if not stored:
        raise MissingError(f"no {part} weights", where=str(folder), fix="put its .safetensors file there")
    keys = _merge(stored)
    naming = _naming(part, specs, keys, ", ".join(shown(file) for file in stored))
    places: dict[str, tuple[Path, str]] = {}
    ignored = 0
    for key, (file, tensor) in keys.items():
        if (name := naming.names.get(key)) is not None:
            _refuse_unfit(key, tensor, specs[name], shown(file))
            places[name] = (file, key)
        elif HARMLESS.search(key):
            ignored += naming.owns(key)
        elif naming.owns(key):
            raise WeightsError(f"has a tensor that no Anima {part} has: {key}", where=shown(file), fix=_OTHER_MODEL)
    absent = [key for key, name in naming.names.items() if name not in places]
    if absent:
        what = f"lacks {absent[0]}" + (f" and {len(absent) - 1} more" if len(absent) > 1 else "")
        where = ", ".join(shown(file) for file in stored)
        raise WeightsError(f"{what}: {len(places)} of {len(specs)} {part} tensors", where=where, fix=_OTHER_MODEL)
    used = sorted({file for file, _ in places.values()})
    kinds = sorted({keys[key][1].kind for _, key in places.values()})
    report = PartReport(part, len(places), len(specs), tuple(kinds), tuple(shown(file) for file in used), ignored)
    return Match(config, places, report)


_OTHER_MODEL = "it is another model, or damaged: fetch it again, or correct `base:`"


@dataclass(frozen=True, slots=True)
class _Naming:
    """One way of naming a component's tensors: the file's key -> the module's name, and whose a key is."""

    names: Mapping[str, str]
    root: str
    """In front of every key that is this component's business."""
    others: str = "\0"
    """In front of those below `root` that are another component's."""

    def owns(self, key: str) -> bool:
        return key.startswith(self.root) and not key.startswith(self.others)


def _naming(part: str, specs: Mapping[str, TensorSpec], keys: Mapping[str, object], where: str) -> _Naming:
    """The way of naming that most keys follow. Raises WeightsError when none does."""
    best = max(_namings(part, specs), key=lambda naming: len(naming.names.keys() & keys.keys()))
    if not best.names.keys() & keys.keys():
        first = f"its first key is {min(keys)}" if keys else "it has no tensors"
        wanted = next(iter(best.names))
        raise WeightsError(f"holds no {part} of Anima: {first}, expected was {wanted}", where=where, fix=_OTHER_MODEL)
    return best


def _namings(part: str, specs: Mapping[str, TensorSpec]) -> Iterator[_Naming]:
    yield _Naming({name: name for name in specs}, "")
    if part == "transformer":
        for root in ROOTS:
            yield _Naming({root + s.original: s.name for s in specs.values()}, "", root + ADAPTER)
    elif part == "text_conditioner":
        for root in ROOTS:
            yield _Naming({root + ADAPTER + s.original: s.name for s in specs.values()}, root + ADAPTER)
    else:
        yield _Naming({s.original: s.name for s in specs.values()}, "")


def _refuse_unfit(key: str, tensor: Stored, spec: TensorSpec, where: str) -> None:
    if tensor.shape != spec.shape:
        raise WeightsError(f"{key} is {tensor.shape}, the model's is {spec.shape}", where=where, fix=_OTHER_MODEL)
    if tensor.kind not in KINDS:
        kinds = ", ".join(KINDS)
        raise WeightsError(
            f"{key} is stored as {tensor.kind}, not as {kinds}", where=where, fix="take the full weights"
        )


def _merge(stored: Mapping[Path, Mapping[str, Stored]]) -> dict[str, tuple[Path, Stored]]:
    """All keys of all files; a key in two of them has no one meaning."""
    keys: dict[str, tuple[Path, Stored]] = {}
    for file, header in stored.items():
        for key, tensor in header.items():
            if key in keys:
                raise WeightsError(
                    f"{key} is also in {keys[key][0].name}", where=shown(file), fix="keep one set of weights there"
                )
            keys[key] = (file, tensor)
    return keys


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a component: those its index names, or else all of them.

    Raises WeightsError when the index cannot be read.
    """
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    if index is not None:
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            if not all(isinstance(name, str) and Path(name).name == name for name in names):
                raise ValueError("it names files outside its folder")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"not an index of weights: {error}", where=str(index)) from error
        return [folder / name for name in names]
    return sorted(folder.glob("*.safetensors"))


def read_config(path: Path) -> dict[str, Any]:
    """A component's config.json. Raises MissingError or WeightsError."""
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise MissingError("there is no such file", where=str(path), fix="fetch the whole component") from None
    except ValueError as error:
        raise WeightsError(f"is not readable as JSON: {error}", where=str(path), fix="fetch it again") from error
    if not isinstance(config, dict):
        raise WeightsError("is not a configuration: no mapping of settings", where=str(path), fix="fetch it again")
    return config


def shown(file: Path) -> str:
    """A file by the name its owner knows: where an absolute link points, else its own path."""
    if file.is_symlink() and (target := file.readlink()).is_absolute():
        return str(target)
    return str(file)
