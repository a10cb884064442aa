"""What an exposure is trained with: which of its captions, with which tags, mirrored or not.

Every draw is a function of (seed, epoch, position) alone, so an epoch can be entered anywhere. Tags are what stands
between commas in a caption's first line; further lines are sentences and stay as they are. Torch-free.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from orchestrator.core.errors import ConfigError
from trainer.caption_files import Caption, tags_of
from trainer.config import TrainConfig
from trainer.dataset import Item, named_triggers

_SIDES = re.compile(r"\b(left|right)\b", re.I)
_ONE_SIDED = re.compile(
    r"\b(side (ponytail|braid|bun|tail)|one side up|single (braid|bun|bang|sidelock|ponytail)|over one (eye|shoulder)"
    r"|asymmetric\w*|heterochromia|eyepatch|(mole|scar|bandage|bandaid|tattoo) (under|over|on) \w+|left|right)\b",
    re.I,
)
"""Words for what a mirror moves to the other side."""


def as_written(train: TrainConfig) -> bool:
    """Whether captions are trained as they are, so that all of them are known beforehand."""
    return not train.shuffle_caption and train.tag_dropout == 0


def drawn_caption(item: Item, train: TrainConfig, triggers: Sequence[str], *, epoch: int, position: int) -> str:
    """One of the item's captions, its tags shuffled and dropped as asked."""
    rng = Random(f"{train.seed}/{epoch}/{position}/caption")
    caption = item.captions[0] if len(item.captions) == 1 else rng.choice(item.captions)
    if as_written(train):
        return caption.text
    fixed, groups, sentences = _taken_apart(caption, train.keep_tokens)
    tags = list(fixed)
    for group in groups:
        kept = [tag for tag in group if rng.random() >= train.tag_dropout or named_triggers(tag, triggers)]
        if train.shuffle_caption:
            rng.shuffle(kept)
        tags += kept
    return _put_together(tags, sentences) or caption.text


def is_mirrored(item: Item, train: TrainConfig, *, epoch: int, position: int) -> bool:
    """Whether this exposure shows the mirror image."""
    if not train.flip_augment or not may_be_mirrored(item):
        return False
    return Random(f"{train.seed}/{epoch}/{position}/mirror").random() < 0.5


def may_be_mirrored(item: Item) -> bool:
    """Not where a caption says left or right: it would be wrong of the mirror image."""
    return not any(_SIDES.search(caption.text) for caption in item.captions)


def one_sided_marks(cast: Mapping[str, Any], declared: Mapping[str, str]) -> dict[str, str]:
    """What each of the cast has on one side only: as declared, or by the words of her look."""
    marks = dict(declared)
    for name, look in cast.items():
        words = look.values() if isinstance(look, Mapping) else [look]
        found = next((m[0] for word in words if isinstance(word, str) and (m := _ONE_SIDED.search(word))), None)
        if found is not None:
            marks.setdefault(name, found)
    return marks


def check_mirroring(train: TrainConfig, marks: Mapping[str, str]) -> None:
    """Raise ConfigError where mirror images would teach a mark on both sides."""
    if train.flip_augment and not train.flip_forced and marks:
        listed = ", ".join(f"{name}'s {mark}" for name, mark in marks.items())
        raise ConfigError(
            f"flip_augment would teach {listed} on both sides",
            where="train.flip_augment",
            fix="leave it off, or set train.flip_forced if you want that",
        )


def _taken_apart(caption: Caption, keep: int) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], str]:
    """Tags in place, groups of the others, and what follows the tags (with the sign that separates it)."""
    if caption.sections is not None:
        said = caption.sections
        return said.fixed, said.groups, f", {said.sentences}" if said.sentences else ""
    first, newline, rest = caption.text.partition("\n")
    tags = tags_of(first)
    return tags[:keep], (tags[keep:],), newline + rest


def _put_together(tags: Sequence[str], sentences: str) -> str:
    return ", ".join(tags) + sentences if tags else sentences.lstrip(", \n")
