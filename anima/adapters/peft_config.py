"""The scale of an adapter whose file leaves it to PEFT's configuration.

diffusers writes the configuration into the file's metadata (`lora_adapter_metadata`), PEFT writes `adapter_config.json`
beside the file. Both say r, alpha and exceptions by layer; a loader that ignores them applies another adapter.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anima.adapters.names import Component, Layer
from orchestrator.core.errors import AdapterError

IN_FILE = "lora_adapter_metadata"
BESIDE = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """What the configuration says, by component; `where` names it in errors."""

    by_component: Mapping[Component | None, Mapping[str, Any]]
    where: str

    @classmethod
    def parse(cls, text: str, where: str) -> PeftConfig:
        """Read the JSON of a configuration. Raises AdapterError if it is none, or if it asks for DoRA."""
        try:
            entries = json.loads(text)
            flat = {str(key): value for key, value in entries.items()}
        except (ValueError, AttributeError, RecursionError) as error:
            raise AdapterError(f"has a PEFT configuration that cannot be read ({error})", where=where) from error
        components: dict[Component | None, dict[str, Any]] = {}
        for key, value in flat.items():
            component, _, name = key.rpartition(".")
            known: Component | None = (
                "transformer" if component == "transformer" else "text_conditioner" if component else None
            )
            components.setdefault(known, {})[name] = value
        if any(entries.get("use_dora") for entries in components.values()):
            raise AdapterError("is a DoRA by its PEFT configuration", where=where, fix="train it as a plain LoRA")
        return cls(components, where)

    def scale(self, layer: Layer, rank: int | None) -> float:
        """alpha / r of a layer (alpha / sqrt(r) if rank-stabilised), 1 if the configuration is silent on it.

        rank: of the layer's factors as stored; None where it has none, then the configuration's r.
        """
        entries = self.by_component.get(layer.component, self.by_component.get(None, {}))
        alpha = self._exception(entries, "alpha_pattern", layer) or entries.get("lora_alpha") or entries.get("alpha")
        r = rank or self._exception(entries, "rank_pattern", layer) or entries.get("r")
        if alpha is None or r is None:
            return 1.0
        try:
            scale = float(alpha) / (math.sqrt(r) if entries.get("use_rslora") else float(r))
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            scale = math.nan
        if not math.isfinite(scale):
            raise AdapterError(
                f"has a PEFT configuration with r={r!r}, alpha={alpha!r} for {layer.comfy}", where=self.where
            )
        return scale

    def _exception(self, entries: Mapping[str, Any], rule: str, layer: Layer) -> Any:
        """The value a pattern table has for the layer; patterns are names, from the start (^) or from any dot on."""
        table = entries.get(rule)
        for pattern, value in table.items() if isinstance(table, dict) else ():
            name = pattern.removeprefix("^").replace("\\.", ".")
            # Any regular expression is allowed there; one out of a file is not run.
            if not re.fullmatch(r"[\w.]+", name):
                raise AdapterError(f"has a PEFT configuration with a rule not read here: {pattern}", where=self.where)
            whole = (layer.module, layer.original)
            if name in whole or (pattern == name and any(path.endswith(f".{name}") for path in whole)):
                return value
        return None
