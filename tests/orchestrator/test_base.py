"""A study on base weights in published single files. (Apart from test_run.py, whose child processes need no torch.)"""

from __future__ import annotations

from pathlib import Path

from anima.base import POCKET, base_sha256
from orchestrator.run import prepare
from tests.anima.single_files import write_single_files
from tests.orchestrator.test_run import study_config


def test_a_study_on_single_files_is_another_study_than_on_the_folder_they_came_from(tmp_path: Path) -> None:
    """Their bytes differ; by whatever way the same bytes come, it is the same study."""
    files = write_single_files(tmp_path / "files")
    named = f"transformer: {files.transformer}, text_encoder: {files.text_encoder}, vae: {files.vae}"
    single = prepare(study_config(tmp_path, f"base={{{named}, tokenizers: pocket, configs: {POCKET}}}"))
    folder = prepare(study_config(tmp_path))
    assert sum(report.matched for report in single.weights) == sum(report.matched for report in folder.weights)
    assert single.base_sha256 != folder.base_sha256
    assert base_sha256(POCKET) == folder.base_sha256
