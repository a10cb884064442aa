"""The header of a safetensors file: what is in it, read without its data and without torch.

Anything else than a whole safetensors file is refused in one line, a pickle by its name and by its first bytes: reading
a pickle runs code of whoever made it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from anima.base import PICKLE_SUFFIXES
from orchestrator.core.errors import MissingError, WeightsError

_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")
"""Of a plain pickle (protocol 2 and later), and of the zip that torch.save writes."""
GET_SAFETENSORS = "give the model's .safetensors file"


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file: its kind (`BF16`, `F16`, `F32`, ...) and shape."""

    kind: str
    shape: tuple[int, ...]


def refuse_pickle_name(name: str, *, where: str = "") -> None:
    """Raises WeightsError for the name of a file in one of the pickle formats."""
    if Path(name).suffix.lower() in PICKLE_SUFFIXES:
        raise WeightsError(
            "is a pickle, which runs its maker's code when it is read", where=where or name, fix=GET_SAFETENSORS
        )


def read_header(path: Path, *, shown: str = "") -> Mapping[str, Stored]:
    """Every tensor of a file by its key. `shown` is how errors name the file.

    Raises MissingError when there is no file; WeightsError when it is empty, cut short, a pickle or not safetensors.
    """
    shown = shown or str(path)
    refuse_pickle_name(shown)
    if not path.is_file():
        raise MissingError("there is no such file", where=shown, fix="correct the path, or fetch the file")
    size = path.stat().st_size
    if size == 0:
        raise WeightsError("the file is empty (0 bytes)", where=shown, fix="fetch it again")
    try:
        with safe_open(path, framework="np") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return {key: Stored(s.get_dtype(), tuple(s.get_shape())) for key, s in slices.items()}
    except SafetensorError as error:
        with path.open("rb") as stream:
            # Only now: the length that begins a sound file can be any bytes, these too.
            pickled = stream.read(4).startswith(_PICKLE_STARTS)
        if pickled:
            what = "is a pickle under the name of a safetensors file; it is not read"
            raise WeightsError(what, where=shown, fix=GET_SAFETENSORS) from error
        raise WeightsError(_what_is_wrong(path, size, str(error)), where=shown, fix="fetch it again") from error


def _what_is_wrong(path: Path, size: int, said: str) -> str:
    """Why the library would not read it; a file that ends early is told by its own header."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(min(length, size)))
            end = 8 + length + max(t["data_offsets"][1] for name, t in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return f"is not a safetensors file ({said.removeprefix('Error while deserializing header: ')})"
    return f"is {size:,} bytes long, but its header counts {end:,}: it was cut short or appended to"
