"""From one file layout to another: the same merged weights, the same metadata, other names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anima.adapter_files import metadata_of, peft_config
from anima.adapters.container import AdapterFile, read_content, unsound_numbers, write_content
from anima.adapters.layouts import Layout, tensors_in
from anima.adapters.names import layout_of
from anima.adapters.peft_config import IN_FILE
from anima.adapters.reading import deltas_of
from orchestrator.core.errors import AdapterError, ConfigError

# Hashes of other bytes, and a scale that is in the tensors now.
_STALE = (IN_FILE, "sshash_model_hash", "sshash_legacy_hash", "modelspec.hash_sha256")


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was read and what was written."""

    source: AdapterFile
    source_layout: str
    target: AdapterFile
    target_layout: Layout
    layers: int
    kinds: tuple[str, ...]
    widened: int
    """Tensors written in fp32 because their dtype does not hold what the scale makes of them."""


def convert(source: Path, target: Path, layout: Layout, *, replace: bool = False) -> Conversion:
    """Write the adapter of `source` to `target` in another layout.

    Raises AdapterError for a source that is not sound, not for Anima, or has no form in `layout`; ConfigError if the
    target is there already (unless `replace`); VolumeError if it cannot be written.
    """
    if target.suffix != ".safetensors":
        raise AdapterError("is not named .safetensors", where=str(target), fix="name the new file so")
    if target.exists() and not replace:
        raise ConfigError("exists already", where=str(target), fix="give another name, or --force to replace it")
    content = read_content(source)
    deltas = deltas_of(content.tensors, where=str(source), config=peft_config(content))
    for key, what in unsound_numbers(content.tensors).items():
        raise AdapterError(f"{what} in {key}", where=str(source), fix="fetch or train it again")
    metadata_of(content)
    tensors = tensors_in(layout, deltas, where=str(source))
    strings = {key: text for key, text in content.strings.items() if key not in _STALE}
    source_layout = layout_of(content.tensors)
    strings |= {"converted_from_sha256": content.file.sha256, "converted_from_layout": source_layout}
    written = write_content(target, tensors, strings)
    stored = {tensor.dtype for key, tensor in content.tensors.items() if not key.endswith(".alpha")}
    return Conversion(
        source=content.file,
        source_layout=source_layout,
        target=written,
        target_layout=layout,
        layers=len(deltas),
        kinds=tuple(sorted({delta.kind for delta in deltas.values()})),
        widened=sum(t.dtype not in stored for key, t in tensors.items() if not key.endswith(".alpha")),
    )
