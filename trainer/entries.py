"""The files a cache consists of, for whoever carries them to another machine. Torch-free.

An entry says itself what it is: its name is its key, and it holds that key and a checksum of its numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"(?:latents|text)/([0-9a-f]{2})/\1[0-9a-f]{30}\.safetensors")


def is_entry_name(name: str) -> bool:
    """Whether a path, relative to the cache's folder and with forward slashes, can be an entry's."""
    return _NAME.fullmatch(name) is not None


def entry_names(cache: Path) -> Iterator[str]:
    """Entries that are there, in the order of their names, relative to the cache's folder."""
    for path in sorted(cache.glob("*/??/*.safetensors")):
        if is_entry_name(name := path.relative_to(cache).as_posix()):
            yield name


def is_sound(name: str, content: bytes) -> bool:
    """Whether an entry bears out its own name and checksum, as `trainer/tensor_files.py` wrote them."""
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        key, _ = header["__metadata__"]["about"].split(" ", 1)
        checksum = header["__metadata__"]["about"].rsplit(" ", 1)[1]
        (tensor,) = (value for tensor, value in header.items() if tensor != "__metadata__")
        first, end = tensor["data_offsets"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False
    whole = first == 0 and len(content) == start + end
    return whole and f"/{key}." in name and hashlib.sha256(content[start:]).hexdigest() == checksum
