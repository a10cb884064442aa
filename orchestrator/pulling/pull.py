"""Take an epoch home: its adapter in the format that is wanted, what it was drawn with, pictures, and a card to read.

Everything is read from facts: from the ledger, and from files whose hashes are in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from evaluators.rates import epoch_rates, select
from orchestrator.core.errors import ConfigError, MissingError
from orchestrator.core.files import write_whole
from orchestrator.core.identity import file_sha256
from orchestrator.core.layout import safe_name
from orchestrator.core.study import Cell, Checkpoint, EpochRate, Sample, Verdict
from orchestrator.planning.config import StudyConfig, parse_config
from orchestrator.pulling.sources import Source
from orchestrator.record.state import StudyState

Format = Literal["comfy", "kohya", "diffusers"]
PULLED = "pulled.json"


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn cell, and what was said of it; None while nobody has looked."""

    cell: Cell
    sample: Sample
    verdict: Verdict | None

    @property
    def order(self) -> tuple[int, int, int]:
        """Those that passed first, and of those the ones with fresh seeds, which took no part in choosing."""
        outcome = {"pass": 0, "fail": 2, "unscored": 1}[self.verdict.outcome] if self.verdict else 1
        return outcome, self.cell.purpose != "confirm", self.cell.seed


@dataclass(frozen=True, slots=True)
class Pick:
    """An epoch to take home, and what is known of it."""

    study: str
    checkpoint: Checkpoint
    weight: float
    why: str
    """How it came to be this one, in a sentence."""
    adopted: bool
    rate: EpochRate | None
    """Over fresh seeds for the adopted epoch, else over the seeds of the grid; None when nothing is judged."""
    pictures: tuple[Picture, ...]
    config: StudyConfig


@dataclass(slots=True)
class Pulled:
    """What lies in a folder now."""

    folder: Path
    pick: Pick
    adapter: Path
    format: Format
    sha256: str
    """Of the adapter file as it lies there."""
    pictures: dict[Path, Picture] = field(default_factory=dict)


def pick(state: StudyState, epoch: str, trial: str = "") -> Pick:
    """The epoch that `best`, `last` or a number means. Raises MissingError, ConfigError."""
    if not state.checkpoints:
        raise MissingError("no epoch is saved yet", where=state.study, fix="try again later, or --follow")
    config = parse_config(state.config)
    own = [c for (name, _), c in sorted(state.checkpoints.items()) if trial in (name, name.rpartition("-")[0], "")]
    if not own:
        known = ", ".join(sorted({name for name, _ in state.checkpoints}))
        raise ConfigError(f"no trial {trial!r} has a saved epoch", where=state.study, fix=f"there are: {known}")
    if epoch == "best":
        return _best(state, config, own)
    wanted = own[-1].epoch if epoch == "last" else _number(epoch)
    found = [c for c in own if c.epoch == wanted]
    if not found:
        listed = ", ".join(str(c.epoch) for c in own)
        raise MissingError(f"epoch {wanted} is not saved", where=state.study, fix=f"there are: {listed}")
    if len(found) > 1:
        names = ", ".join(c.trial for c in found)
        raise ConfigError(f"epoch {wanted} was saved by several trials", where=state.study, fix=f"--trial: {names}")
    return _of(state, config, found[0], None, f"asked for by number; {len(own)} epochs are saved")


def take(source: Source, picked: Pick, folder: Path, *, form: Format = "comfy", most_pictures: int = 6) -> Pulled:
    """Bring `folder` up to date with an epoch. What is there already and sound is not fetched again.

    Raises AbsentError, DamagedError when the study does not hold what it recorded, and AdapterError when there is no
    such form of the adapter.
    """
    name = file_name(picked, form)
    adapter = folder / name
    known = _known(folder)
    if not (adapter.is_file() and known.get(name) == [picked.checkpoint.sha256, file_sha256(adapter)]):
        _bring(source, picked.checkpoint, adapter, form)
    sha256 = file_sha256(adapter)
    write_whole(folder / PULLED, json.dumps({**known, name: [picked.checkpoint.sha256, sha256]}, indent=1) + "\n")
    pulled = Pulled(folder, picked, adapter, form, sha256)
    for picture in picked.pictures[:most_pictures]:
        pulled.pictures[_take_picture(source, picture, folder / "samples")] = picture
    return pulled


def file_name(picked: Pick, form: Format) -> str:
    """Like `trio-main-e0010.safetensors`: what it is, in a name every program accepts."""
    trial = picked.checkpoint.trial.rpartition("-")[0] or picked.checkpoint.trial
    suffix = "" if form == "comfy" else f"-{form}"
    return safe_name(f"{picked.study}-{trial}-e{picked.checkpoint.epoch:04d}{suffix}.safetensors", what="file")


def facts(pulled: Pulled) -> dict[str, Any]:
    """Everything about a pulled epoch, for machines: written as `settings.json`."""
    picked, checkpoint = pulled.pick, pulled.pick.checkpoint
    return {
        "study": picked.study,
        "trial": checkpoint.trial,
        "epoch": checkpoint.epoch,
        "why": picked.why,
        "adopted": picked.adopted,
        "adapter": {
            "file": pulled.adapter.name,
            "format": pulled.format,
            "sha256": pulled.sha256,
            "recorded_sha256": checkpoint.sha256,
            "size_bytes": pulled.adapter.stat().st_size,
        },
        "weight": picked.weight,
        "trigger_words": list(picked.config.triggers),
        "rate": None if picked.rate is None else picked.rate.to_json(),
        "pictures": [
            {
                "file": path.relative_to(pulled.folder).as_posix(),
                "sha256": picture.sample.sha256,
                "outcome": picture.verdict.outcome if picture.verdict else None,
                "prompt": picture.cell.prompt.text,
                "negative": picture.cell.prompt.negative,
                "seed": picture.cell.seed,
                "weight": picture.cell.weight,
                "drawing": picture.cell.drawing.to_json(),
                "with_adapters": [used.to_json() for used in picture.cell.with_adapters],
            }
            for path, picture in pulled.pictures.items()
        ],
        "training": picked.config.trials[_trial_name(picked)].model_dump(mode="json"),
        "step": checkpoint.step,
        "exposures_per_image": checkpoint.exposures_per_image,
    }


def pictures_of(state: StudyState, checkpoint: Checkpoint, weight: float | None = None) -> list[Picture]:
    """Pictures of the grid drawn with an adapter as it is recorded, the telling ones first."""
    verdicts = _verdicts(state)
    found = [
        Picture(cell, state.samples[key], verdicts.get(key))
        for key, cell in state.cells.items()
        if key in state.samples
        and (cell.trial, cell.epoch) == (checkpoint.trial, checkpoint.epoch)
        and cell.adapter_sha256 == checkpoint.sha256
        and weight in (None, cell.weight)
        and cell.prompt.role == "rate"
    ]
    return sorted(found, key=lambda picture: picture.order)


def _best(state: StudyState, config: StudyConfig, own: Sequence[Checkpoint]) -> Pick:
    choice = state.choice
    if choice is not None:
        adopted = state.checkpoints.get((choice.trial, choice.epoch))
        if adopted is not None and adopted in own and adopted.sha256 == choice.adapter_sha256:
            fresh = EpochRate(
                choice.trial,
                choice.epoch,
                choice.weight,
                round(choice.first_try_rate * choice.n),
                choice.n,
                0,
                choice.first_try_rate,
                *choice.interval,
            )
            picked = _of(state, config, adopted, choice.weight, choice.reason)
            return replace(picked, adopted=True, rate=fresh)
    names = {c.trial for c in own}
    cells = [c for c in state.cells.values() if c.trial in names and _counts(state, c)]
    rates = [rate for rate in epoch_rates(cells, _verdicts(state)) if rate.scored]
    if not rates:
        listed = " or ".join(str(c.epoch) for c in own[-3:])
        fix = f"name an epoch (--epoch last, or {listed}), or wait for one with --follow"
        raise MissingError("nothing is judged yet, so no epoch is the best", where=state.study, fix=fix)
    best = select(rates, config.decide.margin).chosen
    why = "the best so far: the study has not chosen yet"
    return _of(state, config, state.checkpoints[best.trial, best.epoch], best.weight, why)


def _of(state: StudyState, config: StudyConfig, checkpoint: Checkpoint, weight: float | None, why: str) -> Pick:
    """What is known of an epoch, at the weight it did best with when none is given."""
    verdicts = _verdicts(state)
    cells = [
        c
        for c in state.cells.values()
        if (c.trial, c.epoch) == (checkpoint.trial, checkpoint.epoch) and _counts(state, c)
    ]
    rates = [rate for rate in epoch_rates(cells, verdicts) if rate.scored]
    if weight is None:
        weight = max(rates, key=lambda r: (r.rate, -abs(r.weight - 1))).weight if rates else config.grid.weights[0]
    rate = next((r for r in rates if r.weight == weight), None)
    pictures = tuple(pictures_of(state, checkpoint, weight))
    return Pick(state.study or config.study, checkpoint, weight, why, False, rate, pictures, config)


def _counts(state: StudyState, cell: Cell) -> bool:
    """Whether a cell belongs to the rate curve of the adapter that is recorded now."""
    checkpoint = state.checkpoints.get((cell.trial, cell.epoch))
    current = checkpoint is not None and checkpoint.sha256 == cell.adapter_sha256
    return current and cell.purpose == "select" and cell.prompt.role == "rate"


def _verdicts(state: StudyState) -> dict[str, Verdict]:
    """By cell; of several judges the one that spoke last."""
    return {key: verdict for (key, *_), verdict in state.verdicts.items()}


def _bring(source: Source, checkpoint: Checkpoint, target: Path, form: Format) -> None:
    if form == "comfy":
        source.copy(checkpoint.adapter, target, sha256=checkpoint.sha256)
        return
    from anima.adapters.convert import convert

    original = target.with_name(f".{checkpoint.sha256[:16]}.safetensors")
    try:
        source.copy(checkpoint.adapter, original, sha256=checkpoint.sha256)
        convert(original, target, form, replace=True)
    finally:
        original.unlink(missing_ok=True)


def _take_picture(source: Source, picture: Picture, folder: Path) -> Path:
    key = safe_name(picture.cell.key)
    target = folder / f"seed{picture.cell.seed}-{key}.png"
    if not (target.is_file() and file_sha256(target) == picture.sample.sha256):
        source.copy(picture.sample.image, target, sha256=picture.sample.sha256)
    sidecar = target.with_suffix(".json")
    if not sidecar.is_file():
        source.copy(picture.sample.image.removesuffix(".png") + ".json", sidecar)
    return target


def _known(folder: Path) -> dict[str, list[str]]:
    """What an earlier pull put here: file -> hash that is recorded, hash of the file."""
    try:
        known = json.loads((folder / PULLED).read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}


def _trial_name(picked: Pick) -> str:
    name = picked.checkpoint.trial.rpartition("-")[0]
    return name if name in picked.config.trials else next(iter(picked.config.trials))


def _number(text: str) -> int:
    if not text.isdigit():
        raise ConfigError(f"no epoch is called {text!r}", where="--epoch", fix="write best, last, or a number")
    return int(text)
