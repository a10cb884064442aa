"""`plan`: expand a study on paper. Steps, exposures, pictures, hours and dollars per kind of pod, early warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evaluators.grid import pictures_to_choose_by, pictures_to_show
from evaluators.prompt_checks import look_warnings, word_warnings
from infra.pods import Offer, read_offers
from orchestrator.planning import audit
from orchestrator.planning.config import StudyConfig
from orchestrator.planning.preflight import dataset_folders, dataset_root, tokenizers_folder
from trainer.balance import Balance, deficits
from trainer.checkpoints import saved_epochs
from trainer.config import DatasetConfig, TrainConfig
from trainer.dataset import read_all_captions, steps_per_epoch


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What one trial takes. `pictures` are drawn for choosing; the fresh ones of the choice are the study's."""

    name: str
    epochs: int
    steps_per_epoch: int
    exposures_per_image: int
    saved: int
    pictures: int
    exposures: int
    """Pictures shown to the model in all."""
    pixels: int

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True, slots=True)
class PodPlan:
    """The study on one kind of pod, training and drawing on the same GPU one after the other."""

    offer: Offer
    training_hours: float
    drawing_hours: float

    @property
    def hours(self) -> float:
        return self.training_hours + self.drawing_hours

    @property
    def dollars(self) -> float:
        return self.hours * self.offer.dollars_per_hour


@dataclass(frozen=True, slots=True)
class Plan:
    """A study, expanded. `counted` says where the number of pictures comes from."""

    study: str
    images: int
    counted: str
    repeats: int
    trials: tuple[TrialPlan, ...]
    fresh_pictures: int
    shown_pictures: int
    """Controls and probes."""
    pods: tuple[PodPlan, ...]
    warnings: tuple[str, ...]

    @property
    def pictures(self) -> int:
        """Everything that is drawn."""
        return sum(t.pictures for t in self.trials) + self.fresh_pictures + self.shown_pictures


def make_plan(config: StudyConfig) -> Plan:
    """Count everything. Reads captions where the dataset is there; never opens a picture or a model."""
    pictures = _pictures(config)
    warnings = list(pictures.warnings)
    trials = tuple(_trial(config, name, train, pictures) for name, train in config.trials.items())
    fresh = len(config.grid.rate_prompts) * config.decide.confirm_seeds if config.judge.name != "none" else 0
    warnings += look_warnings(config.grid.prompts, config.cast, described=pictures.described)
    warnings += _unsaved_epochs(config)
    if (tokenizers := tokenizers_folder(config.base)) is not None:
        warnings += word_warnings(config.grid.prompts, tokenizers)
    if config.judge.name == "pixel" and config.base != "pocket":
        warnings.append("judge `pixel` reads pictures of the drawn world only; this base draws others")
    saved = [saved_epochs(train.epochs, train.save_every) for train in config.trials.values()]
    shown = pictures_to_show(config.grid, [config.grid.select_epochs(own) for own in saved])
    counts = (config.study, pictures.images, pictures.counted, config.dataset.repeats, trials, fresh, shown)
    plan = Plan(*counts, pods=(), warnings=tuple(warnings))
    offers = () if config.base == "pocket" else read_offers()
    return replace(plan, pods=tuple(_pod(config, plan, offer) for offer in offers))


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Pictures per set of triggers, where that is known from, and what the audit says of them."""

    groups: audit.Groups
    counted: str
    warnings: Sequence[str]
    described: frozenset[str] = frozenset()
    """Characters whose looks the captions write."""
    repeated: audit.Groups | None = None
    """Showings per set of triggers where folders have their own repeats, before `dataset.repeats`."""

    @property
    def images(self) -> int:
        return sum(self.groups.values())

    def shown(self, repeats: int, balance: Balance) -> int:
        """Showings per epoch."""
        groups = self.groups if self.repeated is None else self.repeated
        characters: Counter[str] = Counter()
        for who, pictures in groups.items():
            characters.update(dict.fromkeys(who, pictures * repeats))
        evened = deficits(characters) if balance == "per_character" else {}
        return sum(groups.values()) * repeats + sum(evened.values())


def _pictures(config: StudyConfig) -> _Pictures:
    root, triggers, dataset = dataset_root(config), config.triggers, config.dataset
    expected = {tuple(sorted(who.split("+"))): n for who, n in dataset.expect.items()}
    if dataset.drawn is not None:
        groups = _drawn_groups(dataset, triggers)
        return _Pictures(groups, "drawn by the study itself", audit.audit_counts(groups, config.grid.prompts, triggers))
    if not all(folder.is_dir() for folder in dataset_folders(config)):
        unknown = [] if expected else ["how many pictures there are is not known: give dataset.expect"]
        counted = f"as dataset.expect declares; {root} is not here"
        warnings = unknown or audit.audit_counts(expected, config.grid.prompts, triggers)
        return _Pictures(expected, counted, warnings)
    told = read_all_captions(root, dataset, triggers)
    captions = [(picture.triggers, picture.caption) for picture in told]
    found = audit.group(captions)
    warnings = audit.audit_counts(found, config.grid.prompts, triggers) + audit.audit_captions(captions, triggers)
    if expected and dict(found) != expected:
        warnings.append(
            f"dataset.expect declares {sum(expected.values())} pictures otherwise grouped than {root} holds"
        )
    repeated: Counter[tuple[str, ...]] = Counter()
    for picture in told:
        repeated[tuple(sorted(picture.triggers))] += picture.repeats
    described = audit.described_characters(captions)
    return _Pictures(found, f"captions in {root}", warnings, described, repeated)


def _drawn_groups(dataset: DatasetConfig, triggers: Sequence[str]) -> audit.Groups:
    drawn = dataset.drawn
    assert drawn is not None
    sizes = {1: drawn.solo, 2: drawn.pair, 3: drawn.trio}
    ordered = sorted(triggers)
    return {who: n for size, n in sizes.items() if comb(len(ordered), size) for who in combinations(ordered, size)}


def _trial(config: StudyConfig, name: str, train: TrainConfig, pictures: _Pictures) -> TrialPlan:
    grid = config.grid
    shown = pictures.shown(config.dataset.repeats, train.balance)
    saved = saved_epochs(train.epochs, train.save_every)
    return TrialPlan(
        name=name,
        epochs=train.epochs,
        steps_per_epoch=steps_per_epoch(shown, 1, train.batch, train.grad_accum),
        exposures_per_image=shown * train.epochs // max(pictures.images, 1),
        saved=len(saved),
        pictures=pictures_to_choose_by(grid, config.decide, len(grid.select_epochs(saved))),
        exposures=shown * train.epochs,
        pixels=train.resolution[0] * train.resolution[1],
    )


def _pod(config: StudyConfig, plan: Plan, offer: Offer) -> PodPlan:
    drawing = config.grid.drawing
    return PodPlan(
        offer,
        sum(offer.training_hours(t.exposures, t.pixels) for t in plan.trials),
        offer.drawing_hours(
            plan.pictures, drawing.width * drawing.height, drawing.steps, passes=1 if drawing.cfg == 1 else 2
        ),
    )


def _unsaved_epochs(config: StudyConfig) -> list[str]:
    asked = config.grid.epochs
    if not isinstance(asked, tuple):
        return []
    warnings = []
    for name, train in config.trials.items():
        saved = saved_epochs(train.epochs, train.save_every)
        if absent := [e for e in asked if e not in saved]:
            listed = ", ".join(map(str, absent))
            warnings.append(f"grid.epochs asks for epochs that trial {name!r} does not save: {listed}")
    return warnings


def render(plan: Plan) -> RenderableType:
    """The plan for a person; reads well at 80 columns and without colours."""
    parts: list[RenderableType] = [Text(f"Plan of study {plan.study}\n", style="bold"), _counts(plan)]
    if plan.pods:
        parts += [Text(), _pods(plan)]
        note = "Training and drawing on one GPU of the kind, at the snapshot prices and speeds of conf/rates.yaml."
        if any(p.offer.estimated for p in plan.pods):
            note += " ~ computed or second-hand, not measured."
        parts.append(Text(note, style="dim"))
    else:
        parts.append(Text("\nPocket Anima runs on this machine: minutes, no dollars.", style="dim"))
    parts += [Text(f"\nwarning: {warning}") for warning in plan.warnings]
    return Group(*parts)


def _counts(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for trial in plan.trials:
        if len(plan.trials) > 1:
            table.add_row(f"trial {trial.name}", "")
        rows = {
            "images": f"{plan.images} ({plan.counted})",
            "shown per epoch": _shown(trial, plan.repeats),
            "steps per epoch": f"{trial.steps_per_epoch}",
            "epochs": f"{trial.epochs}, {trial.saved} of them saved",
            "exposures per image": f"{trial.exposures_per_image}",
            "steps in all": f"{trial.steps:,}",
            "pictures to choose by": f"{trial.pictures:,}",
        }
        for name, value in rows.items():
            table.add_row(name, value)
    if plan.fresh_pictures:
        table.add_row("fresh pictures", f"{plan.fresh_pictures} of the adopted epoch")
    if plan.shown_pictures:
        table.add_row("controls and probes", f"{plan.shown_pictures}; no rate counts them")
    table.add_row("pictures in all", f"{plan.pictures:,}")
    return table


def _shown(trial: TrialPlan, repeats: int) -> str:
    """Pictures of an epoch, with the repeats of the YAML; those of folders and balance come on top."""
    return f"{trial.exposures // max(trial.epochs, 1)} (dataset.repeats {repeats})"


def _pods(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("pod with one", no_wrap=True)
    for name in ("GB", "$/h", "train h", "draw h", "hours", "dollars"):
        table.add_column(name, justify="right", no_wrap=True)
    for pod in plan.pods:
        guess = pod.offer.estimated
        table.add_row(
            pod.offer.name,
            f"{pod.offer.vram_gb:g}",
            _figure(f"{pod.offer.dollars_per_hour:.2f}", "dollars_per_hour" in guess),
            _figure(f"{pod.training_hours:.1f}", "training_images_per_second" in guess),
            _figure(f"{pod.drawing_hours:.2f}", "images_per_second" in guess),
            _figure(f"{pod.hours:.1f}", bool(guess - {"dollars_per_hour"})),
            _figure(f"{pod.dollars:.2f}", bool(guess)),
        )
    return table


def _figure(text: str, estimated: bool) -> str:
    return f"~{text}" if estimated else text
