"""What is missing is named before anything is done, each thing on a line of its own with how to get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from anima.base import PARTS, POCKET
from orchestrator.core.errors import ConfigError
from orchestrator.planning.config import StudyConfig, load_config
from orchestrator.planning.preflight import missing, resolve_base, tokenizers_folder

TRIO = Path("conf/trio_v2.yaml")
QUICK = Path("conf/quickstart.yaml")


def config(path: Path, tmp_path: Path, *overrides: str) -> StudyConfig:
    return load_config(path, [f"volume={tmp_path}", *overrides])


def a_base(root: Path) -> Path:
    """A folder with every part a base must have, all empty."""
    for part, file in PARTS.items():
        (root / part).mkdir(parents=True)
        (root / part / file).touch()
        (root / part / "model.safetensors").touch()
    return root


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    faults = [str(f) for f in missing(config(TRIO, tmp_path, f"dataset.root={tmp_path}/none", "wandb.mode=online"))]
    words: tuple[str, ...] = (
        "hf download circlestone-labs/Anima-Base-v1.0-Diffusers",
        "hf download circlestone-labs/Anima-Official-LoRAs anima-turbo-lora-v0.2.safetensors",
        "294 pictures",
        "NVIDIA GPU",
        "wandb login",
    )
    if Path("/proc/driver/nvidia/version").exists():
        words = tuple(w for w in words if w != "NVIDIA GPU")
    assert len(faults) == len(words)
    for fault, word in zip(faults, words, strict=True):
        assert word in fault
        assert "\n" not in fault
    assert list(tmp_path.iterdir()) == [], "nothing was done"


def test_a_complete_study_lacks_nothing(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base")
    assert missing(config(QUICK, tmp_path, f"base={base}")) == []


def test_an_incomplete_base_names_its_missing_parts(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base")
    (base / "vae" / "config.json").unlink()
    (base / "transformer" / "model.safetensors").unlink()
    (fault,) = missing(config(QUICK, tmp_path, f"base={base}"))
    assert fault.what == "base weights are missing: no vae, transformer weights"


def test_a_single_file_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "dit.safetensors").touch()
    (fault,) = missing(config(QUICK, tmp_path, f"base={tmp_path}/dit.safetensors"))
    assert "a base is more than one file — write hf://owner/model, or a mapping of transformer" in str(fault)


def test_every_source_that_is_missing_is_named_with_its_key(tmp_path: Path) -> None:
    sources = f"base={{transformer: {tmp_path}/a.safetensors, text_encoder: https://host/b, vae: {tmp_path}/c}}"
    faults = [str(fault) for fault in missing(config(QUICK, tmp_path, sources))]
    assert [fault.partition(":")[0] for fault in faults] == ["base.transformer", "base.vae"]
    assert all("there is no such file or folder" in fault for fault in faults)


def test_a_hub_that_may_be_asked_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = config(QUICK, tmp_path, "base=owner/model")
    assert len(missing(study)) == 1
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert missing(study) == [], "`run` fetches it"


def test_the_hub_cache_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    model = tmp_path / "hub" / "models--circlestone-labs--Anima-Base-v1.0-Diffusers"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc123\n")
    assert resolve_base("hf://circlestone-labs/Anima-Base-v1.0-Diffusers") == model / "snapshots" / "abc123"


def test_tokenizers_are_known_where_they_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    files = "transformer: /a.safetensors, text_encoder: s3://b/c, vae: https://host/d"
    found = {
        "pocket": POCKET,
        "hf://owner/model": tmp_path / "models--owner--model/snapshots/main",
        f"{{{files}}}": None,
        f"{{{files}, tokenizers: pocket}}": POCKET,
        f"{{{files}, tokenizers: owner/model}}": tmp_path / "models--owner--model/snapshots/main",
        f"{{{files}, tokenizers: s3://b/tokenizers}}": None,
        "{transformer: /a.safetensors, text_encoder: pocket, vae: pocket}": POCKET,
    }
    for base, folder in found.items():
        assert tokenizers_folder(config(QUICK, tmp_path, f"base={base}").base) == folder, base


def test_pocket_is_the_shipped_folder() -> None:
    assert resolve_base("pocket") == POCKET


@pytest.mark.parametrize("base", ["hf://", "hf://owner", "hf://owner/model/more"])
def test_a_hub_name_is_owner_and_model(base: str) -> None:
    with pytest.raises(ConfigError, match="hf://owner/model"):
        resolve_base(base)


def test_a_login_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = a_base(tmp_path / "base")
    study = config(QUICK, tmp_path, f"base={base}", "wandb.mode=online")
    assert len(missing(study)) == 1
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert missing(study) == []


@pytest.mark.parametrize(
    ("machine", "address", "found"),
    [
        ("api.wandb.ai", "", True),
        ("api.forge.coreweave.com", "", True),
        ("wandb.example.org", "", False),
        ("wandb.example.org", "https://wandb.example.org:8443", True),
        ("api.wandb.ai", "https://wandb.example.org", False),
    ],
)
def test_a_login_is_one_of_the_service_that_will_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, address: str, found: bool
) -> None:
    (tmp_path / "logins").write_text(f"machine {machine} login user password none\n")
    (tmp_path / "logins").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "logins"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    if address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
    assert (missing(config(QUICK, tmp_path, "wandb.mode=online")) == []) is found


def test_an_adapter_that_is_drawn_along_and_is_not_there_is_named(tmp_path: Path) -> None:
    lacking = f"grid.with_adapters=[{tmp_path}/turbo.safetensors]"
    (fault,) = missing(config(QUICK, tmp_path, lacking))
    assert str(fault).startswith(f"grid.with_adapters: {tmp_path}/turbo.safetensors: there is no such file")


def test_a_study_that_compiles_needs_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, compiles = a_base(tmp_path / "base"), "grid.drawing.compile=true"
    monkeypatch.setenv("CXX", "no-such-compiler")
    (fault,) = missing(config(QUICK, tmp_path, f"base={base}", compiles))
    assert str(fault).startswith("grid.drawing.compile: no C++ compiler (no-such-compiler) on this machine")
    assert missing(config(QUICK, tmp_path, f"base={base}", compiles, "cluster.address=head:6379")) == []
    assert missing(config(QUICK, tmp_path, f"base={base}")) == []
