"""The page's style sheet. Ink on paper in both themes; meaning is in shapes, words and patterns, never in a hue."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #1d1c1a; --soft: #5c5953; --line: #d8d4cc; --tint: #f0ede7;
  --mid: #8f8a82; --strong: #17457c; --font: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17181b; --ink: #eceae5; --soft: #aba69d; --line: #3b3d42; --tint: #222428; --mid: #85817a;
    --strong: #a9cdfb; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--font); }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 80px; }
h1 { font-size: clamp(1.45rem, 1rem + 2.2vw, 2.3rem); line-height: 1.22; margin: 4px 0 14px; max-width: 30em;
  text-wrap: balance; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 56px 0 8px; padding-top: 14px; border-top: 2px solid var(--ink); }
h3 { font-size: 1rem; margin: 26px 0 6px; }
p, li { max-width: 68ch; margin: 6px 0; }
a { color: inherit; }
code { font: .92em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: var(--tint); padding: 1px 4px;
  border-radius: 3px; overflow-wrap: anywhere; }
pre { background: var(--tint); padding: 10px 12px; border-radius: 4px; overflow-x: auto; margin: 8px 0; }
pre code { padding: 0; overflow-wrap: normal; }
.study, .soft { color: var(--soft); }
.study { margin: 0; }
.lead { font-size: 1.1rem; }
.notice { border-left: 5px double var(--ink); padding: 6px 14px; background: var(--tint); max-width: 70ch; }

svg text { font: 13px var(--font); fill: var(--ink); }
svg .soft { fill: var(--soft); }
svg text.strong { font-weight: 700; }
svg .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
svg text.halo { font-weight: 600; }
.chart { margin: 14px 0; max-width: 900px; }
.chart svg { width: 100%; height: auto; display: block; overflow: visible; }
.chart .narrow { display: none; }
.axis { stroke: var(--ink); stroke-width: 1.2; }
.grid { stroke: var(--line); stroke-width: 1; }
.whisker { stroke: var(--ink); stroke-width: 1.4; }
.dot { fill: var(--ink); }
.curve { fill: none; stroke: var(--ink); stroke-width: 1.6; }
.smooth { fill: none; stroke: var(--ink); stroke-width: 2.2; }
.ribbon { fill: var(--mid); fill-opacity: .22; stroke: none; }
.quiet .whisker { stroke: var(--mid); stroke-width: 1; }
.onset { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 2 2; } .flag-shape { fill: var(--ink); }
.reach { stroke: var(--ink); stroke-width: 3; } .bracket { fill: none; stroke: var(--ink); stroke-width: 1.6; }
.shade { fill: var(--ink); shape-rendering: crispEdges; } .outline { fill: none; stroke: var(--mid); stroke-width: 1; }
.framed { fill: none; stroke: var(--strong); stroke-width: 2.5; }
svg text.on-dark { fill: var(--paper); }
.who { fill: none; stroke: var(--ink); stroke-width: 1.7; } .tie { fill: none; stroke: var(--mid); stroke-width: 1; }
.who-1 { stroke-dasharray: 7 3; } .who-2 { stroke-dasharray: 2 3; } .who-3 { stroke-dasharray: 9 3 2 3; }
.who-4 { stroke-dasharray: 1 5; }
.point { fill: var(--ink); stroke: var(--paper); stroke-width: 1; }
.hollow { fill: var(--paper); stroke: var(--ink); stroke-width: 1.6; }
.other { fill: none; stroke: var(--soft); stroke-width: 1.2; }
.other-0 { stroke-dasharray: 2 3; } .other-1 { stroke-dasharray: 9 3; }
.other-2 { stroke-dasharray: 9 3 2 3; } .other-3 { stroke-dasharray: 1 5; }
.adopted { fill: var(--strong); stroke: var(--paper); stroke-width: 2; paint-order: stroke; }
.fresh { fill: var(--paper); stroke: var(--ink); stroke-width: 2; }
.leader { stroke: var(--strong); stroke-width: 1.4; stroke-dasharray: 1 3; stroke-linecap: round; }
.band { stroke: var(--mid); stroke-width: 1; }
.bar { stroke: var(--ink); stroke-width: 1; }
pattern .paper { fill: var(--paper); } pattern .ink { fill: var(--ink); } pattern .middle { fill: var(--mid); }
pattern .hatch { fill: none; stroke: var(--ink); stroke-width: 1.5; }
pattern .faint { fill: none; stroke: var(--line); stroke-width: 1.2; }
.defs { position: absolute; width: 0; height: 0; }
.swatch { width: 20px; height: 14px; vertical-align: -2px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; padding: 0; margin: 10px 0; list-style: none; }
.legend li { margin: 2px 0; }

.mark { width: 24px; height: 24px; }
.mark .halo, symbol .halo { fill: var(--paper); stroke: none; }
symbol .ink { fill: var(--ink); }
symbol .check { fill: none; stroke: var(--paper); stroke-width: 2.6; stroke-linecap: round; stroke-linejoin: round; }
symbol .box { fill: var(--paper); stroke: var(--ink); stroke-width: 2; }
symbol .cross { stroke: var(--ink); stroke-width: 2.8; stroke-linecap: round; }
symbol .dashed { fill: var(--paper); stroke: var(--ink); stroke-width: 1.8; stroke-dasharray: 3 2.4; }
symbol .query { fill: none; stroke: var(--ink); stroke-width: 2; stroke-linecap: round; }
.marks { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; padding: 0; margin: 10px 0; }
.marks .mark { width: 20px; height: 20px; vertical-align: -4px; margin-right: 5px; }

.shot { display: block; width: 100%; padding: 0; border: 0; background: none; color: inherit; font: inherit;
  text-align: left; cursor: zoom-in; }
div.shot { cursor: default; }
.shot img { display: block; width: 100%; height: auto; }
.pixels { image-rendering: pixelated; }
.shot .said { display: block; position: relative; font-size: .78rem; line-height: 1.25; padding: 4px 0 0 22px; }
.shot .mark { position: absolute; left: 0; top: 3px; width: 18px; height: 18px; }
.shot[data-outcome=fail] .said { font-weight: 600; }
.shot:focus-visible { outline: 3px solid var(--strong); outline-offset: 2px; }
.gone, .empty { display: grid; place-items: center; aspect-ratio: 3 / 2; border: 1.5px dashed var(--mid);
  color: var(--soft); font-size: .75rem; text-align: center; padding: 4px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(192px, 1fr)); gap: 14px 12px;
  margin: 14px 0; }
.gallery .shot { max-width: 288px; }
.gallery.small { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.caption { display: block; font-size: .78rem; line-height: 1.3; }
.strip td { min-width: 96px; width: 132px; }

.scroll { overflow-x: auto; margin: 10px 0; }
.sheet { border-collapse: separate; border-spacing: 0; }
.sheet th, .sheet td { padding: 5px; vertical-align: top; }
.sheet td { min-width: 106px; width: 180px; }
.sheet thead th { font-size: .85rem; font-weight: 400; text-align: left; }
.sheet tbody th { position: sticky; left: 0; z-index: 1; background: var(--paper); text-align: left; font-weight: 400;
  min-width: 76px; font-size: .85rem; line-height: 1.3; }
.sheet th b { font-size: 1.05rem; }
.sheet thead th b { font-size: inherit; }
.sheet .count { display: block; color: var(--soft); }
.sheet .corner { color: var(--soft); }
tr.adopted > * { background: var(--tint); border-block: 3px solid var(--strong); }
tr.adopted > :first-child { border-left: 3px solid var(--strong); background: var(--tint); }
tr.adopted > :last-child { border-right: 3px solid var(--strong); }
.flag { display: inline-block; background: var(--strong); color: var(--paper); padding: 1px 6px; border-radius: 3px;
  font-weight: 700; font-size: .75rem; margin-top: 3px; }
.filter { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin: 10px 0; border: 0; padding: 0; }
.filter label { border: 1.5px solid var(--line); border-radius: 4px; padding: 2px 10px; cursor: pointer;
  font-size: .9rem; }
.filter input { position: absolute; opacity: 0; }
.filter label:has(:checked) { border-color: var(--ink); background: var(--ink); color: var(--paper); font-weight: 600; }
.filter label:has(:focus-visible) { outline: 3px solid var(--strong); outline-offset: 2px; }

table.numbers { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
.numbers th, .numbers td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: bottom; white-space: nowrap; }
.numbers th:first-child, .numbers td:first-child, .numbers .left { text-align: left; }
.numbers th:first-child, .numbers td:first-child { padding-left: 6px; }
.numbers td.left { white-space: normal; }
.numbers .flag { margin: 0 0 0 8px; }
.numbers th { font-weight: 600; }
.numbers td.zero { color: var(--mid); }
.numbers tr.adopted > * { border-block-width: 2px; }
.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.settings td:first-child { white-space: nowrap; padding-right: 24px; }
summary { cursor: pointer; margin: 8px 0; }
ul { padding-left: 1.2em; }
footer { margin-top: 60px; color: var(--soft); font-size: .9rem; }

dialog { border: 0; padding: 18px; background: var(--paper); color: var(--ink); max-width: calc(100vw - 8px);
  border-radius: 6px; }
dialog::backdrop { background: rgb(0 0 0 / .72); }
dialog img { display: block; max-width: 100%; height: auto; margin: 0 auto 10px; }
dialog p { margin: 2px 0; }
dialog p:first-child { font-weight: 700; }
dialog nav { display: flex; gap: 8px; flex-wrap: wrap; margin-top: 12px; }
dialog button { font: inherit; color: inherit; background: var(--tint); border: 1px solid var(--mid);
  border-radius: 4px; padding: 4px 12px; cursor: pointer; }

@media (max-width: 640px) {
  main { padding: 18px 14px 60px; }
  .chart .wide { display: none; } .chart .narrow { display: block; }
  .gallery { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
  .settings td:first-child { white-space: normal; }
}
@media print {
  :root { --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --tint: #f2f2f2; --mid: #888; --strong: #000;
    color-scheme: light; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; } tr, .shot, .chart { break-inside: avoid; }
  .filter, dialog { display: none; }
  .scroll { overflow: visible; } .sheet { table-layout: fixed; } .sheet td { min-width: 0; width: auto; padding: 3px; }
  .sheet tbody th { position: static; } .sheet .corner { width: 82px; }
  .sheet .said { font-size: .62rem; padding-left: 18px; overflow-wrap: anywhere; }
  .sheet .mark { width: 14px; height: 14px; }
}
"""


def filter_rules(kinds: tuple[str, ...]) -> str:
    """Rules that fade every picture the chosen filter leaves out, one per choice."""
    faded = "{ opacity: .13; }"
    rules = [f".filtered:has(#only-fail:checked) .shot:not([data-outcome=fail]) {faded}"]
    rules += [f".filtered:has(#only-{kind}:checked) .shot:not([data-kinds~={kind}]) {faded}" for kind in kinds]
    return "\n".join(rules)
