"""A base put together from sources on this machine: one folder of links, which everything else loads from.

Each component's config.json stands beside its weights, under the names of diffusers layout whatever the files are
called at home, and both tokenizers with them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from anima.base import has_tokenizer
from anima.headers import read_header
from anima.match import WEIGHTED
from anima.sources.config import BaseSources
from orchestrator.core.errors import ConfigError, MissingError, WeightsError
from orchestrator.core.identity import digest

CONFIGS = Path(__file__).parent.parent / "configs"
"""config.json of every component in its published size."""
DEPTHS: Mapping[int, str] = {28: "transformer-2b.json", 40: "transformer-2.9b.json"}
TOKENIZERS: Mapping[str, tuple[str, ...]] = {
    "tokenizer": ("tokenizer", "qwen25_tokenizer", "qwen3_06b"),
    "t5_tokenizer": ("t5_tokenizer", "t5_old"),
}
"""Each tokenizer's folder in diffusers layout, then as ComfyUI and sd-scripts bring it."""
_BLOCK = re.compile(r"(?:^|\.)(?:transformer_)?blocks\.(\d+)\.(?:mlp\.layer1|ff\.net\.2)\.weight$")


def assemble(base: BaseSources, found: Mapping[str, Path], bases: Path) -> Path:
    """The folder, below `bases`, of a base whose sources were found as files or folders, by their key.

    Raises ConfigError or MissingError, naming the key, for what the sources do not hold; WeightsError for a
    transformer of a depth that no configuration is shipped for.
    """
    configs = Path(base.configs).expanduser() if base.configs else None
    links: dict[str, Path] = {}
    for part in WEIGHTED:
        own = part if part in found else "transformer"
        if found[own].is_file():
            links |= _file_links(part, found[own], configs)
        else:
            links |= _folder_links(part, found[own], own)
    links |= _tokenizer_links(found)
    return linked_folder(links, bases)


def _file_links(part: str, file: Path, configs: Path | None) -> dict[str, Path]:
    config = configs / part / "config.json" if configs else CONFIGS / _config_name(part, file)
    if not config.is_file():
        raise MissingError(f"no {part}/config.json", where=f"base.configs: {configs}", fix="give diffusers layout")
    weights = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
    return {f"{part}/config.json": config, f"{part}/{weights}": file}


def _config_name(part: str, file: Path) -> str:
    """The published configuration for a single file. Of transformers there are two depths."""
    if part != "transformer":
        return f"{part}.json"
    blocks = [int(found[1]) for key in read_header(file) if (found := _BLOCK.search(key))]
    depth = max(blocks, default=-1) + 1
    # A file without any block is no transformer at all, and is told so when it is matched.
    if depth and depth not in DEPTHS:
        known = " or ".join(map(str, DEPTHS))
        raise WeightsError(
            f"has {depth} blocks, published transformers have {known}",
            where=str(file),
            fix="name a folder with its config.json as base.configs",
        )
    return DEPTHS[depth or 28]


def _folder_links(part: str, folder: Path, key: str) -> dict[str, Path]:
    """A component of a diffusers-layout folder, or the folder itself where it is the component."""
    inside = folder / part
    if not inside.is_dir() and part == key and (folder / "config.json").is_file():
        inside = folder
    if not (inside / "config.json").is_file():
        fix = f"name a folder that holds {part}/, or give base.{part}"
        raise MissingError(f"no {part}/config.json", where=f"base.{key}: {folder}", fix=fix)
    files = [p for p in sorted(inside.iterdir()) if p.name == "config.json" or ".safetensors" in p.suffixes]
    return {f"{part}/{file.name}": file for file in files}


def _tokenizer_links(found: Mapping[str, Path]) -> dict[str, Path]:
    folder = found.get("tokenizers") or next((path for path in found.values() if path.is_dir()), None)
    if folder is None:
        raise ConfigError(
            "single files hold no tokenizers", where="base.tokenizers", fix="name a folder or hf://owner/model for them"
        )
    links: dict[str, Path] = {}
    for part, names in TOKENIZERS.items():
        inside = next((folder / name for name in names if has_tokenizer(folder / name)), None)
        if inside is None:
            raise MissingError(f"no {part}/tokenizer.json", where=f"base.tokenizers: {folder}", fix="name its folder")
        files = [p for p in sorted(inside.iterdir()) if p.suffix in (".json", ".txt", ".model")]
        links |= {f"{part}/{file.name}": file for file in files}
    return links


def linked_folder(links: Mapping[str, Path], bases: Path) -> Path:
    """A folder of absolute links, named by where they point; the same links are the same folder."""
    targets = {name: str(path.absolute()) for name, path in links.items()}
    folder = bases / digest(targets)
    if folder.is_dir():
        return folder
    bases.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bases, prefix=".new-") as aside:
        for name, target in targets.items():
            link = Path(aside, "base", name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        try:
            Path(aside, "base").rename(folder)
        except OSError:
            # Another process put the same links there first.
            if not folder.is_dir():
                raise
    return folder
