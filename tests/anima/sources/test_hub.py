"""The hub's own client against a hub on this machine, in a process that may ask it; and what is said when none may."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anima.base import POCKET, base_sha256
from anima.sources.config import BaseSources, HubPlace, parse_place
from anima.sources.hub import cached_folder, fetch_file
from anima.sources.obtain import obtain_base
from anima.sources.store import WeightStore
from orchestrator.core.errors import ConfigError, MissingError
from tests.anima.single_files import write_single_files
from tests.anima.sources.loopback import Site, serving

COMMIT = "c" * 40
CHILD = """
import json, sys
from anima.sources.config import BaseSources
from anima.sources.obtain import obtain_base
from anima.sources.store import WeightStore
from orchestrator.core.errors import StudyError
for text in sys.argv[1:]:
    base = json.loads(text)
    try:
        print(obtain_base(base if isinstance(base, str) else BaseSources.model_validate(base)))
    except StudyError as error:
        print(error)
"""


@pytest.fixture
def hub() -> Iterator[Site]:
    """Pocket Anima in diffusers layout as `owner/anima`."""
    paths = [p for p in sorted(POCKET.rglob("*")) if p.is_file()]
    files = {str(p.relative_to(POCKET)): p.read_bytes() for p in paths}
    with serving(hub_site("owner/anima", files)) as site:
        yield site


def hub_site(repo: str, files: dict[str, bytes]) -> Site:
    """What the hub's API says of a model, and its files, each with the hash of its content as ETag."""
    about = {
        "id": repo,
        "modelId": repo,
        "sha": COMMIT,
        "private": False,
        "tags": [],
        "siblings": [{"rfilename": n} for n in files],
    }
    served = {f"/api/models/{repo}/revision/{revision}": json.dumps(about).encode() for revision in ("main", COMMIT)}
    tree = [{"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for n, d in files.items()]
    served[f"/api/models/{repo}/tree/{COMMIT}"] = json.dumps(tree).encode()
    for name, data in files.items():
        for revision in ("main", COMMIT):
            served[f"/{repo}/resolve/{revision}/{name}"] = data
    etags = {path: hashlib.sha256(data).hexdigest() for path, data in served.items()}
    return Site(served, etags=etags, extra={"X-Repo-Commit": COMMIT})


def obtain(hub: Site, home: Path, *bases: object) -> list[str]:
    """`obtain_base` of each, in a process that may ask this hub; returns what it printed."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home / "hf"),
        "EPOCHSWEEP_CACHE": str(home / "cache"),
    }
    command = [sys.executable, "-c", CHILD, *(json.dumps(base) for base in bases)]
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return child.stdout.splitlines()


def test_a_model_is_fetched_whole_and_only_once(hub: Site, tmp_path: Path) -> None:
    first, again, by_commit = obtain(hub, tmp_path, "hf://owner/anima", "owner/anima", f"hf://owner/anima@{COMMIT}")
    assert first == again == by_commit
    assert first.endswith(f"models--owner--anima/snapshots/{COMMIT}")
    assert base_sha256(Path(first)) == base_sha256(POCKET), "the same files are the same base"
    assert not (Path(first) / "README.md").exists()
    asked = len(hub.asked)
    assert obtain(hub, tmp_path, "hf://owner/anima") == [first]
    assert len(hub.asked) == asked, "what is in the cache is not asked for again"


def test_single_files_come_from_the_hub_too(tmp_path: Path) -> None:
    written = write_single_files(tmp_path / "written")
    paths = {"transformer": written.transformer, "text_encoder": written.text_encoder, "vae": written.vae}
    files = {f"split_files/{path.name}": path.read_bytes() for path in paths.values()}
    for part in ("tokenizer", "t5_tokenizer"):
        files |= {f"{part}/{p.name}": p.read_bytes() for p in (POCKET / part).iterdir()}
    named = {part: f"hf://owner/anima/split_files/{path.name}" for part, path in paths.items()}
    common = {"tokenizers": "hf://owner/anima", "configs": str(POCKET)}
    with serving(hub_site("owner/anima", files)) as hub:
        pinned = {**named, "vae": {"source": named["vae"], "sha256": "0" * 64}}
        wrong, folder = obtain(hub, tmp_path, {**pinned, **common}, {**named, **common})
    assert "split_files/vae.safetensors: its sha256 is " in wrong
    local = {part: str(path) for part, path in paths.items()}
    plain = BaseSources.model_validate({**local, "tokenizers": "pocket", "configs": str(POCKET)})
    assert base_sha256(Path(folder)) == base_sha256(obtain_base(plain, store=WeightStore(tmp_path / "own")))


def test_what_the_hub_refuses_is_told_in_one_line(hub: Site, tmp_path: Path) -> None:
    hub.refusals = {
        "/api/models/owner/none/revision/main": (404, {"X-Error-Code": "RepoNotFound"}),
        "/api/models/owner/gated/revision/main": (403, {"X-Error-Code": "GatedRepo"}),
    }
    none, gated = obtain(hub, tmp_path, "hf://owner/none", "hf://owner/gated")
    assert none.startswith("hf://owner/none: no such folder here, and the hub has no such model or file")
    assert gated.startswith("hf://owner/gated: ")
    assert "accept its licence at https://huggingface.co/owner/gated and set HF_TOKEN" in gated


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    (told,) = obtain(Site({}, address="http://127.0.0.1:9"), tmp_path, "hf://owner/anima")
    assert told.startswith("hf://owner/anima: the hub cannot be reached (")
    assert told.endswith("hf download owner/anima")


def test_where_the_hub_must_not_be_asked_it_is_not() -> None:
    with pytest.raises(MissingError, match="hf download owner/model"):
        obtain_base("hf://owner/model")
    with pytest.raises(MissingError, match=r"hf download owner/model some/file\.safetensors --revision v2"):
        fetch_file(HubPlace("owner/model", "v2", "some/file.safetensors"))


def test_a_reference_in_the_cache_names_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--owner--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "v2").write_text("abc123\n")
    assert cached_folder(HubPlace("owner/model", "v2")) == model / "snapshots" / "abc123"
    assert cached_folder(HubPlace("owner/model", COMMIT)) == model / "snapshots" / COMMIT


def test_a_folder_that_is_here_is_no_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_place("models/anima") == HubPlace("models/anima")
    (tmp_path / "models/anima").mkdir(parents=True)
    assert obtain_base("models/anima") == Path("models/anima")


@pytest.mark.parametrize("text", ["hf://", "hf://owner", "hf://owner/", "hf://../..", "hf://owner/model/../../x"])
def test_what_is_no_name_on_the_hub_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write hf://owner/model"):
        parse_place(text)
