"""Where base models are and who they are, without loading them (and without torch)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from orchestrator.core.identity import file_sha256, folder_sha256

POCKET = Path(__file__).parent / "pocket" / "base"
PARTS: dict[str, str] = {
    "transformer": "config.json",
    "text_conditioner": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer.json",
    "t5_tokenizer": "tokenizer.json",
}

PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


def base_folder(name: str) -> Path:
    """The folder of a base by the name a study gives it: `pocket` or a path."""
    return POCKET if name == "pocket" else Path(name).expanduser()


def missing_parts(folder: Path) -> list[str]:
    """Components a diffusers-layout folder lacks."""
    missing = [
        part
        for part, file in PARTS.items()
        if not (has_tokenizer(folder / part) if "tokenizer" in part else (folder / part / file).is_file())
    ]
    unweighted = [
        part
        for part in PARTS
        if part not in missing and "tokenizer" not in part and not any((folder / part).glob("*.safetensors"))
    ]
    return [*missing, *(f"{part} weights{_only_pickles(folder / part)}" for part in unweighted)]


def _only_pickles(folder: Path) -> str:
    """Says so when the weights are there in a format that is never read."""
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICKLE_SUFFIXES)
    return f" ({pickles[0]} is a pickle, which can run any code, and is not read)" if pickles else ""


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer: in one file, or as its older parts."""
    return any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES)


def base_sha256(folder: Path) -> str:
    """Identity of a base: the content of every configuration, weight and tokenizer file under its name in the folder.

    It is a function of bytes and of names below the folder alone: where the folder is, which machine it is on and by
    what way it came there change nothing, and neither do links. It is not a function of the numbers: one model saved as
    a diffusers folder and as single files, or in another dtype, is two bases. Whether their tensors are the same could
    only be told by reading them all, and what a dtype rounds away shows in pictures.
    """
    big = {_file_key(file): file for file in folder.rglob("*.safetensors") if file.is_file()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # One file may stand for two components: the published transformer file holds the text conditioner too.
        list(pool.map(content_sha256, big.values()))
    return folder_sha256(folder, suffixes=(".safetensors", ".json", ".txt"), file_hash=content_sha256)


def content_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes; of a big file that did not change since, it is remembered in this process."""
    key = _file_key(path)
    if key.size < BIG_BYTES:
        return file_sha256(path)
    if key not in _remembered:
        _remembered[key] = file_sha256(path)
    return _remembered[key]


BIG_BYTES = 16 << 20


class _FileKey(NamedTuple):
    device: int
    inode: int
    size: int
    modified_ns: int


_remembered: dict[_FileKey, str] = {}


def _file_key(path: Path) -> _FileKey:
    status = path.stat()
    return _FileKey(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
