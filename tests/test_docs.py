"""What the pages point to is there, and README's map shows the tree as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "conf").glob("*.md"))]
PAGES += sorted((ROOT / "benchmarks").glob("*.md"))
PACKAGES = ("orchestrator", "trainer", "evaluators", "infra", "anima", "benchmarks", "tests", "conf", "docs")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_map_in_the_readme_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?`) \|", text[text.index("## Where things are") :], re.MULTILINE)
    first = [re.findall(r"`([^`]+)`", row) for row in rows]
    named = {names[0].rstrip("/") for names in first}
    # Several folders in one row: the others are given by their own name, beside the first.
    named |= {f"{names[0].split('/')[0]}/{name.rstrip('/')}" for names in first for name in names[1:]}
    assert [name for name in named if not (ROOT / name).is_dir()] == []
    assert set(PACKAGES) <= named
    inside = {f"orchestrator/{p.parent.name}" for p in (ROOT / "orchestrator").glob("*/__init__.py")}
    # Its commands are told of in the row of the package.
    assert inside - named == {"orchestrator/commands"}
