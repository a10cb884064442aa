"""The card of a pulled adapter: what it is, how to use it, how good it is, and where it came from."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.version import VERSION
from orchestrator.pulling.pull import Format, Picture, Pulled

HOW: dict[Format, str] = {
    "comfy": (
        "**ComfyUI**: put `{file}` into `ComfyUI/models/loras` and load it with *LoraLoaderModelOnly* at strength"
        ' **{weight:g}**. diffusers reads this file too: `pipe.load_lora_weights(FOLDER, weight_name="{file}")`.'
    ),
    "kohya": (
        "For programs that read kohya's names (`lora_unet_…`, with alpha): load `{file}` at strength **{weight:g}**."
    ),
    "diffusers": (
        '**diffusers**: `pipe.load_lora_weights(FOLDER, weight_name="{file}", adapter_name="{study}")`, then'
        ' `pipe.set_adapters("{study}", {weight:g})`.'
    ),
}
MOST_FINDINGS = 3
OUTCOMES = {"pass": "right", "fail": "not right", "unscored": "not scored"}


def card(pulled: Pulled) -> str:
    """The text, as Markdown with the front matter that model hubs read."""
    return "\n".join([*_front(pulled), *_what(pulled), *_use(pulled), *_pictures(pulled), *_origin(pulled)]) + "\n"


def _front(pulled: Pulled) -> Iterator[str]:
    base = pulled.pick.config.base
    yield "---"
    if isinstance(base, str) and base.startswith("hf://"):
        yield f"base_model: {'/'.join(base.removeprefix('hf://').split('@')[0].split('/')[:2])}"
    yield "tags: [lora, text-to-image, anima]"
    yield f'instance_prompt: "{", ".join(pulled.pick.config.triggers)}"'
    yield "---"


def _what(pulled: Pulled) -> Iterator[str]:
    picked, checkpoint = pulled.pick, pulled.pick.checkpoint
    who = ", ".join(f"`{trigger}`" for trigger in picked.config.triggers)
    yield f"# {picked.study}: epoch {checkpoint.epoch}"
    yield ""
    yield f"A LoRA for Anima that knows {who}. Use it at strength **{picked.weight:g}**."
    yield ""
    if picked.rate is None:
        yield "Nobody has judged its pictures."
    else:
        rate, seeds = picked.rate, "fresh seeds" if picked.adopted else "the seeds of the grid"
        yield (
            f"**{100 * rate.rate:.0f} %** of pictures are right at first try: {rate.passes} of {rate.scored} {seeds}"
            f" (95 % interval {100 * rate.low:.0f} to {100 * rate.high:.0f} %)."
        )
        if not picked.adopted:
            yield "This epoch was looked at among others, so the figure is on the hopeful side."
    yield ""
    yield f"Why this epoch: {picked.why.rstrip('.')}."
    yield ""


def _use(pulled: Pulled) -> Iterator[str]:
    picked = pulled.pick
    yield "## Use"
    yield ""
    yield HOW[pulled.format].format(file=pulled.adapter.name, weight=picked.weight, study=picked.study)
    yield ""
    shown = next(iter(picked.pictures), None)
    if shown is None:
        return
    drawing, prompt = shown.cell.drawing, shown.cell.prompt
    worked = shown.verdict is not None and shown.verdict.outcome == "pass"
    yield "What worked (the first picture below):" if worked else "What it was drawn with:"
    yield ""
    yield "```text"
    yield prompt.text
    yield "```"
    yield ""
    yield "| setting | value |"
    yield "| --- | --- |"
    yield f"| negative prompt | {prompt.negative or 'none'} |"
    yield f"| sampler, schedule | {drawing.sampler}, {drawing.schedule} |"
    yield f"| steps, CFG, shift | {drawing.steps}, {drawing.cfg:g}, {drawing.shift:g} |"
    yield f"| size | {drawing.width} × {drawing.height} |"
    yield f"| seed | {shown.cell.seed} |"
    for used in shown.cell.with_adapters:
        yield f"| together with | `{used.name}` at strength {used.weight:g}, sha256 `{used.sha256[:12]}…` |"
    yield ""


def _pictures(pulled: Pulled) -> Iterator[str]:
    if not pulled.pictures:
        return
    yield "## Pictures"
    yield ""
    for path, picture in pulled.pictures.items():
        name = path.relative_to(pulled.folder).as_posix()
        outcome = OUTCOMES[picture.verdict.outcome] if picture.verdict else "not judged"
        yield f"![seed {picture.cell.seed}, {outcome}]({name})"
        yield ""
        yield f"Seed {picture.cell.seed}: {_said(picture)}. Settings: [{name[:-4]}.json]({name[:-4]}.json)"
        yield ""


def _origin(pulled: Pulled) -> Iterator[str]:
    picked, checkpoint = pulled.pick, pulled.pick.checkpoint
    train = picked.config.train
    yield "## Where it comes from"
    yield ""
    yield f"- trial `{checkpoint.trial}`, epoch {checkpoint.epoch}, step {checkpoint.step}"
    base = picked.config.base
    if base == "pocket":
        yield "- base: the miniature that comes with epochsweep; it fits no other model"
    elif isinstance(base, str):
        yield f"- base: `{base}`"
    yield (
        f"- rank {train.rank}, learning rate {train.learning_rate:g},"
        f" each picture shown {checkpoint.exposures_per_image:g} times"
    )
    yield f"- `{pulled.adapter.name}`: sha256 `{pulled.sha256}`"
    if pulled.sha256 != checkpoint.sha256:
        yield f"- converted from the file the study recorded: sha256 `{checkpoint.sha256}`"
    yield f"- made by epochsweep {VERSION}; everything for machines is in `settings.json`"


def _said(picture: Picture) -> str:
    """What the judge said, in words."""
    if picture.verdict is None:
        return "not judged"
    if picture.verdict.outcome == "pass":
        return "right"
    if picture.verdict.outcome == "unscored":
        return f"could not be scored ({picture.verdict.reason or 'no reason given'})"
    said = [finding.sentence() for finding in picture.verdict.findings]
    more = f"; and {len(said) - MOST_FINDINGS} findings more" if len(said) > MOST_FINDINGS else ""
    return "not right: " + "; ".join(said[:MOST_FINDINGS]) + more if said else "not right"
