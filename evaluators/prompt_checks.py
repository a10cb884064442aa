"""What is wrong with prompts, seen before anything is drawn: faults are refused, doubts are told. No torch.

An attribute that no caption writes is learned into the trigger. A prompt that writes it all the same splits it off: it
becomes a word like any other, and lands on whoever stands beside its owner.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from anima.prompt import read_prompt
from anima.settings import nearest
from anima.vocabulary import t5_tokenizer, unknown_words
from evaluators.config import PromptConfig
from evaluators.judges.look import CharacterLook
from orchestrator.core.errors import ConfigError

_PARTS = re.compile(r",|\bwith an?\b|\bwith\b|\band\b")


def check_cast(prompts: Iterable[PromptConfig], triggers: Collection[str]) -> None:
    """Raises ConfigError where prompts and the triggers of the cast contradict each other."""
    for prompt in prompts:
        for who in prompt.cast:
            if who not in triggers:
                raise ConfigError(
                    f"prompt {prompt.name!r} shows {who!r}, who is not in the cast",
                    where="grid.prompts",
                    fix=nearest(who, triggers),
                )
            if who not in prompt.text:
                raise ConfigError(
                    f"the text of prompt {prompt.name!r} does not name {who!r}",
                    where="grid.prompts",
                    fix="write the trigger into the text, or take it out of the prompt's cast",
                )
        if prompt.role == "control" and prompt.adapter and (named := _named(prompt.text, triggers)):
            raise ConfigError(
                f"prompt {prompt.name!r} is a control of the adapter, and names {named[0]!r}",
                where="grid.prompts",
                fix="leave triggers out, draw it without the adapter (adapter: false), or call it a probe",
            )


def look_warnings(
    prompts: Iterable[PromptConfig], cast: Mapping[str, CharacterLook], *, described: Collection[str] = ()
) -> list[str]:
    """Warnings about prompts that write what a trigger already means. Captions write the looks of the `described`, so
    their triggers do not hold them, and prompts have to say them."""
    warnings = []
    for prompt in prompts:
        for who in prompt.cast if prompt.adapter else ():
            said = [] if who in described else written_looks(prompt.text, cast[who])
            if said:
                warnings.append(
                    f"prompt {prompt.name!r} writes {', '.join(map(repr, said))}, the looks of {who}:"
                    " trigger and position alone keep characters apart"
                )
    return warnings


def word_warnings(prompts: Iterable[PromptConfig], base: Path | None) -> list[str]:
    """Warnings about words that the base's text conditioner cannot see; none without its tokenizer."""
    tokenizer = t5_tokenizer(base) if base else None
    if tokenizer is None:
        return []
    unseen = {p.name: unknown_words(read_prompt(f"{p.text} {p.negative}"), tokenizer) for p in prompts}
    return [
        f"prompt {name!r} has {', '.join(map(repr, words))}: T5 has no token for it, so it means what any unknown word"
        " means; write it in plain letters, in the captions too"
        for name, words in unseen.items()
        if words
    ]


def written_looks(text: str, look: CharacterLook) -> list[str]:
    """The stretches of a prompt that describe this look, each once, in the order of the look's parts."""
    colour, _, worn = (look.accessory or "").partition(" ")
    parts = [part.strip() for part in _PARTS.split(look.style.lower())]
    patterns = [
        rf"{_colour(look.hair)}(?:[ -]\w+){{0,2}}[ -]hair(?:ed)?",
        *(re.escape(part) for part in parts if part and part != "hair"),
        rf"{_colour(look.eyes)}[ -]eye[ds]?",
        *([rf"(?:{re.escape(colour)} )?(?:hair )?{re.escape(worn)}"] if worn else []),
        *(["ahoge"] if look.ahoge else []),
    ]
    found = (re.search(rf"\b{pattern}\b", text, re.I) for pattern in patterns)
    return list(dict.fromkeys(hit[0] for hit in found if hit))


def _colour(name: str) -> str:
    return "blonde?" if name.lower() in ("blond", "blonde") else re.escape(name)


def _named(text: str, triggers: Collection[str]) -> Sequence[str]:
    return [who for who in triggers if re.search(rf"(?<!\w){re.escape(who)}(?!\w)", text)]
