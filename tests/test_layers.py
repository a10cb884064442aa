"""The house stands in layers, and imports point downwards only: roof, walls, anima, floor.

The first half reads every import of every source file; the second half starts a fresh interpreter and looks at what the
modules that promise to be light really load.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WALLS = ("trainer", "evaluators", "infra")
PACKAGES = ("orchestrator", *WALLS, "anima", "benchmarks")
FLOOR = "orchestrator.core"
ROOF = ("record", "planning", "deciding", "crew", "keeping", "watching", "report", "tracking", "pulling")
"""The packages of a study in the order in which they may know each other; `docs/architecture.md` says what each is."""
MAY_IMPORT = {
    FLOOR: {FLOOR},
    "anima": {"anima", FLOOR},
    **{wall: {wall, "anima", FLOOR} for wall in WALLS},
    "orchestrator": {"orchestrator", *WALLS, "anima", FLOOR},
    # Measured, never used: nothing may import it.
    "benchmarks": {"benchmarks", "orchestrator", *WALLS, "anima", FLOOR},
}
ONLY_RAY_FILES = ("orchestrator.crew.actors", "orchestrator.crew.session")

HEAVY = ("torch", "ray", "diffusers", "transformers", "accelerate", "peft", "wandb", "boto3")
LIGHT = (
    "orchestrator.__main__",
    "orchestrator.commands.*",
    "orchestrator.controller",
    "orchestrator.core.*",
    "orchestrator.crew.roster",
    "orchestrator.crew.work",
    "orchestrator.deciding.*",
    "orchestrator.keeping.*",
    "orchestrator.planning.*",
    "orchestrator.pulling.*",
    "orchestrator.record.*",
    "orchestrator.report.*",
    "orchestrator.watching.glance",
    "orchestrator.watching.pulse",
    "orchestrator.watching.status",
    "trainer.__main__",
    "trainer.balance",
    "trainer.buckets",
    "trainer.caption_files",
    "trainer.captions",
    "trainer.checkpoints",
    "trainer.commands.check",
    "trainer.commands.importing",
    "trainer.config",
    "trainer.dataset",
    "trainer.identity",
    "trainer.importing.*",
    "trainer.job",
    "trainer.metrics",
    "trainer.pictures",
    "trainer.record",
    "trainer.report",
    "trainer.schedule",
    "trainer.study",
    "evaluators.__main__",
    "evaluators.adapter_source",
    "evaluators.comfyui.*",
    "evaluators.commands.*",
    "evaluators.config",
    "evaluators.critic",
    "evaluators.decide.*",
    "evaluators.grid",
    "evaluators.judges.look",
    "evaluators.prompt_checks",
    "evaluators.prompts",
    "evaluators.rates",
    "evaluators.sidecar",
    "evaluators.sweep.*",
    "evaluators.thumbnails",
    "infra.*",
    "anima.__main__",
    "anima.base",
    "anima.commands.*",
    "anima.headers",
    "anima.match",
    "anima.order",
    "anima.png",
    "anima.prompt",
    "anima.settings",
    "anima.sources.*",
    "anima.tensors",
    "anima.vocabulary",
)
"""Modules that plan, decide, or show what is known: they must start at once, anywhere."""


@dataclass(frozen=True, order=True)
class Import:
    """`module` imports `target` (a module, or a name within one) on a line of its file."""

    module: str
    target: str
    line: int


def modules(root: Path) -> dict[str, Path]:
    """Every source file of the project's packages below `root`, by dotted name."""
    files = (path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(module: str, path: Path) -> Iterator[Import]:
    """All imports of a file: at the top, inside functions, for type checking only, and by `import_module("...")`."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        match node:
            case ast.Import(names=names):
                yield from (Import(module, name.name, node.lineno) for name in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                base = package.rsplit(".", level - 1)[0] if level else ""
                origin = ".".join(part for part in (base, source) if part)
                yield from (Import(module, f"{origin}.{name.name}", node.lineno) for name in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(target)), *_],
            ):
                yield Import(module, target, node.lineno)


def layer(name: str) -> str | None:
    """The layer a dotted name belongs to; None outside the project."""
    if name == FLOOR or name.startswith(f"{FLOOR}."):
        return FLOOR
    top = name.partition(".")[0]
    return top if top in PACKAGES else None


def violations(root: Path) -> list[str]:
    """Every import below `root` that points upwards, sideways, or out of where it may."""
    found = []
    for module, path in modules(root).items():
        for edge in sorted(set(imports(module, path))):
            own, target = layer(module), layer(edge.target)
            assert own is not None
            top = edge.target.partition(".")[0]
            if target is not None and target not in MAY_IMPORT[own]:
                found.append(f"{module}:{edge.line} imports {edge.target}: {own} must not know {target}")
            if "orchestrator" == own == target and _storey(edge.target) > _storey(module):
                found.append(f"{module}:{edge.line} imports {edge.target}: it comes later in ROOF")
            if target is None and own == FLOOR and top not in sys.stdlib_module_names:
                found.append(f"{module}:{edge.line} imports {edge.target}: the floor is standard library only")
            if top == "ray" and module not in ONLY_RAY_FILES:
                only = " and ".join(ONLY_RAY_FILES)
                found.append(f"{module}:{edge.line} imports {edge.target}: only {only} may import ray")
    return found


def _storey(module: str) -> int:
    """How high in the roof a module is; what is in none of its packages is above them all."""
    package = [*module.split("."), ""][1]
    return ROOF.index(package) if package in ROOF else len(ROOF)


def light_modules() -> list[str]:
    """The modules that promise to be light and exist, in the order of LIGHT."""
    return [module for pattern in LIGHT for module in modules(ROOT) if fnmatchcase(module, pattern)]


def test_imports_point_downwards_only() -> None:
    assert violations(ROOT) == []
    assert len(modules(ROOT)) >= 30, "the check itself must see the project"


def test_the_roof_costs_nothing_to_enter() -> None:
    """Everything imports `orchestrator` on its way to the floor."""
    assert (ROOT / "orchestrator" / "__init__.py").read_text() == ""


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("orchestrator/core/layout", "import anima.flow", "orchestrator.core must not know anima"),
        ("orchestrator/core/layout", "from orchestrator import ledger", "orchestrator.core must not know orchestrator"),
        ("orchestrator/core/layout", "from ..ledger import Event", "orchestrator.core must not know orchestrator"),
        ("orchestrator/core/layout", "import pydantic", "standard library only"),
        ("anima/load", "from trainer.config import TrainConfig", "anima must not know trainer"),
        ("trainer/loop", "from evaluators import draw", "trainer must not know evaluators"),
        ("infra/volume", "def later():\n    import orchestrator.record.ledger", "infra must not know orchestrator"),
        ("evaluators/draw", "import ray", "may import ray"),
        ("orchestrator/record/state", "from orchestrator.deciding.policy import decide", "comes later in ROOF"),
        ("orchestrator/deciding/policy", "import orchestrator.controller", "comes later in ROOF"),
        (
            "orchestrator/controller",
            "from ray.util import placement_group",
            "may import ray",
        ),
        (
            "orchestrator/plan",
            "import importlib\nimportlib.import_module('ray')",
            "may import ray",
        ),
        (
            "trainer/loop",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import infra.pods",
            "not know infra",
        ),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, module: str, source: str, why: str) -> None:
    write_house(tmp_path, {module: source})
    assert len(violations(tmp_path)) == 1
    assert why in violations(tmp_path)[0]


def test_an_allowed_house_passes(tmp_path: Path) -> None:
    allowed = {
        "orchestrator/core/layout": "import json\nfrom . import errors\nfrom orchestrator.core.errors import BusyError",
        "anima/load": "import torch\nfrom orchestrator.core import errors",
        "trainer/loop": "import anima.load\nfrom .config import TrainConfig\nfrom orchestrator import core",
        "orchestrator/crew/actors": "import ray\nimport trainer.loop, evaluators.draw",
    }
    write_house(tmp_path, allowed)
    assert violations(tmp_path) == []
    assert set(modules(tmp_path)) == {name.replace("/", ".") for name in allowed}


def write_house(root: Path, sources: dict[str, str]) -> None:
    for name, source in sources.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source + "\n")


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """For each light module, the heavy packages that its import brought into a fresh interpreter, or its error."""
    code = (
        "import importlib, json, sys\n"
        "names, heavy = json.loads(sys.argv[1])\n"
        "seen, brought = set(), {}\n"
        "for name in names:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "        brought[name] = sorted(set(heavy) & set(sys.modules) - seen)\n"
        "    except Exception as error:\n"
        "        brought[name] = [repr(error)]\n"
        "    seen |= set(brought[name])\n"
        "print(json.dumps(brought))\n"
    )
    arguments = json.dumps([[*light_modules(), "wandb"], HEAVY])
    child = subprocess.run([sys.executable, "-c", code, arguments], cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return dict(json.loads(child.stdout))


@pytest.mark.parametrize("module", light_modules())
def test_light_modules_load_nothing_heavy(loaded: dict[str, list[str]], module: str) -> None:
    assert loaded[module] == []


def test_the_look_inside_the_interpreter_sees_heavy_packages(loaded: dict[str, list[str]]) -> None:
    assert "wandb" in loaded["wandb"]
    assert len(loaded) > 25


@pytest.mark.parametrize(
    "command",
    [
        "orchestrator --help",
        "orchestrator plan conf/trio_v2.yaml",
        "orchestrator status conf/quickstart.yaml",
        "anima --help",
        "evaluators --help",
        "evaluators grid --help",
        "evaluators grid conf/trio_v2.yaml volume=none",
        "anima draw --help",
        "anima draw 1girl --size 1x1",
    ],
)
def test_commands_that_only_tell_load_nothing_heavy(command: str) -> None:
    arguments = [sys.executable, "-X", "importtime", "-m", *command.split()]
    child = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in child.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "argparse" in imported
    assert imported & set(HEAVY) == set()
