"""Where base models are and who they are, without loading them (and without torch)."""

from __future__ import annotations

from pathlib import Path

from orchestrator.core.identity import folder_sha256

POCKET = Path(__file__).parent / "pocket" / "base"
PARTS: dict[str, str] = {
    "transformer": "config.json",
    "text_conditioner": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer.json",
    "t5_tokenizer": "tokenizer.json",
}


def base_folder(name: str) -> Path:
    """The folder of a base by the name a study gives it: `pocket` or a path."""
    return POCKET if name == "pocket" else Path(name).expanduser()


def missing_parts(folder: Path) -> list[str]:
    """Components a diffusers-layout folder lacks."""
    missing = [part for part, file in PARTS.items() if not (folder / part / file).is_file()]
    unweighted = [
        part
        for part in PARTS
        if part not in missing and "tokenizer" not in part and not any((folder / part).glob("*.safetensors"))
    ]
    return [*missing, *(f"{part} weights" for part in unweighted)]


def base_sha256(folder: Path) -> str:
    """Identity of a base: the content of every configuration and weight file."""
    return folder_sha256(folder, suffixes=(".safetensors", ".json", ".txt"))
