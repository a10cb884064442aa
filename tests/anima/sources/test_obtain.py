"""From the sources a study names to one folder: fetched once, checked, kept by content, the same base by every way."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from anima.base import POCKET, base_sha256, missing_parts
from anima.load import load_text
from anima.match import inspect_base
from anima.prompt import read_prompt
from anima.sources.assemble import CONFIGS
from anima.sources.config import BaseSources
from anima.sources.download import Patience, Stopped
from anima.sources.obtain import missing_sources, obtain_base
from anima.sources.remotes import WebFile
from anima.sources.store import WeightStore
from orchestrator.core.errors import ConfigError, MissingError, StudyError, WeightsError
from orchestrator.core.identity import file_sha256, folder_sha256
from tests.anima.single_files import SingleFiles, write_single_files
from tests.anima.sources.loopback import Site, serving


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SingleFiles:
    return write_single_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(tmp_path / "cache", Patience(piece_bytes=500_000, back_off_s=0.0, attempts=3))


@pytest.fixture
def site(files: SingleFiles) -> Iterator[Site]:
    served = {f"/anima/{p.name}": p.read_bytes() for p in (files.transformer, files.text_encoder, files.vae)}
    for name in ("tokenizer", "t5_tokenizer"):
        for file in (POCKET / name).iterdir():
            served[f"/anima/{name}/{file.name}"] = file.read_bytes()
    with serving(Site(served)) as site:
        yield site


def local(files: SingleFiles, **more: Any) -> BaseSources:
    named = {"transformer": str(files.transformer), "text_encoder": str(files.text_encoder), "vae": str(files.vae)}
    return BaseSources.model_validate({**named, "tokenizers": "pocket", "configs": str(POCKET), **more})


def web(site: Site, **more: Any) -> BaseSources:
    named = {name: f"{site.address}/anima/{file}.safetensors" for name, file in FILES.items()}
    tokenizers = {"tokenizers": f"{site.address}/anima", "configs": str(POCKET)}
    return BaseSources.model_validate({**named, **tokenizers, **more})


FILES = {"transformer": "dit", "text_encoder": "qwen", "vae": "vae"}


def test_pocket_and_folders_are_used_as_they_are(tmp_path: Path) -> None:
    assert obtain_base("pocket") == POCKET
    assert obtain_base(str(tmp_path)) == tmp_path


def test_the_identity_of_a_folder_is_the_hash_of_its_files_under_their_names() -> None:
    assert base_sha256(POCKET) == folder_sha256(POCKET, suffixes=(".safetensors", ".json", ".txt"))


def test_sources_become_a_complete_folder_and_the_same_one_again(files: SingleFiles, store: WeightStore) -> None:
    folder = obtain_base(local(files), store=store)
    assert missing_parts(folder) == []
    assert obtain_base(local(files), store=store) == folder
    assert [p for p in folder.parent.iterdir() if p.name.startswith(".")] == []
    assert sum(report.matched for report in inspect_base(folder)) == 127 + 42 + 35 + 118


def test_a_base_has_one_identity_by_whatever_way_it_came(
    files: SingleFiles, site: Site, store: WeightStore, tmp_path: Path
) -> None:
    by_path = base_sha256(obtain_base(local(files), store=store))
    moved = SingleFiles(*(tmp_path / f"renamed {n}.safetensors" for n in range(3)))
    for old, new in zip((files.transformer, files.text_encoder, files.vae), vars_of(moved), strict=True):
        shutil.copy(old, new)
    assert base_sha256(obtain_base(local(moved), store=store)) == by_path
    by_web = obtain_base(web(site, tokenizers="pocket"), store=store)
    assert base_sha256(by_web) == by_path
    save_file({k: t * 2 for k, t in load_file(moved.vae).items()}, moved.vae)
    assert base_sha256(obtain_base(local(moved), store=store)) != by_path


def vars_of(files: SingleFiles) -> tuple[Path, Path, Path]:
    return files.transformer, files.text_encoder, files.vae


def test_what_is_elsewhere_is_fetched_once(site: Site, store: WeightStore) -> None:
    told: list[str] = []
    folder = obtain_base(web(site), store=store, tell=told.append)
    assert load_text(folder).tokens(read_prompt("1girl")).t5
    looked = len(site.asked)
    assert looked > 7
    assert obtain_base(web(site), store=store, tell=told.append) == folder
    assert len(site.asked) == looked
    again = [line for line in told if line.startswith("fetching transformer | http")]
    assert len(again) == 1
    hashed = file_sha256(folder / "vae/diffusion_pytorch_model.safetensors")
    assert f"fetched vae | {site.address}/anima/vae.safetensors | sha256 {hashed}" in told
    assert any(line.startswith("fetching transformer | 100 % | ") for line in told)


def test_a_pinned_file_needs_no_network_wherever_it_once_came_from(
    files: SingleFiles, site: Site, store: WeightStore
) -> None:
    obtain_base(web(site), store=store)
    site.asked.clear()
    sha256 = file_sha256(files.transformer)
    elsewhere = {"source": "http://127.0.0.1:9/other.safetensors", "sha256": sha256}
    obtain_base(web(site, transformer=elsewhere), store=store)
    assert site.asked == []


def test_content_that_is_not_the_pinned_one_is_refused_and_not_kept(
    files: SingleFiles, site: Site, store: WeightStore
) -> None:
    pinned = {"source": f"{site.address}/anima/vae.safetensors", "sha256": "0" * 64}
    with pytest.raises(WeightsError) as error:
        obtain_base(local(files, vae=pinned), store=store)
    actual = file_sha256_of(site.files["/anima/vae.safetensors"])
    assert str(error.value).startswith(
        f"{site.address}/anima/vae.safetensors: its sha256 is {actual}, the study asks for {'0' * 64}"
    )
    assert not (store.root / "files" / actual).exists()
    assert [p for p in (store.root / "partial").iterdir() if p.suffix != ".lock"] == []


def file_sha256_of(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_a_local_file_can_be_pinned_too(files: SingleFiles, store: WeightStore) -> None:
    right = {"source": str(files.vae), "sha256": file_sha256(files.vae)}
    obtain_base(local(files, vae=right), store=store)
    with pytest.raises(WeightsError, match=r"vae\.safetensors: its sha256 is .* — correct base\.vae"):
        obtain_base(local(files, vae={**right, "sha256": "1" * 64}), store=store)
    with pytest.raises(ConfigError, match=r"base\.vae: a folder has no sha256"):
        obtain_base(local(files, vae={**right, "source": "pocket"}), store=store)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><title>Please log in</title>", "is not a safetensors file"),
        (b"\x80\x02}q\x00." + b"\0" * 20, "is a pickle under the name of a safetensors file"),
        (save({"a": torch.ones(100)})[:-8], "it was cut short or appended to"),
    ],
)
def test_what_is_not_safetensors_is_not_kept(content: bytes, words: str, site: Site, store: WeightStore) -> None:
    site.files["/anima/vae.safetensors"], whole = content, site.files["/anima/vae.safetensors"]
    with pytest.raises(WeightsError) as error:
        obtain_base(web(site), store=store)
    assert str(error.value).startswith(f"{site.address}/anima/vae.safetensors: ")
    assert words in str(error.value)
    site.files["/anima/vae.safetensors"], site.edition = whole, "2"
    obtain_base(web(site), store=store)


def test_a_kept_file_that_was_damaged_is_fetched_again(site: Site, store: WeightStore) -> None:
    folder = obtain_base(web(site), store=store)
    kept = (folder / "vae/diffusion_pytorch_model.safetensors").resolve()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    site.asked.clear()
    assert obtain_base(web(site), store=store) == folder
    assert kept.read_bytes() == whole
    assert site.asked
    assert all("vae" in line for line in site.asked)


def test_two_studies_that_want_the_same_file_fetch_it_once(site: Site, store: WeightStore) -> None:
    both = [threading.Thread(target=obtain_base, args=(web(site),), kwargs={"store": store}) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    pieces = [line for line in site.content_asked if "dit" in line]
    assert len(pieces) == len(set(pieces))


def test_a_wait_for_another_fetch_is_told_and_can_be_stopped(site: Site, store: WeightStore) -> None:
    held, free, stop = threading.Event(), threading.Event(), threading.Event()
    told: list[str] = []
    url = f"{site.address}/anima/vae.safetensors"

    def check(_: Path) -> None:
        held.set()
        free.wait()

    def tell(sentence: str) -> None:
        told.append(sentence)
        stop.set()

    first = threading.Thread(target=fetch, args=(store, url), kwargs={"check": check})
    first.start()
    held.wait()
    try:
        with pytest.raises(Stopped):
            fetch(store, url, tell=tell, stop=stop)
    finally:
        free.set()
        first.join()
    assert told == [f"waiting | {url} is being fetched already"]
    assert fetch(store, url).read_bytes() == site.files["/anima/vae.safetensors"]


def test_one_fault_ends_all_downloads_and_keeps_what_has_arrived(site: Site, store: WeightStore) -> None:
    missing = f"{site.address}/anima/none.safetensors"
    with pytest.raises(MissingError, match=r"none\.safetensors: the server has no such file"):
        obtain_base(web(site, transformer=missing), store=store)
    obtain_base(web(site), store=store)


def fetch(
    store: WeightStore,
    url: str,
    *,
    check: Callable[[Path], object] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Path:
    """One file from the web into the store."""
    with closing(WebFile(url)) as remote:
        stop = stop or threading.Event()
        return store.fetch(remote, sha256=None, check=check, told=lambda *_: None, tell=tell, stop=stop)


def test_a_name_from_elsewhere_is_never_a_path(site: Site, store: WeightStore) -> None:
    data = site.files["/anima/vae.safetensors"]
    site.files["/x/"] = site.files["/x/..%2F..%2Fvae"] = data
    for name in ("", "..%2F..%2Fvae"):
        file = fetch(store, f"{site.address}/x/{name}")
        assert file.parent.parent == store.root / "files"
        assert file.read_bytes() == data


def test_two_files_behind_one_path_are_two_files(site: Site, store: WeightStore) -> None:
    site.files["/download"] = site.files["/anima/vae.safetensors"]
    first = fetch(store, f"{site.address}/download?model=1")
    site.files["/download"] = site.files["/anima/qwen.safetensors"]
    assert fetch(store, f"{site.address}/download?model=2") != first
    assert fetch(store, f"{site.address}/download?model=1") == first


def test_a_stopped_fetch_says_so(site: Site, store: WeightStore) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        fetch(store, f"{site.address}/anima/dit.safetensors", stop=stop)


def test_published_files_take_the_published_configurations(store: WeightStore, tmp_path: Path) -> None:
    for depth, name in ((28, "transformer-2b"), (40, "transformer-2.9b")):
        keys = {f"net.blocks.{n}.mlp.layer1.weight": torch.ones(1) for n in range(depth)}
        keys["net.llm_adapter.blocks.99.mlp.0.weight"] = torch.ones(1)
        save_file(keys, tmp_path / f"{depth}.safetensors")
        named = dict.fromkeys(("transformer", "text_encoder", "vae"), str(tmp_path / f"{depth}.safetensors"))
        folder = obtain_base(BaseSources.model_validate({**named, "tokenizers": "pocket"}), store=store)
        for part in ("transformer", "text_conditioner", "text_encoder", "vae"):
            published = CONFIGS / f"{name if part == 'transformer' else part}.json"
            assert (folder / part / "config.json").resolve() == published.resolve()


def test_another_depth_is_told(store: WeightStore, tmp_path: Path, files: SingleFiles) -> None:
    state = {f"blocks.{n}.mlp.layer1.weight": torch.ones(1) for n in range(27)}
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(WeightsError, match=r"short\.safetensors: has 27 blocks, published transformers have 28 or 40"):
        obtain_base(local(files, transformer=str(tmp_path / "short.safetensors"), configs=None), store=store)


def test_tokenizers_are_found_where_other_programs_keep_them(
    files: SingleFiles, store: WeightStore, tmp_path: Path
) -> None:
    """ComfyUI has Qwen's as vocabulary and merges, without tokenizer.json."""
    comfy = tmp_path / "text_encoders"
    (comfy / "qwen25_tokenizer").mkdir(parents=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(POCKET / "tokenizer" / name, comfy / "qwen25_tokenizer" / name)
    shutil.copytree(POCKET / "t5_tokenizer", comfy / "t5_tokenizer")
    ours = load_text(obtain_base(local(files, tokenizers=str(comfy)), store=store))
    theirs = load_text(POCKET)
    for prompt in ("1girl, blue hair", "3girls, left side: kanachan", ""):
        assert ours.tokens(read_prompt(prompt)) == theirs.tokens(read_prompt(prompt))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"tokenizers": None}, ConfigError, "base.tokenizers: single files hold no tokenizers"),
        ({"tokenizers": "{tmp}"}, MissingError, "no tokenizer/tokenizer.json"),
        ({"vae": "{tmp}/none.safetensors"}, MissingError, "base.vae: {tmp}/none.safetensors: there is no such file"),
        ({"vae": "{tmp}"}, MissingError, "base.vae: {tmp}: no vae/config.json"),
        ({"transformer": "{pocket}/transformer"}, MissingError, "no text_conditioner/config.json"),
        ({"configs": "{tmp}"}, MissingError, "base.configs: {tmp}: no transformer/config.json"),
    ],
)
def test_what_is_not_there_is_named_with_its_key(
    change: dict[str, str | None],
    kind: type[StudyError],
    words: str,
    files: SingleFiles,
    store: WeightStore,
    tmp_path: Path,
) -> None:
    filled = {k: v and v.format(tmp=tmp_path, pocket=POCKET) for k, v in change.items()}
    with pytest.raises(kind) as error:
        obtain_base(local(files, **filled), store=store)
    assert words.format(tmp=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_base_may_leave_tokenizers_to_a_folder_among_its_sources(files: SingleFiles, store: WeightStore) -> None:
    folder = obtain_base(local(files, tokenizers=None, text_encoder="pocket"), store=store)
    assert (folder / "tokenizer/tokenizer.json").resolve() == (POCKET / "tokenizer/tokenizer.json").resolve()


@pytest.mark.parametrize("base", ["https://example.org/a.safetensors", "s3://bucket/key", "hf://owner/model/a/file"])
def test_one_file_is_no_base(base: str) -> None:
    with pytest.raises(ConfigError, match="is one file — write hf://owner/model, or a mapping of transformer"):
        obtain_base(base)


def test_sources_that_cannot_be_fetched_are_told_all_at_once(files: SingleFiles, tmp_path: Path) -> None:
    """The tests' environment forbids asking the hub."""
    faults = missing_sources(
        local(
            files,
            vae=str(tmp_path / "none.safetensors"),
            text_encoder="hf://owner/model/qwen.safetensors",
            transformer="https://example.org/dit.safetensors",
        )
    )
    assert [str(fault).partition(" — ")[0] for fault in faults] == [
        f"{tmp_path.home()}/.cache/huggingface/hub/models--owner--model/snapshots/main: "
        "file hf://owner/model/qwen.safetensors is not in the hub's local cache",
        f"base.vae: {tmp_path}/none.safetensors: there is no such file or folder",
    ]
    assert "hf download owner/model qwen.safetensors" in str(faults[0])


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert WeightStore.of_this_machine().root == tmp_path / "xdg" / "epochsweep"
    monkeypatch.setenv("EPOCHSWEEP_CACHE", str(tmp_path / "own"))
    assert WeightStore.of_this_machine().root == tmp_path / "own"


def test_nothing_secret_is_written_into_the_cache(site: Site, store: WeightStore) -> None:
    site.files["/download"] = site.files["/anima/vae.safetensors"]
    obtain_base(web(site, vae=f"{site.address}/download?model=71717"), store=store)
    for record in (store.root / "sources").iterdir():
        assert "71717" not in record.read_text()
        assert json.loads(record.read_text())["source"].startswith(site.address)
