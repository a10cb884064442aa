"""Adapter files: written whole or not at all, byte for byte repeatable, and read with suspicion.

A file is safetensors with `diffusion_model.*.lora_A/lora_B.weight` and no alpha keys, the one form that ComfyUI and
diffusers both load. Its metadata says how it was made and carries a checksum over everything else, so a copy that was
damaged on its way is noticed even by someone who never saw the original.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from orchestrator.core.errors import AdapterError

_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
# A zip archive is what torch.save writes today, \x80 opens a binary pickle.
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_CHECKSUM = "checksum"
_PREFIX = "adapter."
_REPLACE = "quarantine it, then fetch, retrain or redraw it"


@dataclass(frozen=True, slots=True)
class AdapterMetadata:
    """How an adapter came to be. Written as strings named `adapter.<field>` in the file's metadata."""

    rank: int
    alpha: float
    """As trained; already folded into lora_B, so a loader must not apply it again."""
    base_sha256: str
    dataset_sha256: str
    trial: str
    epoch: int
    step: int
    """Optimizer steps so far."""
    exposures_per_image: float
    trigger_words: tuple[str, ...]
    project_version: str

    def to_strings(self) -> dict[str, str]:
        """Each field as JSON text."""
        return {_PREFIX + name: json.dumps(value, ensure_ascii=False) for name, value in asdict(self).items()}

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> AdapterMetadata:
        """Read what `to_strings` wrote. Raises TypeError or ValueError for anything else."""
        values: dict[str, Any] = {
            key.removeprefix(_PREFIX): json.loads(text) for key, text in strings.items() if key.startswith(_PREFIX)
        }
        values["trigger_words"] = tuple(values.get("trigger_words", ()))
        return cls(**values)


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A file that is on disk, whole."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """A file that was read and found sound. `metadata` is None in files other programs wrote."""

    file: AdapterFile
    state: dict[str, Tensor]
    metadata: AdapterMetadata | None


def write_adapter(
    path: Path, state: Mapping[str, Tensor], metadata: AdapterMetadata, *, dtype: torch.dtype = torch.float32
) -> AdapterFile:
    """Write an adapter aside, flush it to the disk, then rename it into place; the folder is made if needed.

    fp32 by default: the file then holds exactly what was trained, so resuming, merging and hashing all speak of the
    same numbers, and the miniature's file is small anyway. Real-size studies pass bf16 or fp16 to halve theirs.
    The same state and metadata give the same bytes. Raises AdapterError for tensors that are not finite in `dtype`.
    """
    adapter_pairs(state, where=path.name)
    tensors = {name: state[name].detach().to("cpu", dtype).contiguous() for name in sorted(state)}
    _check_finite(tensors, path)
    content = _serialize(tensors, metadata.to_strings())
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace_whole(path, content)
    return AdapterFile(path, hashlib.sha256(content).hexdigest(), len(content))


def read_adapter(path: Path, *, sha256: str | None = None) -> Adapter:
    """Read an adapter onto the CPU in its stored dtype, refusing anything that is not sound.

    The bytes that are checked are the bytes that are used. With `sha256`, they must be the recorded ones.
    Raises AdapterError naming the file and what is wrong with it.
    """
    _check_name(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AdapterError(f"cannot be read ({error.strerror})", where=str(path), fix="retrain or fetch it") from error
    # A safetensors header of 640 bytes begins with \x80\x02 too, but goes on with a brace.
    if content.startswith(_PICKLE_MAGIC) and content[8:9] != b"{":
        raise _unsound(path, "is a pickle, which can run code when it is opened", fix="convert it to safetensors")
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise _unsound(path, f"is not the recorded file: sha256 {found[:16]}… instead of {sha256[:16]}…")
    strings = _check_header(content, path)
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise _unsound(path, f"is corrupt ({error})") from error
    if _CHECKSUM in strings and strings[_CHECKSUM] != _checksum(tensors, strings):
        raise _unsound(path, "is damaged: its content does not match the checksum it carries")
    adapter_pairs(tensors, where=str(path))
    _check_finite(tensors, path)
    return Adapter(AdapterFile(path, found, len(content)), tensors, _metadata(strings, path))


def adapter_pairs(state: Mapping[str, Tensor], *, where: str = "adapter") -> dict[str, tuple[Tensor, Tensor]]:
    """An adapter's tensors as layer name -> (A (rank, in), B (out, rank)).

    Raises AdapterError naming the first offenders: keys of another kind, a half without its other, ranks that disagree,
    or no keys at all.
    """
    if not state:
        raise AdapterError("holds no LoRA tensors at all", where=where)
    sides = (".lora_A.weight", ".lora_B.weight")
    strange = [key for key in state if not (key.startswith("diffusion_model.") and key.endswith(sides))]
    refuse(strange, "has keys other than diffusion_model.*.lora_A.weight and .lora_B.weight", where)
    names = {key.removesuffix(sides[0]).removesuffix(sides[1]): None for key in state}
    refuse([n for n in names if any(n + side not in state for side in sides)], "has only one half of layers", where)
    pairs = {name: (state[name + sides[0]], state[name + sides[1]]) for name in names}
    uneven = [n for n, (a, b) in pairs.items() if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]]
    refuse(uneven, "has lora_A and lora_B that do not multiply", where)
    return pairs


def refuse(offenders: Iterable[str], what: str, where: str = "adapter") -> None:
    """Raise an AdapterError with the first names and the count, if there are any."""
    names = sorted(offenders)
    if names:
        rest = f" and {len(names) - 2} more" if len(names) > 2 else ""
        raise AdapterError(
            f"{what}: {', '.join(islice(names, 2))}{rest}",
            where=where,
            fix="use an adapter trained on this base, with diffusion_model.*.lora_A/lora_B.weight and no alpha keys",
        )


def _serialize(tensors: Mapping[str, Tensor], strings: Mapping[str, str]) -> bytes:
    """safetensors with sorted metadata: the library writes it in a different order in every process."""
    plain = safetensors.torch.save(dict(tensors))
    (length,) = struct.unpack("<Q", plain[:8])
    entries = json.loads(plain[8 : 8 + length])
    marked = {**strings, "format": "pt", _CHECKSUM: _checksum(tensors, strings)}
    metadata = {"__metadata__": dict(sorted(marked.items()))}
    header = json.dumps(metadata | entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + plain[8 + length :]


def _checksum(tensors: Mapping[str, Tensor], strings: Mapping[str, str]) -> str:
    """sha256 over every tensor (name, dtype, shape, bytes) and every metadata string of ours."""
    total = hashlib.sha256()
    ours = {key: value for key, value in strings.items() if key.startswith(_PREFIX)}
    total.update(json.dumps(ours, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _replace_whole(path: Path, content: bytes) -> None:
    """Readers see the old file or the new one, never a part, even after a power cut."""
    aside = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        with aside.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_name(path: Path) -> None:
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise _unsound(path, f"is a {path.suffix} file, a pickle by its name", fix="convert it to safetensors")
    if path.suffix != ".safetensors":
        raise _unsound(path, "is not named .safetensors", fix="give the path of an adapter file")


def _check_header(content: bytes, path: Path) -> dict[str, str]:
    """The metadata strings, once the header is a header and the file is as long as it says."""
    if len(content) < 8:
        raise _unsound(path, f"is cut short: {len(content)} bytes, less than a header")
    (length,) = struct.unpack("<Q", content[:8])
    if length > len(content) - 8:
        raise _unsound(path, f"is cut short or no safetensors: a header of {length} bytes in {len(content)} bytes")
    try:
        entries = json.loads(content[8 : 8 + length])
        strings = entries.pop("__metadata__", {})
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        missing = 8 + length + end - len(content)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise _unsound(path, f"has an unreadable header ({error})") from error
    if missing > 0:
        raise _unsound(path, f"is cut short: {missing} of {len(content) + missing} bytes are missing")
    if not isinstance(strings, dict) or not all(isinstance(text, str) for text in strings.values()):
        raise _unsound(path, "has metadata that is not text")
    return strings


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise _unsound(path, f"holds {tensor.dtype} numbers in {name}")
        if not tensor.float().isfinite().all():
            raise _unsound(path, f"holds NaN or infinite {tensor.dtype} numbers in {name}")


def _metadata(strings: Mapping[str, str], path: Path) -> AdapterMetadata | None:
    if not any(key.startswith(_PREFIX) for key in strings):
        return None
    try:
        return AdapterMetadata.from_strings(strings)
    except (TypeError, ValueError) as error:
        raise _unsound(path, f"has metadata this version does not read ({error})") from error


def _unsound(path: Path, what: str, *, fix: str = _REPLACE) -> AdapterError:
    return AdapterError(what, where=str(path), fix=fix)
