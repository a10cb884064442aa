"""The page's sections below the headline: charts with their words, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from orchestrator.core.layout import Layout
from orchestrator.core.study import COUNTED_KINDS
from orchestrator.report.breaks import groups, kind_chart, swatch, who_chart
from orchestrator.report.charts import loss_chart, nearness_chart, rate_chart
from orchestrator.report.evidence import Evidence, kind_counts, sentence_counts
from orchestrator.report.frame import both_widths
from orchestrator.report.heat import heat_chart, prompt_rows, weight_rows
from orchestrator.report.markup import Markup, element
from orchestrator.report.picks import best, evenly, hard_seeds, out_of_line, telling_epochs, telling_seeds, worst
from orchestrator.report.sheet import (
    contact_sheet,
    gallery,
    mark_legend,
    picture,
    picture_filter,
    seed_strip,
)
from orchestrator.report.shot import Shot
from orchestrator.report.tables import kind_table, seed_table, trial_table, who_table
from orchestrator.report.wording import KIND_WORDS, OUTCOME_WORDS, times

GALLERY = 24
"""Pictures of the adopted epoch on the page."""
WHOLE_SHEET = 240
"""Up to so many pictures a contact sheet shows all of them."""
WARNINGS = 8
"""Early warnings on the page, the earliest first."""
SHEETS = 6
"""Contact sheets on a page; further trials, weights and prompts are in the list of files."""


def adopted_pictures(evidence: Evidence, layout: Layout) -> list[Markup]:
    """What the adopted epoch draws."""
    choice = evidence.choice
    if choice is None:
        return []
    shots: Sequence[Shot] = evidence.confirming
    about = "All pictures drawn on fresh seeds, none left out"
    if not shots:
        shots = [s for s in evidence.lead_shots if s.cell.epoch == choice.epoch]
        about = "The pictures it was chosen by; fresh seeds are not drawn yet"
    if len(shots) > GALLERY:
        about = f"{GALLERY} of {len(shots)} pictures, taken at even distances, whatever they came to"
    return [
        element("h2", f"What epoch {choice.epoch} draws"),
        element("p", f"{about}. Choose a picture to enlarge it and read what was seen."),
        mark_legend(shots),
        gallery(evenly(shots, GALLERY), layout),
    ]


def rates(evidence: Evidence) -> list[Markup]:
    """The curve, the plateau bar, the loss."""
    lead = evidence.lead
    if lead is None:
        return []
    how = (
        "Each dot is the share of an epoch's pictures that passed, the larger the more pictures; its bar is the "
        "95\u00a0% Wilson interval. The line is the smoothed curve, which lets epochs learn from their neighbours and "
        "knows that some seeds are harder; the shaded area holds the true rate with 95\u00a0%. The hatched band is the "
        "plateau."
    )
    if evidence.choice:
        how += " The diamond is the adopted epoch, the open square the same epoch on fresh seeds."
    parts = [element("h2", "How the rate changed with training"), element("p", how)]
    parts.append(both_widths(lambda width: rate_chart(evidence, width)))
    parts.append(both_widths(lambda width: nearness_chart(evidence, width) or element("p")))
    if trained := [c for c in evidence.checkpoints if c.trial == lead.trial and isfinite(c.loss)]:
        caution = "The loss says little about which epoch draws best; it is here to show that training ran."
        parts.append(both_widths(lambda width: loss_chart(trained, evidence, width)))
        parts.append(element("p", caution, class_="soft"))
    if len(evidence.outlook.trials) > 1:
        parts += [element("h3", "The trials"), trial_table(evidence)]
    return parts


def maps(evidence: Evidence) -> list[Markup]:
    """Weight by epoch, and prompt by epoch, where there are several."""
    parts: list[Markup] = []
    if len(weights := weight_rows(evidence)) > 1:
        about = (
            "The smoothed rate, darker is higher; hatched are epochs between others that nothing was drawn of. The "
            "frame is the adopted epoch."
        )
        parts += [element("h2", "Weights and epochs"), element("p", about)]
        parts.append(both_widths(lambda width: heat_chart(weights, "Rate by weight and epoch", width)))
    if len(prompts := prompt_rows(evidence)) > 1:
        parts += [element("h2", "Prompts and epochs"), element("p", "The same by prompt, at the adopted weight.")]
        parts.append(both_widths(lambda width: heat_chart(prompts, "Rate by prompt and epoch", width)))
    return parts


def failures(evidence: Evidence) -> list[Markup]:
    """Who breaks first, and how."""
    shots = evidence.lead_shots
    if not shots:
        return []
    epochs = sorted({s.cell.epoch for s in shots})
    by_epoch = {e: kind_counts(s for s in shots if s.cell.epoch == e) for e in epochs}
    heading = element("h2", "What goes wrong")
    if not any(by_epoch.values()):
        return [heading, element("p", "No judged picture had a finding.")]
    adopted = evidence.choice.epoch if evidence.choice else None
    parts = [heading, *_warnings(evidence)]
    lead = evidence.lead
    found = evidence.outlook.trials.get(lead.trial) if lead else None
    if found is not None and any(c.about == "character" for c in found.signs):
        curve_epochs = [int(e) for e in found.table.epochs]
        parts += [
            element("h3", "Who breaks first"),
            element("p", "The share of pictures with something wrong on each character, smoothed over the epochs."),
            both_widths(lambda width: who_chart(found.signs, curve_epochs, adopted, width)),
        ]
    legend = [element("li", swatch(k), " ", element("b", k), f": {KIND_WORDS[k]}") for k in COUNTED_KINDS]
    frequent = [element("li", f"{said}: {times(n)}") for said, n in sentence_counts(shots)[:6]]
    return [
        *parts,
        element("h3", "How they fail"),
        element("p", "Findings per judged picture; one picture can have several."),
        element("ul", *legend, class_="legend"),
        both_widths(lambda width: kind_chart(groups(shots), [epochs[0], epochs[-1]], width)),
        kind_table(shots, by_epoch, adopted),
        element("h3", "Who fails"),
        who_table(shots),
        element("h3", "Most frequent findings"),
        element("ul", *frequent),
    ]


def _warnings(evidence: Evidence) -> list[Markup]:
    lead = evidence.lead
    found = evidence.outlook.trials.get(lead.trial) if lead else None
    if found is None or not found.warnings:
        return []
    items = [element("li", f"epoch {w.epoch}: {w.sentence}") for w in found.warnings[:WARNINGS]]
    if (more := len(found.warnings) - WARNINGS) > 0:
        items.append(element("li", f"and {more} more, all of them later"))
    return [element("h3", "Early warnings"), element("ul", *items)]


def seeds(evidence: Evidence, layout: Layout) -> list[Markup]:
    """The hardest seeds as a table, and as strips through training."""
    shots = evidence.lead_shots
    if not shots:
        return []
    where = "over all judged epochs"
    if evidence.plateau and evidence.plateau[0] != evidence.plateau[1]:
        where = "inside the plateau, epochs {} to {}".format(*evidence.plateau)
    heading = element("h2", "Hardest seeds")
    hard = hard_seeds(evidence, 8)
    if not hard:
        return [heading, element("p", f"None: every seed passed every time {where}.")]
    about = (
        f"How often each seed passed {where}. A defect on every seed is the epoch's fault, a rare one is the seed's."
    )
    parts = [heading, element("p", about), seed_table(hard)]
    prompt = shots[0].cell.prompt.name
    strips = []
    for record in hard[:3]:
        mine = [s for s in shots if s.cell.seed == record.seed and s.cell.prompt.name == prompt]
        kept = set(telling_epochs(evidence, [s.cell.epoch for s in mine], 8))
        if len(mine) >= 3:
            strips.append(seed_strip(record.seed, [s for s in mine if s.cell.epoch in kept], layout))
    if strips:
        parts += [element("h3", "The same seed through training"), element("div", *strips, class_="strips")]
    return parts


def extremes(evidence: Evidence, layout: Layout) -> list[Markup]:
    """Best, worst, and what is out of line or in dispute."""
    rows: list[tuple[str, list[Markup]]] = []

    def shown(shot: Shot, note: str = "") -> Markup:
        said = f"epoch {shot.cell.epoch}, seed {shot.cell.seed}" + (f"; {note}" if note else "")
        caption = element("span", said, class_="soft caption")
        return element("div", picture(shot, layout, longest=240, named=said), caption)

    rows.append(("Best: passes on the hardest seeds", [shown(s) for s in best(evidence)]))
    rows.append(("Worst: what can still happen", [shown(s) for s in worst(evidence)]))
    rows.append(("Out of line with the epochs before and after", [shown(s, why) for s, why in out_of_line(evidence)]))
    disputed = [shown(s, f"{v.judge}: {OUTCOME_WORDS[v.outcome]}") for s, v in evidence.disputed[:6]]
    rows.append((f"Judges disagree ({len(evidence.disputed)} pictures)", disputed))
    parts: list[Markup] = []
    for title, pictures in rows:
        if pictures:
            parts += [element("h3", title), element("div", *pictures, class_="gallery small")]
    return [element("h2", "Best, worst, and out of line"), *parts] if parts else []


def sheets(evidence: Evidence, layout: Layout) -> list[Markup]:
    """Every picture, epoch by epoch; of large grids, a fair choice of them."""
    if not evidence.shots:
        return []
    by_group: dict[tuple[str, float, str], list[Shot]] = {}
    for shot in evidence.shots:
        by_group.setdefault((shot.cell.trial, shot.cell.weight, shot.cell.prompt.name), []).append(shot)
    lead = (evidence.lead.trial, evidence.lead.weight) if evidence.lead else None
    ordered = sorted(by_group.items(), key=lambda item: (item[0][:2] != lead, item[0]))
    whole = len(evidence.shots) <= WHOLE_SHEET * 2 and len(ordered) <= SHEETS
    tables, shown = [], []
    for (trial, weight, prompt), shots in ordered[:SHEETS]:
        kept = shots if whole or len(shots) <= WHOLE_SHEET // 2 else _sampled(evidence, shots)
        shown += kept
        leads = (trial, weight) == lead
        seeds = sorted({s.cell.seed for s in kept})
        columns = seeds if len(seeds) < len(evidence.seeds) and not whole else evidence.seeds
        sheet = contact_sheet(kept, columns, evidence.choice if leads else None, layout)
        asked = element("p", "Prompt: ", element("code", shots[0].cell.prompt.text), class_="soft")
        count = "" if len(kept) == len(shots) else f" ({len(kept)} of {len(shots)} pictures)"
        heading = element("summary", f"{trial}, weight {weight:g}, prompt {prompt}{count}")
        tables.append([sheet, asked] if len(by_group) == 1 else element("details", heading, sheet, asked, open=leads))
    title = "Every picture, epoch by epoch" if len(shown) == len(evidence.shots) else "Pictures, epoch by epoch"
    intro = (
        "One row per saved epoch, one column per seed. Hover or choose a picture for the findings in words; in the "
        "enlarged view the arrow keys step to the next seed or epoch in place."
    )
    if len(shown) < len(evidence.shots):
        intro += (
            f" Shown are {len(shown):,} of {len(evidence.shots):,}: epochs and seeds spread over the whole, the edges"
            " of the plateau and the hardest seeds among them. All others are in the study's folder `grid/`."
        )
    body = element("div", picture_filter(shown), mark_legend(shown), *tables, class_="filtered")
    return [element("h2", title), element("p", intro), body]


def _sampled(evidence: Evidence, shots: Sequence[Shot]) -> list[Shot]:
    epochs = set(telling_epochs(evidence, sorted({s.cell.epoch for s in shots})))
    mine = [s for s in shots if s.cell.epoch in epochs]
    counts = sorted({s.cell.seed for s in mine})
    often = [seed for seed in counts if sum(s.cell.seed == seed for s in mine) > 1] or counts
    kept = set(telling_seeds(evidence, often))
    return [s for s in mine if s.cell.seed in kept]


def _along(evidence: Evidence) -> list[Markup]:
    """What every picture was drawn with beside it."""
    used = next((shot.cell.with_adapters for shot in (*evidence.confirming, *evidence.shots)), ())
    if not used:
        return []
    named = ", ".join(f"{adapter.name} at weight {adapter.weight:g}" for adapter in used)
    return [element("p", f"Every picture here was drawn together with {named}: load that as well.")]


def usage(evidence: Evidence) -> list[Markup]:
    """How to load the adapter."""
    choice = evidence.choice
    if choice is None:
        return []
    name = f"{choice.trial}-epoch{choice.epoch}"
    load = f'pipe.load_lora_weights("{choice.adapter}", adapter_name="{name}")'
    weigh = f'pipe.set_adapters(["{name}"], [{choice.weight!r}])'
    node = "“Load LoRA (Model Only)”"
    comfy = f"ComfyUI: copy the file to models/loras and load it with {node} at strength {choice.weight:g}."
    return [
        element("h2", "Use the adapter"),
        element("p", "File, relative to this page: ", element("code", choice.adapter)),
        element("p", "SHA-256: ", element("code", choice.adapter_sha256)),
        element("p", f"Use it at weight {choice.weight:g}, on the base model it was trained on."),
        *_along(evidence),
        element("p", comfy),
        element("p", "diffusers:"),
        element("pre", element("code", f"{load}\n{weigh}")),
    ]
