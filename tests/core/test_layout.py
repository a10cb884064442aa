"""Recorded paths come from files that others may have written: they never lead out of the study's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.errors import ConfigError
from orchestrator.core.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("s")
    root = tmp_path / "study"
    (root / "grid" / "inner").mkdir(parents=True)
    (root / "grid" / "a.png").write_text("a")
    (root / "grid" / "out").symlink_to(tmp_path / "outside")
    (root / "grid" / "out.png").symlink_to(tmp_path / "outside" / "secret")
    (root / "grid" / "in.png").symlink_to(root / "grid" / "a.png")
    return Layout(root)


@pytest.mark.parametrize(
    ("relative", "name"),
    [
        ("grid/a.png", "a.png"),
        ("grid/inner/../a.png", "a.png"),
        ("grid/in.png", "a.png"),
        ("grid/none.png", "none.png"),
    ],
)
def test_what_is_inside_is_found(layout: Layout, relative: str, name: str) -> None:
    assert layout.resolve(relative) == layout.root.resolve() / "grid" / name


@pytest.mark.parametrize(
    "relative",
    [
        "../outside/secret",
        "..",
        "grid/..//../outside/secret",
        "grid/out/secret",
        "grid/out.png",
        "/etc/passwd",
        "/passwd",
        "grid/../..",
    ],
)
def test_what_leads_out_is_refused_each_time(layout: Layout, relative: str) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="leaves the study folder"):
            layout.resolve(relative)
