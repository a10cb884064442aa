"""The file around an adapter's tensors: safetensors, written whole or not at all, and read with suspicion.

Its metadata carries a checksum over everything else, so a copy that was damaged on its way is noticed even by someone
who never saw the original.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from orchestrator.core.errors import AdapterError
from orchestrator.core.files import write_whole

_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
# A zip archive is what torch.save writes today, \x80 opens a binary pickle.
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_CHECKSUM = "checksum"
_FORMAT = "format"
_REPLACE = "quarantine it, then fetch, retrain or redraw it"


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A file that is on disk, whole."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds: tensors on the CPU in their stored dtypes, and the strings of its metadata."""

    file: AdapterFile
    tensors: dict[str, Tensor]
    strings: dict[str, str]
    checksum: bool
    """Whether it carries a checksum of ours, which then matches."""


def write_content(path: Path, tensors: Mapping[str, Tensor], strings: Mapping[str, str]) -> AdapterFile:
    """Write a file aside, flush it to the disk, then rename it into place; the folder is made if needed.

    The same tensors and strings give the same bytes. Raises AdapterError for numbers that are not finite, VolumeError
    when the disk refuses.
    """
    for key, what in unsound_numbers(tensors).items():
        raise _unsound(path, f"{what} in {key}")
    own = {key: text for key, text in strings.items() if key not in (_CHECKSUM, _FORMAT)}
    content = _serialize({name: tensors[name].contiguous() for name in sorted(tensors)}, own)
    write_whole(path, content)
    return AdapterFile(path, hashlib.sha256(content).hexdigest(), len(content))


def read_content(path: Path, *, sha256: str | None = None) -> Content:
    """Read a file whose container is sound. With `sha256`, its bytes must be the recorded ones.

    The bytes that are checked are the bytes that are used. What the tensors mean, and whether they are finite, is not
    looked at. Raises AdapterError naming the file and what is wrong with it.
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
    # Bytes that are the recorded ones need no second proof.
    if sha256 is None and _CHECKSUM in strings and strings[_CHECKSUM] != _checksum(tensors, strings):
        raise _unsound(path, "is damaged: its content does not match the checksum it carries")
    # The library gives tensors in an order of its own, another one in every process.
    ordered = {key: tensors[key] for key in sorted(tensors)}
    return Content(AdapterFile(path, found, len(content)), ordered, strings, _CHECKSUM in strings)


def unsound_numbers(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensors that are not made of finite floating-point numbers: key -> what is wrong. A whole alpha is sound."""
    found = {}
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() and not key.endswith(".alpha"):
            found[key] = f"holds {tensor.dtype} numbers"
        elif not _finite(tensor):
            found[key] = f"holds NaN or infinite {tensor.dtype} numbers"
    return found


def _finite(tensor: Tensor) -> bool:
    """One pass and no copy: a NaN is both the smallest and the largest number. Types of 8 bits are widened first."""
    if tensor.numel() == 0:
        return True
    low, high = (tensor.float() if tensor.element_size() == 1 else tensor).aminmax()
    return bool(low.isfinite() & high.isfinite())


def _serialize(tensors: Mapping[str, Tensor], strings: Mapping[str, str]) -> bytes:
    """safetensors with sorted metadata: the library writes it in a different order in every process."""
    plain = safetensors.torch.save(dict(tensors))
    (length,) = struct.unpack("<Q", plain[:8])
    entries = json.loads(plain[8 : 8 + length])
    marked = {**strings, _FORMAT: "pt", _CHECKSUM: _checksum(tensors, strings)}
    metadata = {"__metadata__": dict(sorted(marked.items()))}
    header = json.dumps(metadata | entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + plain[8 + length :]


def _checksum(tensors: Mapping[str, Tensor], strings: Mapping[str, str]) -> str:
    """sha256 over every metadata string and every tensor (name, dtype, shape, bytes)."""
    total = hashlib.sha256()
    covered = {key: text for key, text in strings.items() if key not in (_CHECKSUM, _FORMAT)}
    total.update(json.dumps(covered, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


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


def _unsound(path: Path, what: str, *, fix: str = _REPLACE) -> AdapterError:
    return AdapterError(what, where=str(path), fix=fix)
