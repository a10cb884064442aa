"""How a prompt is written: ComfyUI's weights, `(words:1.2)`, and its escapes, `\\(` and `\\)`.

A group in parentheses has the weight after its last colon, or 1.1 times the weight around it where there is no number;
a written weight replaces the weights around it. Groups nest. Parentheses that open or close nothing are text. Captions
of a dataset are not prompts: they mean what they say, parentheses included.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from orchestrator.core.errors import ConfigError

EMPHASIS = 1.1
"""What a pair of parentheses without a number multiplies the weight by."""

_ESCAPED = str.maketrans({"\x00": "(", "\x01": ")"})


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text with one weight: the factor of its rows of the conditioning."""

    text: str
    weight: float = 1.0


def read_prompt(prompt: str) -> tuple[Segment, ...]:
    """The segments of a prompt in order, none of them empty; no segments for an empty prompt.

    Each segment is tokenized by itself. Raises ConfigError for a weight that is not a finite number.
    """
    escaped = prompt.replace("\\(", "\x00").replace("\\)", "\x01")
    pending = deque((piece, 1.0) for piece in _pieces(escaped))
    segments: list[Segment] = []
    while pending:
        piece, weight = pending.popleft()
        if len(piece) >= 2 and piece[0] == "(" and piece[-1] == ")":
            inner, weight = _group(piece[1:-1], weight)
            pending.extendleft((part, weight) for part in reversed(_pieces(inner)))
        else:
            segments.append(Segment(piece.translate(_ESCAPED), weight))
    return tuple(segments)


def literal(text: str) -> tuple[Segment, ...]:
    """A caption as segments: all of it, with weight 1."""
    return (Segment(text),) if text else ()


def _pieces(text: str) -> list[str]:
    """Cut at the groups of the outermost level: what is between them, and each group with its parentheses."""
    pieces: list[str] = []
    start = depth = 0
    for place, sign in enumerate(text):
        if sign == "(":
            if depth == 0:
                pieces.append(text[start:place])
                start = place
            depth += 1
        elif sign == ")":
            # A parenthesis that closes nothing leaves the level below zero: the next one that opens is text too.
            depth -= 1
            if depth == 0:
                pieces.append(text[start : place + 1])
                start = place + 1
    pieces.append(text[start:])
    return [piece for piece in pieces if piece]


def _group(inner: str, around: float) -> tuple[str, float]:
    """The text of a group and its weight. A colon at the very beginning is text."""
    text, colon, number = inner.rpartition(":")
    if colon and text:
        try:
            weight = float(number)
        except ValueError:
            return inner, around * EMPHASIS
        if not math.isfinite(weight):
            whole = f"({inner})".translate(_ESCAPED)
            raise ConfigError(f"the weight of {whole} is not finite", where="prompt", fix="write a number like 1.2")
        return text, weight
    return inner, around * EMPHASIS
