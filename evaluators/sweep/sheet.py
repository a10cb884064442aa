"""A grid as one HTML page: a table per prompt and weight, epochs down, seeds across, each picture with its mark.

Nothing is embedded: the page shows the thumbnails beside the pictures and links to these, so a large grid opens fast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from evaluators.sweep.table import Drawn, relative_to_table
from evaluators.thumbnails import thumbnail_of
from orchestrator.core.files import write_whole
from orchestrator.core.layout import Layout

MARKS = {"pass": "✓ pass", "fail": "✗ fail", "unscored": "? unscored"}
ROLES = {"rate": "", "control": "control, counts in no rate", "probe": "probe, counts in no rate"}
_POLICY = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 1600px; padding: 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .2rem; }
p { margin: .2rem 0 .6rem; max-width: 75ch; } code { font-size: .9em; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: 3px; text-align: center; vertical-align: top; font-weight: 400; }
th[scope=row] { text-align: right; padding: .6rem .6rem 0 0; min-width: 3.6rem; }
th[scope=row] { position: sticky; left: 0; background: Canvas; }
th b { display: block; } .soft { opacity: .75; font-size: .85rem; }
img { display: block; width: 160px; height: auto; image-rendering: auto; } img.small { image-rendering: pixelated; }
a { color: inherit; text-decoration: none; display: block; } a:focus-visible { outline: 3px solid Highlight; }
.fail { border: 2px dashed; } .pass { border: 2px solid; } .unscored { border: 2px dotted; }
.why { max-width: 160px; text-align: left; } summary { cursor: pointer; text-align: center; }
"""


def write_sheet(path: Path, title: str, drawn: Sequence[Drawn], layout: Layout) -> Path:
    """Write the page about these pictures beside the table of their verdicts."""
    groups = [list(group) for _, group in groupby(sorted(drawn, key=_group), key=_group)]
    counted = [one for one in drawn if one.cell.prompt.role == "rate"]
    said = Counter(one.verdict.outcome if one.verdict else "none" for one in counted)
    judged = f"{said['pass']} of {said['pass'] + said['fail']} that count passed" if counted else ""
    lead = ", ".join(part for part in (f"{len(drawn)} pictures", judged if not said["none"] else "") if part)
    opens = "A picture opens in full size" + (", its mark says why." if any(one.verdict for one in drawn) else ".")
    body = "".join(_section(group, layout) for group in groups)
    page = (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f'<meta http-equiv=Content-Security-Policy content="{_POLICY}">'
        f"<title>{escape(title)}: grid</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>"
        f"<p>{lead}. Rows are epochs, columns are seeds. {opens}</p>"
        f"{body}</body></html>\n"
    )
    write_whole(path, page)
    return path


def _group(one: Drawn) -> tuple[bool, str, str, float]:
    cell = one.cell
    return cell.prompt.role != "rate", cell.prompt.name, cell.trial, cell.weight


def _section(group: Sequence[Drawn], layout: Layout) -> str:
    cell = group[0].cell
    seeds = list(dict.fromkeys(one.cell.seed for one in group))
    places = {(one.cell.epoch, one.cell.seed): one for one in group}
    rows = []
    for epoch in sorted({one.cell.epoch for one in group}):
        row = [places.get((epoch, seed)) for seed in seeds]
        label = f"{epoch}" if cell.adapter else "base"
        pictures = "".join(_picture(one, layout) for one in row)
        rows.append(f"<tr><th scope=row><b>{label}</b>{_count(row)}</th>{pictures}</tr>")
    head = "".join(f"<th scope=col><span class=soft>seed</span> <b>{seed}</b></th>" for seed in seeds)
    where = f"{cell.trial}, weight {cell.weight:g}" if cell.adapter else "without the adapter"
    role = ROLES[cell.prompt.role]
    return (
        f"<h2>{escape(cell.prompt.name)} · {escape(where)}</h2>"
        f"<p class=soft>{escape(role)}{': ' if role else 'Prompt: '}<code>{escape(cell.prompt.text)}</code></p>"
        f"<div class=scroll tabindex=0><table><thead><tr><th class=soft>epoch</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _count(row: Sequence[Drawn | None]) -> str:
    """How many passed; of strangers, how many have something of the cast."""
    there = [one for one in row if one]
    said = [one.verdict.outcome for one in there if one.verdict]
    scored = said.count("pass") + said.count("fail")
    words = f"{said.count('pass')} of {scored}"
    if there and there[0].cell.prompt.calls_nobody:
        words = f"leak in {said.count('fail')} of {scored}"
    return f"<span class=soft>{words}</span>" if scored else ""


def _picture(one: Drawn | None, layout: Layout) -> str:
    if one is None:
        return "<td class=soft>not drawn</td>"
    path = layout.resolve(one.sample.image)
    small = thumbnail_of(path)
    named = f"epoch {one.cell.epoch}, seed {one.cell.seed}"
    outcome = one.verdict.outcome if one.verdict else "none"
    why = [f.sentence() for f in one.verdict.findings] + [one.verdict.reason] if one.verdict else []
    words = "; ".join(part for part in why if part)
    if small is None:
        return f"<td class=soft>{named} cannot be read</td>"
    own = " class=small" if small == path else ""
    shown = quote(Path(relative_to_table(one.sample.image)).with_name(small.name).as_posix())
    image = f'<img{own} src="{shown}" loading=lazy alt="{escape(named)}">'
    said = f"{MARKS[outcome]}" if outcome in MARKS else ""
    link = quote(relative_to_table(one.sample.image))
    told = f"<details class=why><summary>{said}</summary>{escape(words)}</details>" if words else said
    return (
        f'<td><a class={outcome} href="{link}" title="{escape(f"{named}: {words or said}")}">{image}</a>'
        f"<div class=soft>{told}</div></td>"
    )
