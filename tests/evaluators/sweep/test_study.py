"""What the page on grids shows as YAML is what the program reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluators.config import GridConfig
from evaluators.sweep.study import SweepStudy, load_sweep
from orchestrator.core.errors import ConfigError

PAGE = Path(__file__).parents[3] / "docs" / "grids.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def whole(grid: dict[str, Any]) -> dict[str, Any]:
    """A grid of the page with what it leaves out."""
    prompts = grid.get("prompts") or [{"name": "one", "text": "a", "cast": ["a"]}]
    return {"seeds": [1], **grid, "prompts": prompts}


@pytest.mark.parametrize("block", BLOCKS)
def test_every_example_is_valid(block: str) -> None:
    data = yaml.safe_load(block)
    GridConfig.model_validate(whole(data["grid"]))
    if "study" in data:
        assert SweepStudy.model_validate(data).adapters == "~/lora/kanachan_v4"


def test_the_page_shows_a_whole_file() -> None:
    assert sum("study:" in block for block in BLOCKS) == 1
    assert len(BLOCKS) == 4


def test_what_a_study_trains_is_passed_over_and_slips_are_not(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        next(block for block in BLOCKS if "study:" in block) + "train: {rank: 8}\nwandb: {mode: disabled}\n"
    )
    study = load_sweep(file, ["grid.seeds=[3]", f"volume={tmp_path}"])
    assert study.grid.seeds == (3,)
    assert study.layout().root == (tmp_path / "kanachan_v4").resolve()
    with pytest.raises(ConfigError, match="unknown key 'backned' — did you mean 'backend'"):
        load_sweep(file, ["backned=comfyui"])
    with pytest.raises(ConfigError, match=r"grid\.drawing\.compile: only the engine compiles"):
        load_sweep(file, ["backend=comfyui", "grid.drawing.compile=true"])
