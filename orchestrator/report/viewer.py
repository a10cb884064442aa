"""The page's only script: a picture opens large, and the arrow keys step to the same place of its neighbours.

Stepping swaps one picture for the next in the very same pixels, which is how small differences show.
"""

from __future__ import annotations

from orchestrator.report.markup import Markup, element

SCRIPT = """
const viewer = document.getElementById('viewer');
const image = viewer.querySelector('img'), said = viewer.querySelector('.words'), file = viewer.querySelector('a');
let at = null;
function show(shot) {
  at = shot;
  const small = shot.querySelector('img');
  const width = +small.getAttribute('width'), height = +small.getAttribute('height');
  const room = Math.min((innerWidth - 48) / width, (innerHeight * 0.62) / height);
  const pixels = small.classList.contains('pixels');
  const scale = pixels ? Math.max(1, Math.floor(room)) : Math.min(1, room);
  image.onerror = () => { image.onerror = null; image.src = small.src; };
  image.src = shot.dataset.file || small.src;
  image.className = pixels ? 'pixels' : '';
  image.width = width * scale; image.height = height * scale; image.alt = small.alt;
  said.replaceChildren(...shot.title.split('\\n').map(line => {
    const p = document.createElement('p'); p.textContent = line; return p;
  }));
  const table = shot.closest('tbody');
  for (const button of viewer.querySelectorAll('.down')) button.hidden = !table || table.rows.length < 2;
  file.hidden = !shot.dataset.file;
  if (shot.dataset.file) file.href = shot.dataset.file;
  if (!viewer.open) viewer.showModal();
}
function step(across, down) {
  const cell = at.closest('td');
  let next;
  if (cell) {
    const rows = [...cell.closest('tbody').rows];
    const row = rows[rows.indexOf(cell.parentElement) + down];
    next = row && row.cells[cell.cellIndex + across];
    next = next && next.querySelector('button.shot');
  } else {
    const all = [...(at.closest('.gallery') || at.parentElement).querySelectorAll('button.shot')];
    next = all[all.indexOf(at) + across + down];
  }
  if (next) show(next);
}
document.addEventListener('click', event => {
  const shot = event.target.closest('button.shot');
  if (shot) show(shot);
  else if (event.target === viewer || event.target.closest('.close')) viewer.close();
});
const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
viewer.addEventListener('keydown', event => {
  if (!steps[event.key]) return;
  event.preventDefault();
  step(...steps[event.key]);
});
for (const button of viewer.querySelectorAll('[data-step]'))
  button.addEventListener('click', () => step(...button.dataset.step.split(',').map(Number)));
"""


def viewer() -> Markup:
    """The enlarged view, closed until a picture is chosen."""
    steps = {"previous": "-1,0", "next": "1,0", "previous epoch": "0,-1", "next epoch": "0,1"}
    buttons = [
        element("button", label, type="button", data_step=by, class_="down" if "epoch" in label else None)
        for label, by in steps.items()
    ]
    link = element("a", "open the file", hidden=True)
    close = element("button", "close", type="button", class_="close")
    nav = element("nav", *buttons, link, close)
    return element("dialog", element("img", alt=""), element("div", class_="words"), nav, id="viewer")
