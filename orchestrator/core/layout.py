"""Every path of a study, in one place. Names that go into a path are checked: data never chooses where we write."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from orchestrator.core.errors import ConfigError

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


def safe_name(name: str, *, what: str = "name") -> str:
    """`name` if it can be a file name on every system; otherwise a ConfigError."""
    if not _SAFE.fullmatch(name) or ".." in name:
        raise ConfigError(f"{what} {name!r} cannot be a file name", fix="use letters, digits, '.', '_' and '-'")
    return name


@dataclass(frozen=True, slots=True)
class Layout:
    """The folder of one study and everything in it.

    runs/quickstart/
    ├── study.yaml            the resolved configuration of the latest run
    ├── ledger.jsonl          append-only facts; everything else can be rebuilt or found from it
    ├── dataset/              pictures and captions, when the study draws its own
    ├── cache/                latents and text states, by content
    ├── trials/<trial>/       metrics.jsonl, state.json, epoch-0001/{adapter.safetensors, adapter.json},
    │                         state/epoch-0001/, samples/epoch-0001/
    ├── grid/epoch-0001/      <cell key>.png and <cell key>.json
    ├── quarantine/           files that failed their checksum, never read again
    ├── uploads.json          how far the copy on the volume is, when there is one
    ├── choice.json           the adopted epoch and its evidence
    ├── report.html           the page for people
    ├── figures/              its charts as PNG
    └── wandb/                offline W&B runs
    """

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "study.yaml"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def lock(self) -> Path:
        return self.root / "driver.lock"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads.json"

    @property
    def now(self) -> Path:
        return self.root / "now.json"

    @property
    def log(self) -> Path:
        return self.root / "run.log"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def choice(self) -> Path:
        return self.root / "choice.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def wandb(self) -> Path:
        return self.root

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    def trial(self, trial: str) -> Path:
        return self.root / "trials" / safe_name(trial, what="trial")

    def attempt(self, trial: str) -> Path:
        """The number of the attempt that may publish epochs of the trial."""
        return self.trial(trial) / "attempt"

    def metrics(self, trial: str) -> Path:
        return self.trial(trial) / "metrics.jsonl"

    def progress(self, trial: str) -> Path:
        """Where a trial stands, for other programs to read."""
        return self.trial(trial) / "state.json"

    def samples(self, trial: str, epoch: int) -> Path:
        """Folder of the pictures drawn while training, after an epoch."""
        return self.trial(trial) / "samples" / f"epoch-{epoch:04d}"

    def checkpoint(self, trial: str, epoch: int) -> Path:
        """Folder of a published epoch: adapter.safetensors and adapter.json, the commit marker written last."""
        return self.trial(trial) / f"epoch-{epoch:04d}"

    def adapter(self, trial: str, epoch: int) -> Path:
        return self.checkpoint(trial, epoch) / "adapter.safetensors"

    def state(self, trial: str, epoch: int) -> Path:
        return self.trial(trial) / "state" / f"epoch-{epoch:04d}"

    def states(self, trial: str) -> Path:
        """Folder of a trial's training states, each in a folder of its own."""
        return self.trial(trial) / "state"

    def image(self, trial: str, epoch: int, cell_key: str) -> Path:
        return self.root / "grid" / safe_name(trial) / f"epoch-{epoch:04d}" / f"{safe_name(cell_key)}.png"

    def relative(self, path: Path) -> str:
        """`path` as it is recorded: relative to the study folder, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def resolve(self, relative: str) -> Path:
        """The file a recorded path names; a path that leaves the study folder is refused."""
        folder, _, name = relative.rpartition("/")
        path = _inside(self.root, folder) / name
        if name in ("", ".", "..") or relative.startswith("/") or path.is_symlink():
            path = (self.root / relative).resolve()
            if not path.is_relative_to(_inside(self.root, "")):
                raise _leaves(self.root, relative)
        return path


@lru_cache(maxsize=4096)
def _inside(root: Path, folder: str) -> Path:
    """Where a folder of a study really is: asked for each of its pictures, and the same for all of them."""
    path = (root / folder).resolve()
    if not path.is_relative_to(root.resolve()):
        raise _leaves(root, folder)
    return path


def _leaves(root: Path, relative: str) -> ConfigError:
    return ConfigError(f"recorded path {relative!r} leaves the study folder {root}")
