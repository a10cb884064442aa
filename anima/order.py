"""What a person orders from `python -m anima draw`, checked before anything heavy is loaded. No torch."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anima.base import POCKET, missing_parts
from anima.prompt import read_prompt
from orchestrator.core.errors import ConfigError, MissingError
from orchestrator.core.study import Drawing

POCKET_DRAWING = Drawing(steps=12, cfg=1.0, width=96, height=64)
REAL_DRAWING = Drawing(steps=30, cfg=4.0, width=1024, height=1024)
"""The model's published recipe; an adapter that makes it fast (Turbo) wants 8 steps and cfg 1."""
REAL_NEGATIVE = "worst quality, low quality, score_1, score_2, score_3, blurry, jpeg artifacts, sepia"

CHOICES: Mapping[str, tuple[str, ...]] = {
    "sampler": ("er_sde", "euler"),
    "schedule": ("simple", "linspace"),
    "noise": ("keyed", "comfyui"),
    "device": ("auto", "cpu", "cuda"),
}
OUT = Path("pictures")
A_BASE = "a folder in diffusers layout, hf://owner/model, or a YAML file that names its sources"
MOST_SEEDS = 10_000
_SEED_END = 2**64


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """A LoRA file and the strength it is applied with. `sha256`, if known, is what the file must be."""

    path: Path
    weight: float = 1.0
    sha256: str | None = None

    @property
    def name(self) -> str:
        """What people call it: the file's name, or its folder's where every file is called adapter.safetensors."""
        return self.path.parent.name if self.path.stem == "adapter" and self.path.parent.name else self.path.stem


@dataclass(frozen=True, slots=True)
class Order:
    """Every prompt with every seed, all drawn the same way."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    negative: str
    drawing: Drawing
    adapters: tuple[AdapterUse, ...]
    base: str
    """As it was named, by `--base` or by a sidecar."""
    folder: Path
    """Where it is on this machine."""
    out: Path
    batch: int
    """Pictures per forward pass; the last batch is filled up, because its size decides the last bits."""
    device: str = "auto"
    threads: int = 0
    base_sha256: str | None = None
    """What the base must be for the picture to come out again, if that is known."""


def check(order: Order) -> None:
    """Raise what would stop the drawing later: ConfigError for a setting, MissingError for a file that is not there."""
    drawing = order.drawing
    if not order.prompts:
        raise ConfigError("nothing to draw", fix="give a prompt, like: python -m anima draw '1girl, blue hair'")
    for text in (*order.prompts, order.negative):
        read_prompt(text)
    if not 1 <= drawing.steps <= 1000:
        raise ConfigError(f"steps must be 1 to 1000, not {drawing.steps}", where="--steps")
    if not (math.isfinite(drawing.cfg) and drawing.cfg >= 1):
        raise ConfigError(f"cfg must be at least 1, not {drawing.cfg}", where="--cfg")
    if not (math.isfinite(drawing.shift) and drawing.shift > 0):
        raise ConfigError(f"shift must be above 0, not {drawing.shift}", where="--shift")
    if order.batch < 1:
        raise ConfigError(f"a batch holds at least 1 picture, not {order.batch}", where="--batch")
    if order.threads < 0:
        raise ConfigError(f"threads must be 0 (all) or more, not {order.threads}", where="--threads")
    _check_base(order)
    for adapter in order.adapters:
        check_adapter(adapter.path)
    _check_size(drawing.width, drawing.height, order.folder)


def recommended(folder: Path) -> tuple[Drawing, str, int]:
    """How this base is drawn if nobody says otherwise: drawing, negative prompt, batch."""
    if folder.resolve() == POCKET.resolve():
        return POCKET_DRAWING, "", 4
    return REAL_DRAWING, REAL_NEGATIVE, 1


def choose(kind: str, value: str) -> str:
    """`value`, if it is one of the CHOICES of its kind; else a ConfigError with the nearest."""
    known = CHOICES[kind]
    if value in known:
        return value
    near = difflib.get_close_matches(value.lower().replace("-", "_"), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"unknown {kind} {value!r}", where=f"--{kind}", fix=f"{hint}known: {', '.join(known)}")


def read_seeds(text: str) -> tuple[int, ...]:
    """`1-8,42` as (1, ..., 8, 42), each once."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = (side.strip() for side in part.strip().partition("-"))
        if not _is_number(first) or (dash and not _is_number(last)) or (dash and int(last) < int(first)):
            raise ConfigError(
                f"cannot read {part.strip()!r}", where="--seeds", fix="write numbers and rising ranges, like 1-8,42"
            )
        begin, end = int(first), int(last if dash else first) + 1
        if end > _SEED_END:
            raise ConfigError(f"{part.strip()} is too large", where="--seeds", fix="seeds are 0 to 2^64 - 1")
        if len(seeds) + end - begin > MOST_SEEDS:
            raise ConfigError(f"{text!r} is more than {MOST_SEEDS} seeds", where="--seeds", fix="draw them in parts")
        seeds |= dict.fromkeys(range(begin, end))
    return tuple(seeds)


def read_size(text: str) -> tuple[int, int]:
    """`96x64` as (96, 64); one number is a square."""
    sides = [side.strip() for side in text.lower().replace("×", "x").split("x")]
    if len(sides) not in (1, 2) or not all(_is_number(side) and int(side) for side in sides):
        raise ConfigError(f"cannot read {text!r}", where="--size", fix="write width x height in pixels, like 1024x1024")
    return int(sides[0]), int(sides[-1])


def read_adapter_use(text: str) -> AdapterUse:
    """`path:weight`, or a path alone for weight 1."""
    path, _, number = text.rpartition(":")
    try:
        weight = float(number) if path else None
    except ValueError:
        weight = None
    if weight is None:
        return AdapterUse(Path(text).expanduser())
    if not math.isfinite(weight):
        raise ConfigError(f"weight {number} is not finite", where=f"--adapter {text}", fix="write a number, like 0.8")
    return AdapterUse(Path(path).expanduser(), weight)


def order_like(sidecar: Path, folder_of: Callable[[str], Path]) -> Order:
    """The order of one picture, from the JSON file beside it (or from the picture's own path).

    `folder_of` says where the base of a name is.
    """
    path = sidecar.with_suffix(".json")
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Order(
            prompts=(str(facts["prompt"]),),
            seeds=(int(facts["seed"]),),
            negative=str(facts["negative"]),
            drawing=Drawing.from_json(facts["drawing"]),
            adapters=tuple(
                AdapterUse(Path(used["path"]), float(used["weight"]), str(used["sha256"])) for used in facts["adapters"]
            ),
            base=str(facts["base"]),
            folder=folder_of(str(facts["base"])),
            out=OUT,
            batch=int(facts["batch"]),
            threads=int(facts["threads"]),
            base_sha256=str(facts["base_sha256"]),
        )
    except OSError as error:
        raise MissingError(
            f"cannot be read ({error.strerror})", where=str(path), fix="give a picture that `draw` made"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("is no sidecar of `draw`", where=str(path), fix="give a picture that `draw` made") from error


def with_drawing(drawing: Drawing, changes: Mapping[str, Any]) -> Drawing:
    """`drawing` with every change that is not None."""
    return replace(drawing, **{name: value for name, value in changes.items() if value is not None})


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt per line; empty lines are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError(f"cannot be read as text ({error})", where=str(path), fix="one prompt per line") from error
    return tuple(line.strip() for line in lines if line.strip())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _check_base(order: Order) -> None:
    folder = order.folder
    if not folder.is_dir():
        raise MissingError("there is no base model", where=str(folder), fix=f"write --base pocket, {A_BASE}")
    if missing := missing_parts(folder):
        raise MissingError(
            f"the base model is incomplete: no {', '.join(missing)}", where=str(folder), fix="fetch the folder whole"
        )


def check_adapter(path: Path) -> None:
    """Raise MissingError where there is no such file, with the nearest name that is there."""
    if path.is_file():
        return
    beside = path if path.is_dir() else path.parent
    files = sorted(file.name for file in beside.glob("*.safetensors"))
    near = files[:1] if path.is_dir() else difflib.get_close_matches(path.name, files, n=1)
    fix = f"did you mean {beside / near[0]}?" if near else "give the path of a .safetensors file"
    raise MissingError("is a folder" if path.is_dir() else "there is no such adapter", where=str(path), fix=fix)


def _check_size(width: int, height: int, folder: Path) -> None:
    """Each side must be whole patches of latent cells, and not more than the transformer has positions for."""
    transformer, vae = (_config(folder / part / "config.json") for part in ("transformer", "vae"))
    cell = 2 ** len(vae["temperal_downsample"])
    patches = max(size // patch for size, patch in zip(transformer["max_size"], transformer["patch_size"], strict=True))
    for name, side, axis in (("height", height, 1), ("width", width, 2)):
        multiple = cell * int(transformer["patch_size"][axis])
        most = multiple * int(patches)
        if side % multiple or side > most:
            near = min(max(round(side / multiple), 1) * multiple, most)
            rule = f"divisible by {multiple}" if side % multiple else f"at most {most}"
            raise ConfigError(f"{name} {side} must be {rule}", where="--size", fix=f"the nearest is {near}")


def _config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text())
    return config
