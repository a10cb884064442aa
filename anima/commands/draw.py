"""python -m anima draw: prompts, seeds and adapters to pictures, without a study."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anima.order import (
    A_BASE,
    CHOICES,
    OUT,
    Order,
    check,
    choose,
    order_like,
    read_adapter_use,
    read_prompts,
    read_seeds,
    read_size,
    recommended,
    with_drawing,
)
from anima.sources.config import read_base
from anima.sources.obtain import obtain_base
from orchestrator.core.errors import VolumeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from anima.commands import Commands

EXAMPLES = """\
examples:
  python -m anima draw "1girl, blue hair, twintails, white background"
  python -m anima draw "koharu, 1girl, solo" --adapter runs/quickstart/.../adapter.safetensors:0.8 --seeds 1-8,42
  python -m anima draw "1girl, (blue ribbon:1.3)" --cfg 3 --negative "2girls" --steps 20
  python -m anima draw "koharu smiling" --base models/anima --adapter koharu.safetensors --size 896x1152
  python -m anima draw "koharu smiling" --base conf/trio_v2.yaml --adapter koharu.safetensors       the base of a study
  python -m anima draw --prompts prompts.txt --sampler euler --out pictures/euler
  python -m anima draw --like pictures/koharu-1girl-solo-42-1a2b3c4d.png            draw it again, byte for byte
  python -m anima draw --like pictures/koharu-1girl-solo-42-1a2b3c4d.png --cfg 2    the same, but for one setting

Without --steps, --cfg, --size and --negative, a base is drawn by its own recipe: pocket with 12 steps, cfg 1, 96x64;
any other with 30 steps, cfg 4, 1024x1024 and the published negative prompt. Weights and escapes are ComfyUI's:
(tag:1.2), (tag), \\( and \\). Every picture has its settings in its PNG text and in a JSON beside it.
"""


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    draw = commands.add_parser(
        "draw",
        help="draw prompts with any adapters",
        description="Draw every prompt with every seed, with any LoRA adapters merged into the base.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    draw.add_argument("prompt", metavar="PROMPT", nargs="*", help="what to draw; several are drawn one after the other")
    draw.add_argument("--prompts", metavar="FILE", type=Path, help="a text file with one more prompt per line")
    draw.add_argument("--seeds", metavar="SEEDS", help="numbers and ranges, like 1-8,42 (default: 1)")
    draw.add_argument(
        "--adapter",
        metavar="PATH[:WEIGHT]",
        action="append",
        help="a LoRA .safetensors and its strength (default: 1); may be repeated",
    )
    draw.add_argument("--negative", metavar="TEXT", help="what to stay away from; counts only with cfg above 1")
    draw.add_argument("--size", metavar="WxH", help="in pixels")
    draw.add_argument("--steps", metavar="N", type=int, help="of the sampler, 1 to 1000")
    draw.add_argument("--cfg", metavar="SCALE", type=float, help="guidance; 1 is one forward pass per step, not two")
    draw.add_argument("--sampler", metavar="NAME", help=_known("sampler"))
    draw.add_argument("--schedule", metavar="NAME", help=f"sigmas: {_known('schedule')}")
    draw.add_argument("--shift", metavar="S", type=float, help="of the schedule (default: 3)")
    draw.add_argument("--noise", metavar="RULE", help=f"of er_sde's steps: {_known('noise')}")
    draw.add_argument("--base", metavar="BASE", help=f"pocket (default), {A_BASE}")
    draw.add_argument("--like", metavar="PICTURE", type=Path, help="begin with all settings of a picture drawn earlier")
    draw.add_argument("--out", metavar="FOLDER", type=Path, help=f"where pictures go (default: {OUT}/)")
    draw.add_argument("--batch", metavar="N", type=int, help="pictures per forward pass (default: 4 on pocket, else 1)")
    draw.add_argument("--device", metavar="DEVICE", default="auto", help=_known("device"))
    draw.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: torch's own choice)")
    draw.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check the order, then load, draw and say where each picture is."""
    from rich.console import Console

    console = Console(highlight=False)
    order = read_order(options, tell=lambda line: console.print(line, markup=False, soft_wrap=True))
    check(order)
    try:
        order.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VolumeError(
            f"cannot be made ({error.strerror})", where=str(order.out), fix="choose another --out"
        ) from error
    if options.negative and order.drawing.cfg == 1:
        _warn(console, "cfg 1 draws without the negative prompt; give --cfg above 1")
    with console.status(f"loading {order.base}"):
        from anima.pictures import open_studio

        studio = open_studio(order)
    for warning in studio.warnings():
        _warn(console, warning)

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    total = len(order.prompts) * len(order.seeds)
    batches = -(-total // order.batch)
    columns = (TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    seconds = 0.0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=batches * order.drawing.steps)
        for pictures in studio.draw(lambda: progress.advance(bar)):
            seconds += sum(picture.seconds for picture in pictures)
            for picture in pictures:
                console.print(str(picture.path), markup=False, soft_wrap=True)
    noun = "picture" if total == 1 else "pictures"
    console.print(f"{total} {noun} in {seconds:.1f} s ({seconds / total:.2f} s each)")
    return 0


def read_order(options: argparse.Namespace, tell: Callable[[str], None] = lambda _: None) -> Order:
    """The order the options make: what is not given comes from `--like`, else from the base's recipe.

    A base that is not on this machine is fetched; `tell` hears of it.
    """

    def obtained(name: str) -> tuple[str, Path]:
        name, source = read_base(name)
        return name, obtain_base(source, tell=tell)

    given_base = obtained(options.base) if options.base else None
    like = order_like(options.like, lambda name: (given_base or obtained(name))[1]) if options.like else None
    base, folder = given_base or ((like.base, like.folder) if like else obtained("pocket"))
    drawing, negative, batch = (like.drawing, like.negative, like.batch) if like else recommended(folder)
    prompts = (*options.prompt, *(read_prompts(options.prompts) if options.prompts else ()))
    prompts = prompts or (like.prompts if like else ())
    seeds = read_seeds(options.seeds) if options.seeds is not None else (like.seeds if like else (1,))
    width, height = read_size(options.size) if options.size is not None else (None, None)
    changes = {name: getattr(options, name) for name in ("steps", "cfg", "shift")} | {"width": width, "height": height}
    for kind in ("sampler", "schedule", "noise"):
        value = getattr(options, kind)
        changes[kind] = value if value is None else choose(kind, value)
    if options.batch is None and like is None:
        batch = max(1, min(batch, len(prompts) * len(seeds)))
    given = tuple(read_adapter_use(text) for text in options.adapter or ())
    return Order(
        prompts=prompts,
        seeds=seeds,
        negative=negative if options.negative is None else options.negative,
        drawing=with_drawing(drawing, changes),
        adapters=given or (like.adapters if like else ()),
        base=base,
        folder=folder,
        out=options.out or OUT,
        batch=batch if options.batch is None else options.batch,
        device=choose("device", options.device),
        threads=options.threads if options.threads is not None else (like.threads if like else 0),
        base_sha256=like.base_sha256 if like and not options.base else None,
    )


def _known(kind: str) -> str:
    first, *others = CHOICES[kind]
    return f"{first} (default), {', '.join(others)}"


def _warn(console: Console, text: str) -> None:
    console.print(f"warning: {text}", markup=False, soft_wrap=True)
