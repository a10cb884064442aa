"""What a study needs and this machine lacks, found before anything is done: weights, pictures, a GPU, an account."""

from __future__ import annotations

import netrc
import os
import shutil
from pathlib import Path

from anima.base import POCKET, base_folder, missing_parts
from orchestrator.config import StudyConfig
from orchestrator.core.errors import ConfigError, MissingError

HUB = "hf://"


def missing(config: StudyConfig) -> list[MissingError]:
    """Everything that is not there, each with how to get it."""
    return [
        *_missing_base(config.base),
        *_missing_dataset(config),
        *_missing_gpu(config),
        *_missing_account(config),
    ]


def resolve_base(base: str) -> Path:
    """The folder of a base model. `hf://owner/model` is looked for in the hub's local cache; nothing is fetched."""
    if not base.startswith(HUB):
        return base_folder(base)
    owner, _, name = base.removeprefix(HUB).partition("/")
    if not owner or not name or "/" in name:
        raise ConfigError(f"cannot read base {base!r}", fix="write hf://owner/model")
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    model = hub / f"models--{owner}--{name}"
    revision = model / "refs" / "main"
    return model / "snapshots" / (revision.read_text().strip() if revision.is_file() else "main")


def _missing_base(base: str) -> list[MissingError]:
    folder = resolve_base(base)
    parts = missing_parts(folder)
    if not parts:
        return []
    if base.startswith(HUB):
        fix = f"fetch it once, where the network is fast: hf download {base.removeprefix(HUB)}"
        return [MissingError(f"base {base} is not in the hub's local cache", where=str(folder), fix=fix)]
    if folder == POCKET:
        fix = "the miniature is part of the repository: restore the folder from it"
    else:
        fix = "put a model in diffusers layout there, or set base: pocket"
    what = f"base weights are missing: no {', '.join(parts)}" if folder.is_dir() else "base weights are not there"
    return [MissingError(what, where=str(folder), fix=fix)]


def dataset_root(config: StudyConfig) -> Path:
    """Where the study's pictures are: the given folder, or the study's own."""
    root = config.dataset.root
    return Path(root).expanduser() if root else config.layout().dataset


def _missing_dataset(config: StudyConfig) -> list[MissingError]:
    root = dataset_root(config)
    if config.dataset.drawn is not None or root.is_dir():
        return []
    expected = sum(config.dataset.expect.values())
    pictures = f"{expected} pictures" if expected else "pictures"
    return [
        MissingError(
            "the dataset is not there",
            where=str(root),
            fix=f"put the {pictures} there, each with a caption of the same name (.txt), or correct dataset.root",
        )
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


def _missing_account(config: StudyConfig) -> list[MissingError]:
    if config.wandb.mode != "online" or os.environ.get("WANDB_API_KEY") or _has_login():
        return []
    return [
        MissingError(
            "no W&B login on this machine",
            where="wandb.mode",
            fix="run `wandb login` once, or set wandb.mode=offline and upload later with `wandb sync`",
        )
    ]


def _has_login() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
