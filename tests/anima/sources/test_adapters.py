"""Adapters that are drawn along come from where a base may come from, and are looked at before anything is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from anima.sources.adapters import missing_adapters, obtain_adapters
from anima.sources.config import Source
from anima.sources.store import WeightStore
from orchestrator.core.errors import AdapterError, MissingError, WeightsError
from orchestrator.core.identity import file_sha256

Q_PROJ = "blocks_0_self_attn_q_proj"


def adapter(path: Path, layer: str = f"lora_unet_{Q_PROJ}") -> Path:
    sides = {"lora_down": (2, 8), "lora_up": (8, 2)}
    save_file({f"{layer}.{side}.weight": np.ones(shape, np.float32) for side, shape in sides.items()}, path)
    return path


def test_a_file_is_found_with_its_content(tmp_path: Path) -> None:
    turbo = adapter(tmp_path / "turbo.safetensors")
    (found,) = obtain_adapters([Source(source=str(turbo))], store=WeightStore(tmp_path / "cache"))
    assert (found.path, found.sha256) == (turbo, file_sha256(turbo))


def test_what_is_no_adapter_of_anima_is_refused(tmp_path: Path) -> None:
    store = WeightStore(tmp_path / "cache")
    stranger = adapter(tmp_path / "sdxl.safetensors", "lora_unet_input_blocks_4_1_proj_in")
    save_file({"weight": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    for path, said in ((stranger, "changes no layer of Anima"), (tmp_path / "model.safetensors", "is no adapter")):
        with pytest.raises(AdapterError, match=said):
            obtain_adapters([Source(source=str(path))], store=store)


def test_another_content_than_the_study_says_is_refused(tmp_path: Path) -> None:
    turbo = adapter(tmp_path / "turbo.safetensors")
    with pytest.raises(WeightsError, match=r"correct grid\.with_adapters"):
        obtain_adapters([Source(source=str(turbo), sha256="0" * 64)], store=WeightStore(tmp_path / "cache"))


def test_an_absent_file_is_told_before_and_refused_after(tmp_path: Path) -> None:
    absent = [Source(source=str(tmp_path / "turbo.safetensors"))]
    (fault,) = missing_adapters(absent)
    assert str(fault).startswith("grid.with_adapters: ")
    with pytest.raises(MissingError, match="there is no such file"):
        obtain_adapters(absent, store=WeightStore(tmp_path / "cache"))


def test_adapters_of_other_families_pass_another_check(tmp_path: Path) -> None:
    store = WeightStore(tmp_path / "cache")
    seen: list[Path] = []
    stranger = adapter(tmp_path / "sdxl.safetensors", "lora_unet_input_blocks_4_1_proj_in")
    (found,) = obtain_adapters([Source(source=str(stranger))], store=store, check=seen.append)
    assert seen == [stranger]
    assert found.sha256 == file_sha256(stranger)
