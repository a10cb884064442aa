"""How an adapter came to be, as strings in its file: exactly for this project, in the usual keys for other tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PREFIX = "adapter."


@dataclass(frozen=True, slots=True)
class AdapterMetadata:
    """How an adapter came to be. Written as strings named `adapter.<field>` in the file's metadata."""

    rank: int
    alpha: float
    """As trained; already folded into lora_B, so a loader must not apply it again."""
    base_sha256: str
    dataset_sha256: str
    trial: str
    epoch: int
    step: int
    """Optimizer steps so far."""
    exposures_per_image: float
    trigger_words: tuple[str, ...]
    project_version: str
    shown_characters: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Exposures so far of the pictures that show each character."""
    shown_pictures: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Exposures so far of each picture, by the first 12 signs of the hash of its bytes."""

    def to_strings(self) -> dict[str, str]:
        """Each field as JSON text, and what LoRA managers and web interfaces show (kohya's `ss_*`, SAI's modelspec)."""
        own = {PREFIX + name: json.dumps(value, ensure_ascii=False) for name, value in asdict(self).items()}
        made = f"epochsweep {self.project_version}, {self.exposures_per_image:g} exposures per image"
        shown = {
            "ss_base_model_version": "anima",
            "ss_network_module": "networks.lora_anima",
            "ss_network_dim": str(self.rank),
            "ss_network_alpha": str(self.alpha),
            "ss_output_name": f"{self.trial}-epoch{self.epoch:04d}",
            "ss_epoch": str(self.epoch),
            "ss_steps": str(self.step),
            "ss_training_comment": made,
            "modelspec.trigger_phrase": ", ".join(self.trigger_words),
        }
        return own | shown

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> AdapterMetadata | None:
        """Read what `to_strings` wrote; None where this project wrote nothing.

        Raises TypeError or ValueError for fields this version does not know.
        """
        values: dict[str, Any] = {
            key.removeprefix(PREFIX): json.loads(text) for key, text in strings.items() if key.startswith(PREFIX)
        }
        if not values:
            return None
        values["trigger_words"] = tuple(values.get("trigger_words", ()))
        return cls(**values)
