"""Text out of files, made safe to print: a file's own words must not steer the terminal."""

from __future__ import annotations


def printable(text: str, *, limit: int = 0) -> str:
    """`text` with everything a terminal could obey written out (\\x1b), on one line, cut to `limit` characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"{shown[: limit - 1]}…" if limit and len(shown) > limit else shown


def size(count: int) -> str:
    """Bytes in the unit people say: 11.5 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
