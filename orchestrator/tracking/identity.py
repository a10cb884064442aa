"""Which W&B run is which, and what each says about itself: configuration, code, dataset and base, by content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.core.identity import digest
from orchestrator.core.version import VERSION
from orchestrator.planning.config import StudyConfig, to_data

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "trainer", "evaluators", "infra", "anima")
STUDY = ""
"""The study's own run, where a trial's id names the run of that trial."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a study was made from, by content."""

    base_sha256: str = ""
    dataset_sha256: str = ""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """A run before it is begun. `run_id` never changes for what trains the same."""

    run_id: str
    name: str
    job_type: str
    config: dict[str, Any]


def study_run_id(config: StudyConfig) -> str:
    """The run of a study: the same as long as it trains the same; a changed grid continues the same run."""
    return digest(config.model_dump(mode="json", include={"study", "base", "cast", "dataset", "trials"}), length=12)


def trial_run_id(config: StudyConfig, trial: str) -> str:
    """The run of a trial: the same as long as the trial is the same trial of a study of this name."""
    return digest({"study": config.study, "trial": trial}, length=12)


def identify(config: StudyConfig, key: str, origin: Origin) -> RunIdentity:
    """The run named by `key`: a trial's id, or STUDY."""
    facts = {"code": code_identity(), "base_sha256": origin.base_sha256, "dataset_sha256": origin.dataset_sha256}
    if key == STUDY:
        return RunIdentity(study_run_id(config), config.study, "study", to_data(config) | facts)
    name = key.rpartition("-")[0]
    train = config.trials[name].model_dump(mode="json") if name in config.trials else {}
    about = {"study": config.study, "trial": key, "train": train, "grid": to_data(config)["grid"]}
    return RunIdentity(trial_run_id(config, key), f"{config.study} {key}", "trial", about | facts)


@cache
def code_identity() -> dict[str, str]:
    """The program: its version, the hash of its source files, and the commit where the checkout has one."""
    sources = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py")):
        sources.update(f"{path.relative_to(PROJECT).as_posix()}\n".encode() + path.read_bytes())
    return {"version": VERSION, "sha256": sources.hexdigest(), "commit": _commit(PROJECT / ".git")}


def _commit(git: Path) -> str:
    """What HEAD points to, or nothing where that takes more than reading two files."""
    try:
        head = (git / "HEAD").read_text().strip()
        return (git / head.removeprefix("ref: ")).read_text().strip() if head.startswith("ref: ") else head
    except OSError:
        return ""
