"""What a study needs and this machine lacks, found before anything is done: weights, pictures, a GPU, an account."""

from __future__ import annotations

import netrc
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from anima.base import POCKET, base_folder, missing_parts
from anima.compiler import check_compiler
from anima.sources.adapters import missing_adapters
from anima.sources.config import BaseSources, HubPlace, LocalPlace, parse_place
from anima.sources.folders import is_remote, local_folder
from anima.sources.hub import cached_folder, is_offline, not_cached
from anima.sources.obtain import WHOLE_BASE, missing_sources
from orchestrator.core.errors import ConfigError, MissingError
from orchestrator.planning.config import StudyConfig

SERVICES = ("api.wandb.ai", "api.forge.coreweave.com")
"""Where W&B's client has its account when nothing else is said, by its version."""


def missing(config: StudyConfig) -> list[MissingError]:
    """Everything that is not there, each with how to get it."""
    return [
        *_missing_base(config.base),
        *missing_adapters(config.grid.with_adapters),
        *_missing_dataset(config),
        *_missing_gpu(config),
        *_missing_compiler(config),
        *_missing_account(config),
    ]


def resolve_base(base: str) -> Path:
    """The folder of a base that is not put together from sources. Nothing is fetched: `obtain_base` does that."""
    place = parse_place(base)
    if isinstance(place, HubPlace) and not place.file:
        return cached_folder(place)
    if not isinstance(place, LocalPlace):
        raise ConfigError(f"base {base!r} is one file", fix=WHOLE_BASE)
    return base_folder(base)


def tokenizers_folder(base: BaseSources | str) -> Path | None:
    """Where the tokenizers of a base are, as far as that is known before anything is fetched."""
    if isinstance(base, str):
        return resolve_base(base)
    for source in (base.tokenizers, *base.sources.values()):
        match source.place if source else None:
            case LocalPlace(path) if path.is_dir():
                return path
            case HubPlace(file="") as place:
                return cached_folder(place)
    return None


def _missing_base(base: BaseSources | str) -> list[MissingError]:
    if isinstance(base, BaseSources):
        return missing_sources(base)
    place, folder = parse_place(base), resolve_base(base)
    parts = missing_parts(folder)
    if not parts:
        return []
    if isinstance(place, HubPlace):
        return [not_cached(place)] if is_offline() else []
    if folder.is_file():
        return [MissingError("a base is more than one file", where=str(folder), fix=WHOLE_BASE)]
    if folder == POCKET:
        fix = "the miniature is part of the repository: restore the folder from it"
    else:
        fix = "put a model in diffusers layout there, or set base: pocket"
    what = f"base weights are missing: no {', '.join(parts)}" if folder.is_dir() else "base weights are not there"
    return [MissingError(what, where=str(folder), fix=fix)]


def dataset_root(config: StudyConfig) -> Path:
    """Where the study's pictures are: the given folder, where the program runs for folders without one, or its own."""
    root = config.dataset.root or ("." if config.dataset.folders else "")
    return local_folder(root) if root else config.layout().dataset


def dataset_folders(config: StudyConfig) -> list[Path]:
    """Every folder that holds pictures of the study."""
    root = dataset_root(config)
    return [root / local_folder(folder.path) for folder in config.dataset.folders] or [root]


def _missing_dataset(config: StudyConfig) -> list[MissingError]:
    # What lies in a store is fetched when the study begins.
    addresses = [folder.path for folder in config.dataset.folders] or [config.dataset.root]
    places = zip(dataset_folders(config), addresses, strict=True)
    folders = [folder for folder, address in places if not folder.is_dir() and not is_remote(address)]
    if config.dataset.drawn is not None or not folders:
        return []
    expected = sum(config.dataset.expect.values())
    pictures = f"{expected} pictures" if expected else "pictures"
    return [
        MissingError(
            "the dataset is not there",
            where=str(folder),
            fix=f"put the {pictures} there, each with a caption of the same name (.txt), or correct "
            + ("dataset.folders" if config.dataset.folders else "dataset.root"),
        )
        for folder in folders
    ]


def _missing_gpu(config: StudyConfig) -> list[MissingError]:
    if config.cluster.device == "cpu" or Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return []
    return [
        MissingError(
            "no NVIDIA GPU on this machine",
            where="cluster.device",
            fix="run it on a machine that has one (plan lists kinds of pods with their price); cpu suits pocket only",
        )
    ]


def _missing_compiler(config: StudyConfig) -> list[MissingError]:
    """Of machines that join a cluster, each says so itself when it draws."""
    if not config.grid.drawing.compile or config.cluster.address:
        return []
    try:
        check_compiler(config.cluster.device)
    except MissingError as error:
        return [error]
    return []


def _missing_account(config: StudyConfig) -> list[MissingError]:
    if config.wandb.mode != "online" or os.environ.get("WANDB_API_KEY") or _has_login():
        return []
    return [
        MissingError(
            "no W&B login on this machine",
            where="wandb.mode",
            fix="run `wandb login` once, or set wandb.mode=offline and upload later with `python -m orchestrator sync`",
        )
    ]


def _has_login() -> bool:
    """Whether ~/.netrc (or $NETRC) has an entry for the service, as `wandb login` writes it."""
    own = os.environ.get("WANDB_BASE_URL")
    hosts = (urlsplit(own).hostname or own,) if own else SERVICES
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(host) is not None for host in hosts)
