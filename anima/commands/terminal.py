"""Numbers as commands say them."""

from __future__ import annotations


def size(count: int) -> str:
    """Bytes in the unit people say: 11.5 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
