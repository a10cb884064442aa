"""From what a study's YAML says of its base to one folder on this machine that everything else loads from.

A folder or a hub's snapshot is used as it is. A base of several sources becomes a folder of links: each component's
config.json beside its weights, and both tokenizers. What is elsewhere is fetched first, all of it at the same time.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from anima.base import base_folder, content_sha256, has_tokenizer, missing_parts
from anima.headers import read_header
from anima.match import WEIGHTED
from anima.sources.config import BaseSources, HubPlace, LocalPlace, S3Place, Source, WebPlace, parse_place
from anima.sources.hub import cached_folder, fetch_file, fetch_files, is_offline, not_cached
from anima.sources.remotes import Remote, S3File, WebFile
from anima.sources.store import Tell, WeightStore
from orchestrator.core.errors import ConfigError, MissingError, WeightsError
from orchestrator.core.identity import digest

CONFIGS = Path(__file__).parent.parent / "configs"
"""config.json of every component in its published size."""
DEPTHS: Mapping[int, str] = {28: "transformer-2b.json", 40: "transformer-2.9b.json"}
TOKENIZERS: Mapping[str, tuple[str, ...]] = {
    "tokenizer": ("tokenizer", "qwen25_tokenizer", "qwen3_06b"),
    "t5_tokenizer": ("t5_tokenizer", "t5_old"),
}
"""Each tokenizer's folder in diffusers layout, then as ComfyUI and sd-scripts bring it."""
_BLOCK = re.compile(r"(?:^|\.)(?:transformer_)?blocks\.(\d+)\.(?:mlp\.layer1|ff\.net\.2)\.weight$")


def obtain_base(base: str | BaseSources, *, tell: Tell = lambda _: None, store: WeightStore | None = None) -> Path:
    """The folder of a base, after fetching what is not here yet. `tell` hears what is being fetched.

    Raises ConfigError, MissingError, VolumeError or WeightsError; none leaves anything that would be trusted later.
    """
    if isinstance(base, BaseSources):
        store = store or WeightStore.of_this_machine()
        return _assemble(base, _fetch_all(base, store, tell), store.root / "bases")
    place = parse_place(base)
    if isinstance(place, LocalPlace):
        return base_folder(base)
    if not isinstance(place, HubPlace) or place.file:
        raise ConfigError(f"base {base!r} is one file", fix=WHOLE_BASE)
    if missing_parts(cached_folder(place)):
        tell(f"fetching base | {base} from the hub")
    # Not all weights: a model may hold other forms of itself beside these folders.
    patterns = ("*.json", "*.txt", *(f"{part}/*.safetensors" for part in WEIGHTED))
    folder = fetch_files(place, patterns, lambda f: not missing_parts(f))
    if lacking := missing_parts(folder):
        raise MissingError(f"no base in diffusers layout: no {', '.join(lacking)}", where=base, fix=WHOLE_BASE)
    return folder


WHOLE_BASE = "write hf://owner/model, or a mapping of transformer, text_encoder, vae and tokenizers"


def missing_sources(base: BaseSources) -> list[MissingError]:
    """Sources that are not there and cannot be fetched, as far as this machine can tell by itself."""
    faults = []
    for name, source in base.sources.items():
        place = source.place
        if isinstance(place, LocalPlace) and not place.path.exists():
            faults.append(
                MissingError("there is no such file or folder", where=f"base.{name}: {place.path}", fix="correct it")
            )
        elif isinstance(place, HubPlace) and is_offline() and not (cached_folder(place) / place.file).exists():
            faults.append(not_cached(place))
    return faults


def _fetch_all(base: BaseSources, store: WeightStore, tell: Tell) -> dict[str, Path]:
    """Every source as a file or folder on this machine, by its key."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(base.sources), thread_name_prefix="source") as pool:
        jobs = {name: pool.submit(_fetch, name, source, store, tell, stop) for name, source in base.sources.items()}
        try:
            return {name: job.result() for name, job in jobs.items()}
        except BaseException:
            stop.set()
            raise


def _fetch(name: str, source: Source, store: WeightStore, tell: Tell, stop: threading.Event) -> Path:
    """One source as a file or folder on this machine, with the content it should have."""
    place = source.place
    match place:
        case LocalPlace(path):
            found = path
            if not path.exists():
                raise MissingError("there is no such file or folder", where=f"base.{name}: {path}", fix="correct it")
        case HubPlace(file=""):
            found = _hub_folder(name, place)
        case HubPlace():
            found = fetch_file(place)
        case S3Place() | WebPlace() if name == "tokenizers":
            found = _remote_tokenizers(place, store, tell, stop)
        case S3Place(bucket, key):
            with closing(S3File(bucket, key)) as remote:
                return _remote_file(name, remote, source, store, tell, stop)
        case WebPlace(url):
            with closing(WebFile(url)) as remote:
                return _remote_file(name, remote, source, store, tell, stop)
    if source.sha256:
        if found.is_dir():
            raise ConfigError("a folder has no sha256", where=f"base.{name}", fix="give it with a single file")
        if (actual := content_sha256(found)) != source.sha256:
            what = f"its sha256 is {actual}, the study asks for {source.sha256}"
            raise WeightsError(what, where=str(found), fix=f"correct base.{name}, or fetch the file again")
    return found


def _hub_folder(name: str, place: HubPlace) -> Path:
    parts = {"transformer": ("transformer", "text_conditioner"), "tokenizers": tuple(TOKENIZERS)}.get(name, (name,))
    kinds = ("json", "txt", "safetensors")

    def complete(folder: Path) -> bool:
        lacking = {line.partition(" ")[0] for line in missing_parts(folder)}
        return not lacking & set(parts)

    patterns = [f"{part}/*.{kind}" for part in (*parts, *TOKENIZERS) for kind in kinds]
    return fetch_files(place, patterns, complete)


def _remote_file(
    name: str, remote: Remote, source: Source, store: WeightStore, tell: Tell, stop: threading.Event
) -> Path:
    progress = _Progress(name, remote.name, tell)
    file = store.fetch(
        remote,
        sha256=source.sha256,
        check=lambda path: read_header(path, shown=remote.name),
        told=progress.told,
        tell=tell,
        stop=stop,
    )
    progress.done(file)
    return file


def _remote_tokenizers(place: S3Place | WebPlace, store: WeightStore, tell: Tell, stop: threading.Event) -> Path:
    """Both tokenizers below a place that cannot be listed: the two files that are always there."""
    names = [f"{folder}/{file}" for folder in TOKENIZERS for file in ("tokenizer.json", "tokenizer_config.json")]
    links: dict[str, Path] = {}
    for name in names:
        remote: Remote
        if isinstance(place, WebPlace):
            if "?" in place.url:
                raise ConfigError("a folder's URL has no query", where="base.tokenizers", fix="give the plain URL")
            remote = WebFile(f"{place.url.rstrip('/')}/{name}")
        else:
            remote = S3File(place.bucket, f"{place.key.rstrip('/')}/{name}")
        with closing(remote):
            links[name] = store.fetch(
                remote, sha256=None, check=_refuse_no_json, told=lambda *_: None, tell=tell, stop=stop
            )
    return _linked_folder(links, store.root / "bases")


def _refuse_no_json(path: Path) -> None:
    try:
        json.loads(path.read_bytes())
    except ValueError as error:
        raise WeightsError("is not readable as JSON", where=path.name, fix="correct base.tokenizers") from error


class _Progress:
    """Says how far a download is, ten times."""

    def __init__(self, part: str, name: str, tell: Tell) -> None:
        self._part, self._name, self._tell = part, name, tell
        self._began, self._first, self._tenths = time.monotonic(), -1, 0

    def told(self, arrived: int, total: int | None) -> None:
        if self._first < 0:
            self._began, self._first = time.monotonic(), arrived
            self._tell(f"fetching {self._part} | {self._name}" + (f" | {total / 1e9:.2f} GB" if total else ""))
            self._tenths = arrived * 10 // total if total else 0
        elif total and arrived * 10 // total > self._tenths:
            self._tenths = arrived * 10 // total
            speed = (arrived - self._first) / max(time.monotonic() - self._began, 1e-9)
            self._tell(f"fetching {self._part} | {self._tenths * 10} % | {speed / 1e6:.0f} MB/s")

    def done(self, file: Path) -> None:
        if self._first >= 0:
            self._tell(f"fetched {self._part} | {self._name} | sha256 {content_sha256(file)}")


def _assemble(base: BaseSources, found: Mapping[str, Path], bases: Path) -> Path:
    configs = Path(base.configs).expanduser() if base.configs else None
    links: dict[str, Path] = {}
    for part in WEIGHTED:
        own = part if part in found else "transformer"
        if found[own].is_file():
            links |= _file_links(part, found[own], configs)
        else:
            links |= _folder_links(part, found[own], own)
    links |= _tokenizer_links(found)
    return _linked_folder(links, bases)


def _file_links(part: str, file: Path, configs: Path | None) -> dict[str, Path]:
    config = configs / part / "config.json" if configs else CONFIGS / _config_name(part, file)
    if not config.is_file():
        raise MissingError(f"no {part}/config.json", where=f"base.configs: {configs}", fix="give diffusers layout")
    weights = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
    return {f"{part}/config.json": config, f"{part}/{weights}": file}


def _config_name(part: str, file: Path) -> str:
    """The published configuration for a single file. Of transformers there are two depths."""
    if part != "transformer":
        return f"{part}.json"
    blocks = [int(found[1]) for key in read_header(file) if (found := _BLOCK.search(key))]
    depth = max(blocks, default=-1) + 1
    # A file without any block is no transformer at all, and is told so when it is matched.
    if depth and depth not in DEPTHS:
        known = " or ".join(map(str, DEPTHS))
        raise WeightsError(
            f"has {depth} blocks, published transformers have {known}",
            where=str(file),
            fix="name a folder with its config.json as base.configs",
        )
    return DEPTHS[depth or 28]


def _folder_links(part: str, folder: Path, key: str) -> dict[str, Path]:
    """A component of a diffusers-layout folder, or the folder itself where it is the component."""
    inside = folder / part
    if not inside.is_dir() and part == key and (folder / "config.json").is_file():
        inside = folder
    if not (inside / "config.json").is_file():
        fix = f"name a folder that holds {part}/, or give base.{part}"
        raise MissingError(f"no {part}/config.json", where=f"base.{key}: {folder}", fix=fix)
    files = [p for p in sorted(inside.iterdir()) if p.name == "config.json" or ".safetensors" in p.suffixes]
    return {f"{part}/{file.name}": file for file in files}


def _tokenizer_links(found: Mapping[str, Path]) -> dict[str, Path]:
    folder = found.get("tokenizers") or next((path for path in found.values() if path.is_dir()), None)
    if folder is None:
        raise ConfigError(
            "single files hold no tokenizers", where="base.tokenizers", fix="name a folder or hf://owner/model for them"
        )
    links: dict[str, Path] = {}
    for part, names in TOKENIZERS.items():
        inside = next((folder / name for name in names if has_tokenizer(folder / name)), None)
        if inside is None:
            raise MissingError(f"no {part}/tokenizer.json", where=f"base.tokenizers: {folder}", fix="name its folder")
        files = [p for p in sorted(inside.iterdir()) if p.suffix in (".json", ".txt", ".model")]
        links |= {f"{part}/{file.name}": file for file in files}
    return links


def _linked_folder(links: Mapping[str, Path], bases: Path) -> Path:
    """A folder of absolute links, named by where they point; the same links are the same folder."""
    targets = {name: str(path.absolute()) for name, path in links.items()}
    folder = bases / digest(targets)
    if folder.is_dir():
        return folder
    bases.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bases, prefix=".new-") as aside:
        for name, target in targets.items():
            link = Path(aside, "base", name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        try:
            Path(aside, "base").rename(folder)
        except OSError:
            # Another process put the same links there first.
            if not folder.is_dir():
                raise
    return folder
