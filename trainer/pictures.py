"""Picture files: looked at before anything is trained on them, and brought to their training size.

What cannot be trained on as it was meant is refused by name, not converted on the quiet: 16-bit and CMYK pictures would
change their colours, an animation is many pictures, and a truncated file is grey where it ends. Torch-free.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"})
"""What converts to 8-bit RGB without a colour profile."""

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)


class FaultyPicture(Exception):
    """A file that cannot be trained on; `fix` says what to do about it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


@dataclass(frozen=True, slots=True)
class Picture:
    """A sound file: the hash of its bytes, and its size in pixels when it stands upright."""

    sha256: str
    width: int
    height: int


def inspect(path: Path) -> Picture:
    """Read and decode a whole file. Raises FaultyPicture for anything that cannot be trained on."""
    content = path.read_bytes()
    if not content:
        raise FaultyPicture("empty file", "replace it, or remove it with its caption")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            # `verify` reads the structure only; a truncated picture shows when its pixels are decoded.
            with Image.open(BytesIO(content)) as image:
                image.verify()
            with Image.open(BytesIO(content)) as image:
                _refuse_formats(image, content)
                image.load()
                turned = image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
                width, height = image.size[::-1] if turned else image.size
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise FaultyPicture("picture of more than 89 million pixels", "scale it down") from error
        except UnidentifiedImageError as error:
            raise FaultyPicture("unreadable picture (no known format)", "replace it") from error
        except (OSError, SyntaxError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise FaultyPicture(f"unreadable picture ({reason})", "replace it") from error
    return Picture(hashlib.sha256(content).hexdigest(), width, height)


def decode(content: bytes) -> Image.Image:
    """A sound file's pixels: upright, RGB, what is transparent on white."""
    with Image.open(BytesIO(content)) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")


def training_view(image: Image.Image, size: tuple[int, int], *, flip: bool) -> Image.Image:
    """The picture at its training size (width, height): scaled to cover it, cut to the middle, mirrored if `flip`."""
    if image.size != size:
        image = ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)
    return ImageOps.mirror(image) if flip else image


def _refuse_formats(image: Image.Image, content: bytes) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise FaultyPicture(f"animated picture ({frames} frames)", "keep the one frame you mean")
    # Pillow halves 16-bit colours while it opens them, so only the header tells.
    if image.mode.startswith(("I", "F")) or (content.startswith(_PNG) and content[24] == 16):
        raise FaultyPicture("16-bit picture", "save it with 8 bits a channel")
    if image.mode not in MODES:
        raise FaultyPicture(f"{image.mode} picture", "save it as RGB")
