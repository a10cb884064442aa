"""The pixel judge: looks at a picture of the drawn world and says whether everyone asked for is there, as herself.

It passes a picture when exactly the expected people stand there from left to right and nothing that can be seen of them
differs. What is not visible never fails a picture; a picture that cannot be read, or shows too little, is unscored.

A control without triggers shows strangers: it passes when none of the cast's marks is on them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from PIL import Image

from anima.pocket.world import ACCESSORY, ACCESSORY_KINDS, EYES, HAIR, HEIGHT, STYLES, WIDTH
from evaluators.judges.casting import SLOTS, findings_of, seated
from evaluators.judges.leaks import leaks, unsettled
from evaluators.judges.look import PIXEL_VERSION, STRANGERS_VERSION, CharacterLook
from evaluators.judges.reading import FigureReading, PictureReading, read, read_picture
from orchestrator.core.errors import ConfigError
from orchestrator.core.study import Prompt, Verdict

LEAST_EXPLAINED = 0.6
"""Share of the picture that must be figures of the drawn world."""
MOST_HIDDEN = 2
"""Attributes of one figure that may be uncertain in a picture that passes, hair colour and style not among them."""


class PixelJudge:
    """Judges pictures of `cast`: trigger word -> look. All of them are watched for, whomever a prompt names."""

    name = "pixel"
    version = PIXEL_VERSION

    def __init__(self, cast: Mapping[str, CharacterLook]) -> None:
        for name, look in cast.items():
            _check_words(name, look)
        self._cast = dict(cast)

    def read(self, image: Image.Image) -> tuple[FigureReading, ...]:
        """The figures of a picture, WIDTH x HEIGHT, from left to right."""
        return read(image)

    def judge(self, image: Image.Image, prompt: Prompt, cell_key: str) -> Verdict:
        """Pass, fail with findings, or unscored with a reason. Raises ConfigError for a stranger in the prompt."""
        for name in prompt.cast:
            if name not in self._cast:
                fix = _nearest(name, self._cast) or f"add {name} to the cast"
                what = f"prompt {prompt.name!r} shows {name!r}, whose look is unknown"
                raise ConfigError(what, where="cast", fix=fix)
        if prompt.calls_nobody:
            return replace(self._judge_strangers(image, prompt, cell_key), judge_version=STRANGERS_VERSION)
        if image.size != (WIDTH, HEIGHT):
            return self._unscored(cell_key, _wrong_size(image))
        if not prompt.cast:
            return self._unscored(cell_key, "the prompt asks for nobody of the cast")
        picture = read_picture(image)
        seen = tuple(figure.words() for figure in picture.figures)
        if reason := _unreadable(picture):
            return self._unscored(cell_key, reason, seen)
        names = prompt.cast if prompt.ordered else seated(picture.figures, prompt.cast, self._cast)
        findings = findings_of(picture.figures, names, self._cast)
        if findings:
            return Verdict(cell_key, self.name, self.version, "fail", findings, seen)
        if reason := _too_little(picture.figures, names):
            return self._unscored(cell_key, reason, seen)
        return Verdict(cell_key, self.name, self.version, "pass", (), seen)

    def _judge_strangers(self, image: Image.Image, prompt: Prompt, cell_key: str) -> Verdict:
        if image.size != (WIDTH, HEIGHT):
            return self._unscored(cell_key, _wrong_size(image))
        picture = read_picture(image)
        seen = tuple(figure.words() for figure in picture.figures)
        if reason := _unreadable(picture):
            return self._unscored(cell_key, reason, seen)
        if not picture.figures:
            return self._unscored(cell_key, "nobody is there", seen)
        if found := leaks(picture.figures, prompt.text, self._cast):
            return Verdict(cell_key, self.name, self.version, "fail", found, seen)
        for place, figure in enumerate(picture.figures, 1):
            if hidden := unsettled(figure, self._cast):
                reason = f"too little of person {place} is certain: {', '.join(hidden)} not visible"
                return self._unscored(cell_key, reason, seen)
        return Verdict(cell_key, self.name, self.version, "pass", (), seen)

    def _unscored(self, cell_key: str, reason: str, seen: tuple[str, ...] = ()) -> Verdict:
        return Verdict(cell_key, self.name, self.version, "unscored", (), seen, reason)


def _wrong_size(image: Image.Image) -> str:
    return f"the picture is {image.size[0]}x{image.size[1]}; the drawn world is {WIDTH}x{HEIGHT}"


def _unreadable(picture: PictureReading) -> str:
    if picture.explained >= LEAST_EXPLAINED or picture.is_empty:
        return ""
    return f"only {picture.explained:.0%} of the picture can be read as figures of the drawn world"


def _too_little(figures: Sequence[FigureReading], names: Sequence[str]) -> str:
    for figure, name in zip(figures, names, strict=True):
        hidden = [slot for slot in SLOTS if not getattr(figure, slot).sure]
        if len(hidden) > MOST_HIDDEN or "hair" in hidden or "style" in hidden:
            return f"too little of {name} is certain: {', '.join(hidden)} not visible"
    return ""


def _check_words(name: str, look: CharacterLook) -> None:
    """The judge can only look for what the drawn world has."""
    colour, kind = (look.accessory or "blue ribbon").split()
    said = (
        ("hair", look.hair, HAIR),
        ("style", look.style, STYLES),
        ("eyes", look.eyes, EYES),
        ("accessory", colour, ACCESSORY),
        ("accessory", kind, ACCESSORY_KINDS),
    )
    for key, word, known in said:
        if word not in known:
            fix = _nearest(word, known) or f"choose from {', '.join(known)}"
            raise ConfigError(f"the pixel judge does not know {word!r}", where=f"cast.{name}.{key}", fix=fix)


def _nearest(word: str, known: Sequence[str] | Mapping[str, object]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""
