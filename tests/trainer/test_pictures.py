"""What is in a picture file: formats that would change colours or meaning are refused, the others come out upright."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.pictures import FaultyPicture, decode, inspect, training_view


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (32, 24)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def sixteen_bit() -> bytes:
    return saved(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000), "PNG")


def sixteen_bit_colour() -> bytes:
    """Pillow writes none: a PNG made by hand, one pixel of 48 bits."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    body = zlib.compress(b"\0" + b"\x12\x34" * 3)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty file"),
        (b"GIF but not really", "unreadable picture"),
        (saved(noise(), "PNG")[:-40], "unreadable picture"),
        (saved(noise(), "JPEG")[:-200], "unreadable picture"),
        (saved(noise(), "WEBP")[:-200], "unreadable picture"),
        (sixteen_bit(), "16-bit picture"),
        (sixteen_bit_colour(), "16-bit picture"),
        (saved(noise("CMYK"), "JPEG"), "CMYK picture"),
        (saved(noise(), "WEBP", save_all=True, append_images=[noise().rotate(90)]), r"animated picture \(2 frames\)"),
        (saved(noise(), "PNG", save_all=True, append_images=[noise().rotate(90)]), r"animated picture \(2 frames\)"),
    ],
)
def test_a_picture_that_cannot_be_trained_on_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(FaultyPicture, match=what) as refused:
        inspect(path)
    assert refused.value.fix


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_ordinary_pictures_are_sound(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(noise(), form))
    assert (inspect(path).width, inspect(path).height) == (32, 24)


def test_grey_palette_and_transparent_pictures_are_sound_and_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "1", "RGBA", "LA"):
        content = saved(noise(mode), "PNG")
        (tmp_path / "a.png").write_bytes(content)
        inspect(tmp_path / "a.png")
        assert decode(content).mode == "RGB"


def test_a_picture_on_its_side_stands_upright(tmp_path: Path) -> None:
    upright = Image.new("RGB", (16, 32), "white")
    upright.paste("black", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    content = saved(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    (tmp_path / "a.png").write_bytes(content)
    assert (inspect(tmp_path / "a.png").width, inspect(tmp_path / "a.png").height) == (16, 32)
    assert np.array_equal(np.asarray(decode(content)), np.asarray(upright))


def test_what_is_transparent_is_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    assert list(np.asarray(decode(saved(image, "PNG")))[0].ravel()) == [255, 0, 0, 255, 255, 255]


def test_a_training_view_covers_the_size_and_is_cut_to_its_middle() -> None:
    wide = Image.new("RGB", (64, 16), "black")
    wide.paste("white", (24, 0, 40, 16))
    view = np.asarray(training_view(wide, (16, 16), flip=False))
    assert view.shape == (16, 16, 3)
    assert view.min() == view.max() == 255


def test_a_mirrored_view_is_the_mirror_image() -> None:
    plain = np.asarray(training_view(noise(), (32, 16), flip=False))
    mirrored = np.asarray(training_view(noise(), (32, 16), flip=True))
    assert np.array_equal(mirrored, plain[:, ::-1])
    assert not np.array_equal(mirrored, plain)


def test_scaling_down_keeps_the_mean_of_fine_detail() -> None:
    """A high-quality filter averages; dropping lines would give black or white."""
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[::2] = 255
    view = np.asarray(training_view(Image.fromarray(stripes), (16, 16), flip=False), dtype=float)
    assert abs(view[4:12, 4:12].mean() - 127.5) < 6
