"""The nouns of a study, as values that travel between processes. No torch, no ray, no I/O.

A Study trains Trials; a Trial saves Checkpoints; a Checkpoint, a weight, a Prompt and a seed make a Cell; the image
drawn there is a Sample; a judge's Findings on it make a Verdict; verdicts make the Choice.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from hashlib import sha256
from typing import Any, Literal, Self, TypeVar, cast

ENGINE_NUMERICS = 3
"""Raised whenever cells would come out as different pixels on the same device; it is a part of every key.

3: drawn by `anima/denoiser.py`, four pictures a pass, on a CPU by one thread each; under bf16 the text conditioner's
rotary frequencies stay fp32. That is every cell: where 2 changed some and kept the keys of the others, 3 has one rule.
"""

Outcome = Literal["pass", "fail", "unscored"]

Role = Literal["rate", "control", "probe"]
"""What a prompt is for: the rate an epoch is chosen by, or only to be looked at beside it."""

FindingKind = Literal["missing", "absorbed", "migrated", "duplicated", "drift", "count", "leak"]
COUNTED_KINDS: tuple[FindingKind, ...] = ("missing", "absorbed", "migrated", "duplicated", "drift", "count")
"""What a picture that counts in a rate can fail by."""
FINDING_KINDS: tuple[FindingKind, ...] = (*COUNTED_KINDS, "leak")
"""All there are: `leak` is found in controls only, which count in no rate."""


@dataclass(frozen=True, slots=True)
class Record:
    """A value that can be written as JSON and read back; unknown keys of newer writers are ignored."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, ready for `json.dumps`."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        known = cls.__dataclass_fields__
        return cls(**{k: v for k, v in data.items() if k in known})

    def __reduce__(self) -> tuple[Any, ...]:
        """Values travel between processes by the thousand; this is several times faster than what dataclasses do."""
        return type(self), tuple(getattr(self, name) for name in self.__dataclass_fields__)


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


_R = TypeVar("_R", bound=Record)


def _read_shared(kind: type[_R], data: Mapping[str, Any]) -> _R:
    """One object for all cells of a grid that say the same: a study has thousands of cells and few prompts."""
    values = tuple([tuple(v) if type(v) is list else v for v in data.values()])
    # 1 and 1.0 are equal, and yet not the same in a key.
    return cast(_R, _shared(cast(Any, kind), tuple(data), values, tuple(map(type, values))))


@lru_cache(maxsize=1024)
def _shared(kind: type[Record], names: tuple[str, ...], values: tuple[Any, ...], _types: tuple[type, ...]) -> Record:
    return kind.from_json(dict(zip(names, values, strict=True)))


@dataclass(frozen=True, slots=True)
class Checkpoint(Record):
    """A saved epoch. `adapter` is its LoRA file relative to the study folder."""

    trial: str
    epoch: int
    adapter: str
    sha256: str
    size_bytes: int
    step: int
    loss: float
    """Mean training loss over the epoch."""
    exposures_per_image: float
    seconds: float
    """Training time of this epoch alone."""


@dataclass(frozen=True, slots=True)
class Prompt(Record):
    """A prompt as it is sent, and whom it should show from left to right."""

    name: str
    text: str
    cast: tuple[str, ...]
    negative: str = ""
    role: Role = "rate"
    """A `control` shows what happens without the adapter or its triggers; a `probe` asks for something unusual."""
    ordered: bool = True
    """Whether the cast stands in its order, from left to right; otherwise anybody may stand anywhere."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cast", tuple(self.cast))

    @property
    def calls_nobody(self) -> bool:
        """Whether it is a control without triggers: whoever is drawn is a stranger."""
        return self.role == "control" and not self.cast


@dataclass(frozen=True, slots=True)
class Drawing(Record):
    """How every cell of a grid is drawn: what is not an axis of the grid."""

    sampler: Literal["er_sde", "euler"] = "er_sde"
    steps: int = 8
    cfg: float = 1.0
    shift: float = 3.0
    width: int = 1024
    height: int = 1024
    schedule: Literal["simple", "linspace"] = "simple"
    """Which sigmas: ComfyUI's `simple`, or diffusers' shifted linspace; equal where `steps` divides 1000."""
    noise: Literal["keyed", "comfyui"] = "keyed"
    """Noise of each step: a function of seed and step alone, or ComfyUI's sequence, which differs between devices."""
    compile: bool = False
    """Whether the transformer's pass is compiled: fused sums round otherwise, so last bits are others."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; `compile` is said where it is on, so that what was written before it existed reads the same."""
        facts = Record.to_json(self)
        return facts if self.compile else {name: value for name, value in facts.items() if name != "compile"}


class _Keyed(Record):
    """Room to remember the key: it is asked for often, and takes a hash to make."""

    __slots__ = ("_key",)
    _key: str


@dataclass(frozen=True, slots=True)
class ConstantAdapter(Record):
    """An adapter that every cell of a grid is drawn with, beside the one that is judged."""

    name: str
    """For people: its file's name."""
    sha256: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Cell(_Keyed):
    """One coordinate of the grid. Two cells with the same key are the same picture."""

    trial: str
    epoch: int
    adapter: str
    """Its file relative to the study folder; empty for the base alone, whose cells belong to no trial."""
    adapter_sha256: str
    weight: float
    prompt: Prompt
    seed: int
    drawing: Drawing
    base_sha256: str
    purpose: Literal["select", "confirm", "show"] = "select"
    """`confirm` cells use fresh seeds on the adopted epoch and take no part in choosing it; `show` cells, which are
    those of controls and probes, take part in no rate at all."""
    with_adapters: tuple[ConstantAdapter, ...] = ()

    @property
    def key(self) -> str:
        """Hash of everything that changes the pixels."""
        try:
            return self._key
        except AttributeError:
            object.__setattr__(self, "_key", _cell_key(self))
            return self._key

    def __hash__(self) -> int:
        return hash(self.key)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        known = cls.__dataclass_fields__
        kept = {k: v for k, v in data.items() if k in known}
        # A thousand cells say the same of these, and each line that is read brings its own copy.
        for name in ("trial", "adapter", "adapter_sha256", "base_sha256"):
            kept[name] = sys.intern(kept[name])
        kept["prompt"] = _read_shared(Prompt, data["prompt"])
        kept["drawing"] = _read_shared(Drawing, data["drawing"])
        kept["with_adapters"] = tuple(ConstantAdapter.from_json(used) for used in data.get("with_adapters", ()))
        return cls(**kept)


def _cell_key(cell: Cell) -> str:
    """The first half of the sha256 over canonical JSON: names in order, no spaces."""
    words = (cell.prompt.text, cell.prompt.negative)
    head = _key_head(cell.adapter_sha256, cell.base_sha256, cell.drawing, *words, cell.with_adapters)
    tail = f'"seed":{_number(cell.seed)},"weight":{_number(cell.weight)}}}'
    return sha256(head + tail.encode()).hexdigest()[:16]


@lru_cache(maxsize=4096, typed=True)
def _number(value: float) -> str:
    return json.dumps(value, allow_nan=False)


@lru_cache(maxsize=4096)
def _key_head(
    adapter: str, base: str, drawing: Drawing, text: str, negative: str, along: tuple[ConstantAdapter, ...]
) -> bytes:
    """All but the two names that come last, seed and weight."""
    facts: dict[str, Any] = {
        "adapter": adapter,
        "base": base,
        "drawing": _drawing_facts(drawing),
        "negative": negative,
        "numerics": ENGINE_NUMERICS,
        "prompt": text,
    }
    if along:
        facts["along"] = [[used.sha256, used.weight] for used in along]
    head = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return (head.removesuffix("}") + ",").encode()


def _drawing_facts(drawing: Drawing) -> dict[str, Any]:
    """Without choices at their default that keys of older studies do not hold: it is the same picture."""
    later = {f.name: f.default for f in fields(Drawing) if f.name in ("schedule", "noise", "compile")}
    return {name: value for name, value in asdict(drawing).items() if name not in later or value != later[name]}


@dataclass(frozen=True, slots=True)
class Sample(Record):
    """A drawn cell. `image` is relative to the study folder; its sidecar has the same name with `.json`."""

    cell_key: str
    image: str
    sha256: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """One observation that speaks against an image.

    missing: an attribute of `character` is not there; absorbed: `character`'s place shows `seen` (another of the cast);
    migrated: the attribute left her and is on `other`; duplicated: it is on her and on `other`; drift: a colour moved
    to `seen`; count: `seen` people instead of `expected`; leak: a stranger, `other`, has it, whom nobody called her.
    """

    kind: FindingKind
    character: str = ""
    attribute: str = ""
    expected: str = ""
    seen: str = ""
    other: str = ""
    position: int = -1
    """Place from the left, 0-based; -1 for the whole image."""
    confidence: float = 1.0

    def leaked(self) -> str:
        """What leaked and whose it is: `kanachan's accessory (blue scrunchie)`."""
        what = "looks" if self.attribute == "identity" else self.attribute
        return f"{self.character}'s {what}" + (f" ({self.expected})" if self.expected not in ("", "yes") else "")

    def sentence(self) -> str:
        """The finding in plain words."""
        if self.kind == "leak":
            return f"{self.other} has {self.leaked()}"
        if self.attribute == "identity" and self.kind == "missing":
            return f"{self.character} is not there ({self.expected})"
        if self.attribute == "identity" and self.kind == "duplicated":
            return f"{self.character} is there twice ({self.expected})"
        mark = self.attribute if self.expected in ("", "yes") else f"{self.attribute} ({self.expected})"
        if self.kind == "count":
            return f"{self.seen} people instead of {self.expected}"
        if self.kind == "absorbed":
            return f"{self.character} is drawn as {self.seen}"
        if self.kind == "migrated":
            return f"{self.character}'s {mark} moved to {self.other}"
        if self.kind == "duplicated":
            return f"{self.character}'s {mark} is also on {self.other}"
        if self.kind == "drift":
            is_or_are = "are" if self.attribute == "eyes" else "is"
            return f"{self.character}'s {self.attribute} {is_or_are} {self.seen}, not {self.expected}"
        return f"{self.character} has no {mark}; seen: {self.seen or 'nothing'}"


@dataclass(frozen=True, slots=True)
class Verdict(Record):
    """What one judge says of one sample. `unscored` is a fact of its own: neither pass nor fail."""

    cell_key: str
    judge: str
    judge_version: int
    outcome: Outcome
    findings: tuple[Finding, ...] = ()
    seen: tuple[str, ...] = ()
    """Each figure read out in words, from left to right: colours are never left to the eye."""
    reason: str = ""
    """Why an image could not be scored."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        known = cls.__dataclass_fields__
        kept = {k: v for k, v in data.items() if k in known}
        kept["findings"] = tuple(Finding.from_json(f) for f in data.get("findings", ()))
        kept["seen"] = tuple(data.get("seen", ()))
        return cls(**kept)


@dataclass(frozen=True, slots=True)
class EpochRate(Record):
    """Passes over scored images of one (trial, epoch, weight), with a Wilson 95 % interval."""

    trial: str
    epoch: int
    weight: float
    passes: int
    scored: int
    unscored: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class StopAdvice(Record):
    """Why training a trial further is not worth it, and what not training it saves. Given when `epoch` was saved."""

    trial: str
    epoch: int
    best_epoch: int
    chance: float
    """Probability that the best epoch is behind."""
    epochs_left: int
    hours: float
    """What these would take, at the pace of the epochs so far."""
    dollars: float | None
    """What these hours would cost; None when nobody said what an hour costs."""
    reason: str

    def saving(self) -> str:
        """What is saved, in words."""
        spent = f"{self.hours:.1f} hours" if self.hours >= 2 else f"{60 * self.hours:.0f} minutes"
        price = "" if self.dollars is None else f" and ${self.dollars:.2f}"
        return f"{self.epochs_left} epochs, {spent}{price}"


@dataclass(frozen=True, slots=True)
class Choice(Record):
    """The adopted epoch and the evidence. `first_try_rate`, `interval` and `n` come from fresh seeds."""

    trial: str
    epoch: int
    weight: float
    adapter: str
    adapter_sha256: str
    first_try_rate: float
    interval: tuple[float, float]
    n: int
    plateau: tuple[int, int]
    """First and last epoch of the plateau."""
    selection: EpochRate
    """The rate that made it chosen: optimistic, because the best of many was taken."""
    reason: str
    runner_up: EpochRate | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        known = cls.__dataclass_fields__
        kept = {k: v for k, v in data.items() if k in known}
        kept["selection"] = EpochRate.from_json(data["selection"])
        kept["runner_up"] = EpochRate.from_json(data["runner_up"]) if data.get("runner_up") else None
        kept["interval"], kept["plateau"] = tuple(data["interval"]), tuple(data["plateau"])
        return cls(**kept)
