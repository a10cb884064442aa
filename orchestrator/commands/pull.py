"""python -m orchestrator pull: take an epoch home, with everything needed to use it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.commands.arguments import add_json

if TYPE_CHECKING:
    from orchestrator.commands import Commands
    from orchestrator.pulling.pull import Pulled


def add_parser(commands: Commands) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "pull",
        help="take an epoch home: adapter, settings, pictures and a card",
        description="Copy an epoch's adapter, the prompt and settings that worked, pictures and a README card into a"
        " folder. Every hash is checked. It also works from the volume, without the machine that runs the study.",
        epilog="pull s3://bucket/prefix/NAME?endpoint=https://HOST takes it from a bucket. --follow goes on until the"
        " study is finished, and leaves the best epoch in DIR/best.",
    )
    parser.add_argument(
        "study", metavar="RUN", help="its folder, its name under runs/, its YAML, or s3://bucket/prefix/NAME"
    )
    parser.add_argument("--epoch", metavar="best|last|N", default="best", help="which one (best)")
    parser.add_argument("--trial", default="", help="of which trial, where there are several")
    parser.add_argument("--to", metavar="DIR", type=Path, help="where to; NAME-epoch-N by default")
    parser.add_argument(
        "--format", choices=("comfy", "kohya", "diffusers"), default="comfy", help="of the adapter file (comfy)"
    )
    parser.add_argument("--pictures", metavar="N", type=int, default=6, help="how many pictures at most (6)")
    parser.add_argument("--follow", action="store_true", help="take each epoch as it appears, until the study ends")
    parser.add_argument("--every", metavar="SECONDS", type=float, default=10.0, help="how often --follow looks (10)")
    add_json(parser, "JSON instead of text; with --follow a line for each epoch")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Pull once, or follow and then pull the best."""
    from orchestrator.commands.output import document, json_line, tell
    from orchestrator.core.errors import MissingError
    from orchestrator.pulling.follow import Following, follow
    from orchestrator.pulling.pull import facts, pick
    from orchestrator.pulling.sources import open_source
    from orchestrator.record.state import replay

    source = open_source(options.study)
    if not options.follow:
        picked = pick(replay(source.news()), options.epoch, options.trial)
        to = options.to or Path(f"{picked.study}-epoch-{picked.checkpoint.epoch}")
        pulled = _take(source, picked, to, options)
        if options.json:
            document({"folder": str(to), **facts(pulled)})
        else:
            tell(_lines(pulled))
        return 0

    def brought(pulled: Pulled) -> None:
        if options.json:
            json_line({"folder": str(pulled.folder), **facts(pulled)})
        else:
            checkpoint, shown = pulled.pick.checkpoint, len(pulled.pictures)
            tell([f"epoch pulled | {pulled.adapter} | loss {checkpoint.loss:.4f} | {shown} pictures"])

    def say(line: str) -> None:
        if not options.json:
            tell([line])

    to = options.to or Path(Path(options.study.partition("?")[0]).name.removesuffix(".yaml") + "-pulled")
    following = Following(source, to, trial=options.trial, form=options.format, pictures=min(2, options.pictures))
    say(f"following {source.place} into {to}; Ctrl-C ends it, and the same command goes on")
    follow(following, every_s=options.every, brought=brought, say=say)
    try:
        picked = pick(following.state, "best", options.trial)
    except MissingError as error:
        say(f"the study is finished, and every saved epoch is here; {error.what}")
        return 0
    pulled = _take(source, picked, to / "best", options)
    if options.json:
        json_line({"folder": str(pulled.folder), **facts(pulled)})
    else:
        tell(_lines(pulled))
    return 0


def _take(source: Any, picked: Any, folder: Path, options: argparse.Namespace) -> Pulled:
    """An epoch with its card and settings."""
    import json

    from orchestrator.core.files import write_whole
    from orchestrator.pulling.card import card
    from orchestrator.pulling.pull import facts, take

    pulled = take(source, picked, folder, form=options.format, most_pictures=options.pictures)
    write_whole(folder / "settings.json", json.dumps(facts(pulled), indent=2, ensure_ascii=False) + "\n")
    write_whole(folder / "README.md", card(pulled))
    return pulled


def _lines(pulled: Pulled) -> list[str]:
    picked = pulled.pick
    rate = picked.rate
    judged = "not judged" if rate is None else f"{rate.passes} of {rate.scored} right at first try"
    return [
        f"pulled   epoch {picked.checkpoint.epoch} of {picked.checkpoint.trial} | {picked.why}",
        f"adapter  {pulled.adapter} | {pulled.format} | {pulled.adapter.stat().st_size / 1e6:.1f} MB | hashes agree",
        f"use at   weight {picked.weight:g} | {judged}",
        f"read     {pulled.folder / 'README.md'} | {len(pulled.pictures)} pictures in {pulled.folder / 'samples'}",
    ]
