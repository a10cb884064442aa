"""Credentials planted in the environment of a study reach no file, no stream and no process's arguments."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from orchestrator.__main__ import main
from tests.orchestrator.wandb_backend import Backend, Fault, serving

ROOT = Path(__file__).parents[2]
CANARIES = {
    "AWS_ACCESS_KEY_ID": "AKIACANARYONE0000001",
    "AWS_SECRET_ACCESS_KEY": "canary-two-secret-access-key-0000000002",
    "AWS_SESSION_TOKEN": "canary-three-session-token-0000000003",
    "WANDB_API_KEY": "ca4a4ca4" * 5,
    "HF_TOKEN": "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5",
    "RUNPOD_API_KEY": "rpa_CANARYSIXSIXSIXSIXSIXSIXSIXSIX6",
    "RAY_AUTH_TOKEN": "canary-seven-ray-token-000000000000007",
}
ALL_OF_THEM = """
import json, sys
from orchestrator.__main__ import main
sys.exit(max(main(arguments) for arguments in json.loads(sys.argv[1])))
"""
SMALL = [
    "dataset.drawn={solo: 1, pair: 1, trio: 1}",
    "dataset.repeats=1",
    "train.epochs=1",
    "train.batch=2",
    "grid.seeds=[1]",
    "decide.confirm_seeds=1",
    "grid.drawing.steps=2",
    "wandb.mode=online",
]


def arguments_of_all_processes() -> bytes:
    """What anybody on this machine could read of any process's command line."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes())
        except OSError:
            continue
    return b"\n".join(lines)


def found_in(data: bytes) -> list[str]:
    """Names of the credentials in it, as they are or as an HTTP header has them."""
    headers = {name: base64.b64encode(f"api:{canary}".encode()) for name, canary in CANARIES.items()}
    return [name for name, canary in CANARIES.items() if canary.encode() in data or headers[name] in data]


@dataclass
class Study:
    """What a study with planted credentials left behind."""

    folder: Path
    said: bytes
    """All it wrote to its streams, and the commands after it."""
    backend: Backend
    arguments: list[str]
    """Credentials that stood among some process's arguments meanwhile."""


def planted(folder: Path, scratch: Path, *overrides: str) -> Study:
    """A real study in this process's child, told to W&B, whose service answers 500 to some requests on the way."""
    home = folder / "home"
    home.mkdir()
    seen: list[str] = []

    def fault(request: str) -> Fault:
        seen.extend(found_in(arguments_of_all_processes()))
        return "500" if "CreateArtifactFiles" in request and len(backend.requests) % 2 else ""

    with serving() as backend:
        backend.fault = fault
        own = {"HOME": str(home), "TMPDIR": str(scratch), "WANDB_BASE_URL": backend.url, "WANDB_MODE": "online"}
        environment = {**os.environ, **own, **CANARIES}

        def python(*arguments: str) -> bytes:
            done = subprocess.run(
                [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, timeout=600
            )
            assert done.returncode == 0, done.stderr.decode()
            return done.stdout + done.stderr

        said = python("-m", "orchestrator", "run", "conf/quickstart.yaml", f"volume={folder}/runs", *SMALL, *overrides)
        backend.fault = lambda _: ""
        study = f"{folder}/runs/quickstart"
        later = [["status", study, "--json"], ["logs", study, "--lines", "0"], ["report", study], ["sync", study]]
        said += python("-c", ALL_OF_THEM, json.dumps(later))
    return Study(folder, said, backend, seen)


def holds_no_credential(study: Study) -> None:
    backend = study.backend
    assert backend.keys, "the key was used, where it belongs"
    kept = b"".join(data for data in backend.files.values())
    kept += repr([(run.config, run.summary, run.lines) for run in backend.runs.values()]).encode()
    files = [path for path in study.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"ledger.jsonl", "run.log", "study.yaml", "report.html", "debug-internal.log"} <= {p.name for p in files}
    assert {str(path.relative_to(study.folder)): f for path in files if (f := found_in(path.read_bytes()))} == {}
    assert found_in(study.said) == []
    assert found_in(kept) == []
    assert study.arguments == []


def test_planted_credentials_are_found_nowhere(tmp_path: Path) -> None:
    holds_no_credential(planted(tmp_path, tmp_path, "cluster.provider=inline"))


@contextmanager
def held(scratch: Path, folder: Path) -> Iterator[None]:
    """Every file that comes into being below `scratch` meanwhile is in `folder` too, with all that is written to it
    later: as a hard link, which outlives the removal of a session."""
    folder.mkdir()
    names: dict[int, str] = {}
    ended = threading.Event()

    def hold() -> None:
        for path in list(scratch.rglob("*")):
            with suppress(OSError):  # gone again
                about = path.lstat()
                if stat.S_ISREG(about.st_mode) and about.st_ino not in names:
                    names[about.st_ino] = f"{len(names)}-{path.name}"
                    (folder / names[about.st_ino]).hardlink_to(path)

    def keep_holding() -> None:
        while not ended.wait(0.1):
            hold()

    thread = threading.Thread(target=keep_holding, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.soak
def test_planted_credentials_are_found_nowhere_in_ray_either(tmp_path: Path) -> None:
    """Its daemons and workers have the whole environment, and log into a folder that is removed at the end."""
    with TemporaryDirectory(dir="/tmp") as short:  # Ray's sockets have no room for a long path
        with held(Path(short), tmp_path / "session"):
            study = planted(tmp_path, Path(short), "cluster.provider=local")
        holds_no_credential(study)
    logs = {path.name.partition("-")[2] for path in (tmp_path / "session").iterdir()}
    assert {"gcs_server.out", "raylet.out"} <= logs
    assert any(name.startswith("worker-") for name in logs)


@pytest.mark.parametrize(
    "override",
    [
        "base=https://models.example.org/anima/?X-Amz-Signature=CANARYSIGNATURE&X-Amz-Credential=CANARYKEY",
        "base.transformer=https://someone:CANARYPASSWORD@models.example.org/dit.safetensors",
        "volume=s3://CANARYKEY:CANARYSECRET@bucket/prefix",
        "volume=s3://bucket/prefix?secret=CANARYSECRET",
    ],
)
def test_addresses_that_carry_a_credential_are_refused_without_repeating_it(
    override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for command in ("plan", "run"):
        code = main([command, "conf/quickstart.yaml", f"study={tmp_path.name}", override, "--json"])
        said = capsys.readouterr()
        assert code == 2
        assert said.err.startswith("error: ")
        assert "CANARY" not in said.out + said.err
