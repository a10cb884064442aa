"""Pictures as PNG bytes, with their settings where image viewers and A1111-style tools look for them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from orchestrator.core.study import Drawing

if TYPE_CHECKING:
    from torch import Tensor


def png_bytes(pixels: Tensor, text: Mapping[str, str]) -> bytes:
    """(3, H, W) in [-1, 1] as a PNG with these text fields; `parameters` is where tools look for the settings."""
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return image_bytes(Image.fromarray(np.ascontiguousarray(levels)), text)


def image_bytes(image: Image.Image, text: Mapping[str, str]) -> bytes:
    """A picture as a PNG with these text fields."""
    fields = PngInfo()
    for name, value in text.items():
        fields.add_text(name, value)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=fields, compress_level=4)
    return stream.getvalue()


def parameters_text(prompt: str, negative: str, seed: int, drawing: Drawing, more: Mapping[str, object]) -> str:
    """A1111's form: the prompt, a line `Negative prompt: ...`, and one line of `Name: value` pairs with `more` last."""
    facts: dict[str, object] = {
        "Steps": drawing.steps,
        "Sampler": drawing.sampler,
        "Schedule type": drawing.schedule,
        "CFG scale": drawing.cfg,
        "Seed": seed,
        "Size": f"{drawing.width}x{drawing.height}",
        **more,
    }
    pairs = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in facts.items())
    return f"{prompt}\nNegative prompt: {negative}\n{pairs}"


def _quoted(value: str) -> str:
    """A value that holds a separator of the line is written as a JSON string."""
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in ',:"\n') else value
