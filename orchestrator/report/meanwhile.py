"""Samples on the page: the pictures that training drew as it went, a strip for each prompt. No rate counts them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby

from orchestrator.core.layout import Layout
from orchestrator.report.markup import Markup, element
from orchestrator.report.sheet import PIXEL_ART, thumbnail
from trainer.sampled import Sampled, sampled

MOST_EPOCHS = 10
"""Shown of one strip; of more, the first, the last and others at even distances."""
MOST_PROMPTS = 12
"""Strips of one trial."""
LONGEST = 160
"""Longer side of a large picture's thumbnail."""


def meanwhile(trials: Sequence[str], layout: Layout) -> list[Markup]:
    """The samples of each trial that has some, prompt by prompt, through the epochs."""
    drawn = {trial: found for trial in trials if (found := sampled(layout, trial))}
    if not drawn:
        return []
    intro = (
        "Drawn by the trainer with the adapter as it was after each epoch; epoch 0 is before the first step. They are "
        "few, and of fixed seeds: no rate counts them."
    )
    parts = []
    for trial, samples in drawn.items():
        strips = [list(group) for _, group in groupby(samples, key=lambda one: (one.prompt, one.setting))]
        tables = [part for strip in strips[:MOST_PROMPTS] for part in _strip(strip, layout)]
        if len(strips) > MOST_PROMPTS:
            left = f"{len(strips) - MOST_PROMPTS} more prompts are in the trial's folder `samples/`."
            tables.append(element("p", left, class_="soft"))
        heading = element("summary", f"{trial}, {len(samples)} {'picture' if len(samples) == 1 else 'pictures'}")
        parts.append(element("details", heading, *tables, open=len(drawn) == 1))
    return [element("h2", "Drawn while training"), element("p", intro), *parts]


def _strip(samples: Sequence[Sampled], layout: Layout) -> list[Markup]:
    """One prompt: a row for each seed, a column for each epoch."""
    first, by_place = samples[0], {(one.seed, one.epoch): one for one in samples}
    epochs = _spread(sorted({one.epoch for one in samples}))
    head = [element("th", "seed", scope="col", class_="corner")]
    head += [element("th", element("span", "epoch ", class_="soft"), element("b", e), scope="col") for e in epochs]
    rows = []
    for seed in sorted({one.seed for one in samples}):
        places = [by_place.get((seed, epoch)) for epoch in epochs]
        cells = [element("td", _picture(one, layout) if one else _none()) for one in places]
        rows.append(element("tr", element("th", element("b", seed), scope="row"), *cells))
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows), class_="sheet strip")
    how = json.loads(first.setting)
    said = f"{how['width']}×{how['height']}, {how['steps']} steps, cfg {how['cfg']:g}"
    asked = element("p", "Prompt: ", element("code", first.prompt), element("span", f" ({said})", class_="soft"))
    return [asked, element("div", table, class_="scroll", tabindex=0)]


def _picture(one: Sampled, layout: Layout) -> Markup:
    small, named = thumbnail(one.path, LONGEST), f"epoch {one.epoch}, seed {one.seed}"
    if small is None:
        return element("div", element("span", "its file cannot be read", class_="gone"), class_="shot", title=named)
    pixels = small.width <= PIXEL_ART
    image = element(
        "img",
        src=small.uri,
        width=small.width,
        height=small.height,
        alt=f"{named}: {one.prompt}",
        loading="lazy",
        class_="pixels" if pixels else None,
    )
    return element(
        "button",
        image,
        type="button",
        class_="shot",
        title=f"{named}\n{one.prompt}",
        data_file=None if pixels else layout.relative(one.path),
    )


def _none() -> Markup:
    return element("div", "not drawn", class_="empty")


def _spread(epochs: Sequence[int]) -> list[int]:
    if len(epochs) <= MOST_EPOCHS:
        return list(epochs)
    step = (len(epochs) - 1) / (MOST_EPOCHS - 1)
    return [epochs[round(step * place)] for place in range(MOST_EPOCHS)]
