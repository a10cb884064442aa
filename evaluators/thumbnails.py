"""Small pictures for pages, kept beside the large ones they show. They are made when a page first needs them."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from orchestrator.core.files import write_whole

LONGEST = 256
"""Pixels along the longer side. Pictures that are no larger stand for themselves."""


def thumbnail_of(picture: Path) -> Path | None:
    """The file that shows a picture small: `<name>.webp` beside it, or itself; None when it cannot be read."""
    small = picture.with_suffix(".webp")
    try:
        if small.is_file() and small.stat().st_mtime_ns >= picture.stat().st_mtime_ns:
            return small
        with Image.open(picture) as image:
            if max(image.size) <= LONGEST:
                image.verify()
                return picture
            shown = image.convert("RGB")
    except (OSError, SyntaxError, UnidentifiedImageError):
        return None
    shown.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    shown.save(stream, "WEBP", quality=80, method=4)
    write_whole(small, stream.getvalue())
    return small
