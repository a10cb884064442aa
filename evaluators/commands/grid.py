"""python -m evaluators grid: draw a grid on one device, without the rest of a study."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import ConfigError, MissingError

if TYPE_CHECKING:
    from rich.console import Console

    from evaluators.sweep.backends import Backend
    from evaluators.sweep.run import Judging, Sweep
    from evaluators.sweep.study import SweepStudy
    from orchestrator.core.layout import Layout
    from orchestrator.core.study import Cell, Checkpoint, Sample

INTERRUPTED = 130
FAULTY = 6
"""As for any adapter that cannot be drawn."""
EXAMPLES = """\
examples:
  python -m evaluators grid conf/trio_v2.yaml                          what the study trained
  python -m evaluators grid conf/trio_v2.yaml --adapters output/       files of any trainer, named by epoch
  python -m evaluators grid conf/trio_v2.yaml 'grid.epochs={every: 10}' judge.name=none
  python -m evaluators grid conf/trio_v2.yaml backend=comfyui          drawn by the ComfyUI on this machine
  python -m evaluators grid conf/trio_v2.yaml --verify 20              draws 20 finished pictures again and compares
"""


def add_parser(commands: Any) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "grid",
        help="draw and judge a grid on one device, for adapters of any trainer",
        description="Draw what a grid lacks: every epoch with every seed, weight and prompt of the YAML. The same "
        "command resumes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("conf", metavar="CONF", type=Path, help="a study's YAML")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="values to change, like grid.seeds=[1,2]")
    parser.add_argument("--adapters", metavar="FOLDER", type=Path, help="adapters, one file or folder per epoch")
    parser.add_argument("--threads", metavar="N", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    parser.add_argument("--verify", metavar="K", type=int, help="draw K finished cells again and compare them")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look at everything, then draw and judge what is missing."""
    from rich.console import Console

    from evaluators.sweep.study import load_sweep
    from orchestrator.core.lock import sole_driver

    if options.verify is not None and options.verify < 1:
        raise ConfigError(f"--verify takes a number from 1 on, not {options.verify}", where="command line")
    study, console = load_sweep(options.conf, options.overrides), Console(highlight=False)
    layout = study.layout()
    found = _adapters(study, options.adapters, layout, _teller(console))
    with sole_driver(layout.root / "grid.lock"):
        return _draw(study, layout, found, options, console)


def _adapters(
    study: SweepStudy, folder: Path | None, layout: Layout, tell: Callable[[str], None]
) -> tuple[list[Checkpoint], dict[str, Path]]:
    """The epochs to draw, and where their files are by content."""
    from evaluators.sweep.adapters import as_checkpoints, folder_adapters, selected, trained_checkpoints

    folder = folder or (Path(study.adapters) if study.adapters else None)
    if folder is None:
        trained = trained_checkpoints(layout)
        if not trained:
            raise MissingError(
                "the study has no adapters yet", where=str(layout.root), fix="train first, or give --adapters FOLDER"
            )
        return trained, {c.sha256: layout.resolve(c.adapter) for c in trained}
    there = selected(folder_adapters(folder.expanduser(), tell=tell), study.grid)
    of_others = as_checkpoints(there, layout.root / "grid" / "adapters.json", tell=tell)
    return [c for c, _ in of_others.values()], {sha256: path for sha256, (_, path) in of_others.items()}


def _draw(
    study: SweepStudy,
    layout: Layout,
    found: tuple[list[Checkpoint], dict[str, Path]],
    options: argparse.Namespace,
    console: Console,
) -> int:
    from evaluators.prompt_checks import look_warnings
    from evaluators.sweep.backends import backend_of
    from evaluators.sweep.run import Sweep, cells_of

    tell = _teller(console)
    checkpoints, files = found
    for warning in look_warnings(study.grid.prompts, study.cast):
        tell(f"warning: {warning}")
    backend = backend_of(study, threads=options.threads, tell=tell)
    for warning in backend.warnings(study.grid.prompts):
        tell(f"warning: {warning}")
    cells = cells_of(checkpoints, study.grid.pinned(backend.constants), backend.identity)
    if not any(cell.adapter for cell in cells.values()):
        raise ConfigError("grid.epochs names none of the epochs there are", where=str(options.conf))
    sweep = Sweep(layout, cells, _judging(study, layout))
    sweep.look()
    if options.verify is not None:
        return _verify(study, sweep, backend, files, options.verify, console)
    lacking = len(sweep.lacking())
    epochs = len({(c.trial, c.epoch) for c in cells.values() if c.adapter})
    tell(f"grid     {len(cells)} pictures of {epochs} epochs, {len(cells) - lacking} of them there already")
    return _finish(sweep, study, console, _work(sweep, backend, files, study.grid.batch, lacking, console))


def _work(
    sweep: Sweep, backend: Backend, files: Mapping[str, Path], batch: int, lacking: int, console: Console
) -> bool:
    """Draw and judge; False when it was interrupted."""
    from threading import Lock

    from evaluators.sweep.run import Artist
    from evaluators.thumbnails import thumbnail_of

    class Later:
        """Opens the backend for the first batch: a grid that lacks nothing loads no model."""

        artist: Artist | None = None
        opening = Lock()

        def draw(self, cells: Sequence[Cell]) -> list[Sample]:
            with self.opening:
                self.artist = self.artist or backend.open(sweep.layout.root, files)
            return self.artist.draw(cells)

    try:
        with _progress(lacking, console) as advance:
            for drawn in sweep.run(Later(), batch):
                first = drawn[0].cell
                for one in drawn:
                    # Now, while the next are drawn, and not all together for the page.
                    thumbnail_of(sweep.layout.resolve(one.sample.image))
                of = f"epoch {first.epoch}, weight {first.weight:g}" if first.adapter else "base alone"
                advance(len(drawn), f"{of}, {first.prompt.name}")
    except KeyboardInterrupt:
        return False
    return True


def _finish(sweep: Sweep, study: SweepStudy, console: Console, whole: bool) -> int:
    """Write the page and say what came of it."""
    from evaluators.sweep.sheet import write_sheet

    tell, table = _teller(console), sweep.table
    page = write_sheet(table.csv.with_name("index.html"), study.study, sweep.finished(), sweep.layout)
    cells = {cell.adapter_sha256: cell for cell in sweep.cells.values()}
    faulty = sorted((cells[sha256].trial, cells[sha256].epoch, why) for sha256, why in sweep.faults.items())
    for trial, epoch, why in faulty:
        tell(f"not drawn: {trial} epoch {epoch}: {why}")
    tell(f"table    {_from_here(table.csv)}")
    tell(f"pictures {_from_here(page)}")
    if not whole:
        tell("Stopped. The same command continues.")
        return INTERRUPTED
    if sweep.judging is None:
        tell("No judge is set: write pass or fail into the table's column `pass`, and it stays there.")
    tell(f"Which epoch to adopt: python -m evaluators analyse {_from_here(table.csv)}")
    return FAULTY if sweep.faults else 0


def _verify(
    study: SweepStudy, sweep: Sweep, backend: Backend, files: Mapping[str, Path], count: int, console: Console
) -> int:
    """Draw finished cells again and say how far they agree; 1 where what is promised does not hold."""
    from tempfile import TemporaryDirectory

    from evaluators.sweep.verify import spread, verify
    from orchestrator.core.layout import Layout

    tell, chosen = _teller(console), spread(sweep.finished(), count)
    if not chosen:
        raise MissingError("no picture of this grid is finished yet", where=str(sweep.layout.root), fix="draw it first")
    sweep.judge(one.cell for one in chosen if one.verdict is None)
    chosen = [replace(one, verdict=sweep.verdicts.get(one.cell.key)) for one in chosen]
    with TemporaryDirectory(prefix="verify-") as folder:
        again = Layout(Path(folder))
        artist, judging = backend.open(again.root, files), _judging(study, again)
        compared = []
        with _progress(len(chosen), console) as advance:
            for one in verify(chosen, sweep.layout, again, artist, judging):
                compared.append(one)
                advance(1, f"epoch {one.cell.epoch}" if one.cell.adapter else "base alone")
    same, largest = sum(c.largest == 0 for c in compared), max(c.largest for c in compared)
    tell(f"pixels   {same} of {len(compared)} the same to the last bit; largest difference {largest} of 255")
    alike = [c.same_verdict for c in compared if c.same_verdict is not None]
    tell(f"verdicts {sum(alike)} of {len(alike)} the same" if alike else "verdicts none to compare: no judge is set")
    for change in dict.fromkeys(change for c in compared for change in c.changed):
        tell(f"changed  {change}")
    for c in compared:
        if c.largest or c.same_verdict is False:
            verdict = f", {c.first.outcome} then, {c.again.outcome} now" if c.first and c.again else ""
            where = f"epoch {c.cell.epoch}, {c.cell.prompt.name}, seed {c.cell.seed}"
            tell(f"differs  {where}: largest {c.largest} of 255, mean {c.mean:.3f}{verdict}")
    return 1 if any(c.broken for c in compared) else 0


def _judging(study: SweepStudy, layout: Layout) -> Judging | None:
    from evaluators.critic import PictureCritic, judge_identity
    from evaluators.sweep.run import Judging

    identity = judge_identity(study.judge, study.cast)
    return Judging(identity, PictureCritic(str(layout.root), study.cast, identity)) if identity else None


@contextmanager
def _progress(total: int, console: Console) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal; elsewhere a line for every tenth."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: Sequence[Any] = (
        TextColumn("drawing"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[at]}"),
        TimeRemainingColumn(),
    )
    done = 0
    with Progress(*columns, console=console, expand=True, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("drawing", total=total, at="")

        def advance(count: int, at: str) -> None:
            nonlocal done
            tenths, done = done * 10 // max(total, 1), done + count
            bars.update(bar, completed=done, at=at)
            if not console.is_terminal and done * 10 // max(total, 1) > tenths:
                console.print(f"drawn    {done} of {total} | {at}", markup=False, soft_wrap=True)

        yield advance


def _teller(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, markup=False, soft_wrap=True)


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
