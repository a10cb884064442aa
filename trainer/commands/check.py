"""python -m trainer check: the report on a dataset, for each way the study's trials would train on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.core.errors import MissingError
from trainer.buckets import training_fits
from trainer.report import dataset_report
from trainer.study import load_study


def check(conf: Path, overrides: Sequence[str], console: Console) -> int:
    """Print it; trials that fit pictures alike are told of once. Returns the exit code."""
    study = load_study(conf, overrides)
    if study.dataset.drawn is not None and not study.dataset_root().is_dir():
        raise MissingError(
            "the study draws its pictures when it is run first",
            where=str(study.dataset_root()),
            fix=f"python -m trainer run {conf}",
        )
    dataset = study.read_dataset()
    reports: dict[str, list[str]] = {}
    for name, train in study.trials.items():
        reports.setdefault(dataset_report(dataset, training_fits(dataset, train)), []).append(name)
    for report, names in reports.items():
        if len(reports) > 1:
            console.print(f"trials {', '.join(names)}", markup=False, highlight=False)
        console.print(report, markup=False, highlight=False, soft_wrap=True)
    return 0
