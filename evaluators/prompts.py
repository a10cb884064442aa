"""Prompts as data: formats and layouts people compare, filled from the cast.

A prompt is written out as `text`, with `{variables}` for the cast, or composed from a `format`. What comes out is the
exact string that is sent and that every sidecar records. Formats follow what people type into ComfyUI:

    trigger      kanachan, keichan
    tags         2girls, kanachan, keichan, side by side, white background
    sentence     two girls, a girl named kanachan and a girl named keichan, side by side, white background
    positional   2girls, left side: kanachan, right side: keichan, side by side, white background
    json         {"scene": "side by side, white background", "left_character": {...}, ..., "rule": "..."}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Literal

Format = Literal["trigger", "tags", "sentence", "positional", "json"]
Layout = Literal["side by side", "touching", "depth"]

PLACES: Mapping[int, tuple[str, ...]] = {
    1: ("center",),
    2: ("left", "right"),
    3: ("left", "center", "right"),
    4: ("far left", "left", "right", "far right"),
    5: ("far left", "left", "center", "right", "far right"),
}
"""Where each of a cast stands, from left to right."""
_NUMBERS = ("no", "one", "two", "three", "four", "five")
_LAYOUTS: Mapping[Layout, str] = {
    "side by side": "side by side",
    "touching": "hugging",
    "depth": "one behind the other",
}
_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z_0-9]*|[0-9]+)\}")


def compose(
    form: Format,
    cast: Sequence[str],
    *,
    layout: Layout | None = None,
    add: Sequence[str] = (),
    sentence: str = "",
) -> str:
    """One prompt of a format. `cast`: triggers from left to right, one to five; `add`: tags for everything else;
    `sentence`: plain words after the tags.

    Nothing but triggers, places, `add` and `sentence` is written: a look that is described comes off its owner.
    """
    if sentence and form == "json":
        return json.dumps(
            {**json.loads(compose(form, cast, layout=layout, add=add)), "description": sentence}, ensure_ascii=False
        )
    if sentence:
        return f"{compose(form, cast, layout=layout, add=add)}. {sentence}"
    count, places = len(cast), PLACES[len(cast)]
    stance = [_LAYOUTS[layout]] if layout and count > 1 else []
    rest = [*stance, *add]
    match form:
        case "trigger":
            return ", ".join([*cast, *rest])
        case "tags":
            head = [cast[0], count_tag(1), "solo"] if count == 1 else [count_tag(count), *cast]
            return ", ".join([*head, *rest])
        case "sentence":
            named = " and ".join(f"a girl named {trigger}" for trigger in cast)
            return ", ".join([named if count == 1 else f"{_NUMBERS[count]} girls, {named}", *rest])
        case "positional":
            if count == 1:
                return compose("tags", cast, add=add)
            placed = [
                f"{place if place == 'center' else f'{place} side'}: {trigger}"
                for place, trigger in zip(places, cast, strict=True)
            ]
            return ", ".join([count_tag(count), *placed, *rest])
        case "json":
            characters = {
                f"{place.replace(' ', '_')}_character": {"name": trigger, "lora_trigger": trigger, "position": place}
                for place, trigger in zip(places, cast, strict=True)
            }
            rule = f"exactly {_NUMBERS[count]} {'girl' if count == 1 else 'girls'}, each visually distinct"
            return json.dumps({"scene": ", ".join(rest), **characters, "rule": rule}, ensure_ascii=False)


def count_tag(count: int) -> str:
    """The booru tag of a head-count."""
    return "1girl" if count == 1 else f"{count}girls"


def head_count_lock(count: int) -> str:
    """Tags of the neighbouring head-counts for a negative prompt, which acts where cfg > 1 only."""
    others = [count_tag(n) for n in range(1, count + 2) if n != count]
    return ", ".join([*others[:1], "solo" if count > 1 else "multiple girls", *others[1:]])


def fill(text: str, cast: Sequence[str]) -> str:
    """Put the cast into the `{variables}` of a prompt. Braces around anything but a name, as in JSON, stay.

    Raises ValueError naming a variable there is not, and those there are.
    """
    known = variables(cast)

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {{{near[0]}}}?" if near else f"there are {', '.join(f'{{{n}}}' for n in known)}"
            raise ValueError(f"unknown variable {{{name}}} in a prompt: {hint}")
        return known[name]

    return _VARIABLE.sub(value, text)


def variables(cast: Sequence[str]) -> dict[str, str]:
    """What may stand in braces: {1}, {2}, ... and {left}, {center}, {right} are triggers, {triggers} all of them,
    {cast} the same as words, {count} the head-count tag."""
    places = PLACES.get(len(cast), ())
    words = " and ".join([", ".join(cast[:-1]), cast[-1]]) if len(cast) > 1 else "".join(cast)
    return {
        **{str(number): trigger for number, trigger in enumerate(cast, 1)},
        **{place.replace(" ", "_"): trigger for place, trigger in zip(places, cast, strict=bool(places))},
        "triggers": ", ".join(cast),
        "cast": words,
        "count": count_tag(len(cast)),
    }
