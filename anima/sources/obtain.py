"""From what a study's YAML says of its base to one folder on this machine that everything else loads from.

A folder or a hub's snapshot is used as it is. Of a mapping of sources, what is elsewhere is fetched, all of it at the
same time, and `assemble` links the files into one folder.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

from anima.base import base_folder, content_sha256, missing_parts
from anima.headers import read_header
from anima.match import WEIGHTED
from anima.sources.assemble import TOKENIZERS, assemble, linked_folder
from anima.sources.config import BaseSources, HubPlace, LocalPlace, S3Place, Source, WebPlace, parse_place
from anima.sources.hub import cached_folder, fetch_file, fetch_files, is_offline, not_cached
from anima.sources.remotes import Remote, S3File, WebFile
from anima.sources.store import Tell, WeightStore
from orchestrator.core.errors import ConfigError, MissingError, WeightsError


def obtain_base(base: str | BaseSources, *, tell: Tell = lambda _: None, store: WeightStore | None = None) -> Path:
    """The folder of a base, after fetching what is not here yet. `tell` hears what is being fetched.

    Raises ConfigError, MissingError, VolumeError or WeightsError; none leaves anything that would be trusted later.
    """
    if isinstance(base, BaseSources):
        store = store or WeightStore.of_this_machine()
        return assemble(base, _fetch_all(base, store, tell), store.root / "bases")
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
    return [fault for name, source in base.sources.items() if (fault := missing_source(f"base.{name}", source))]


def missing_source(where: str, source: Source) -> MissingError | None:
    """What to say of a source that is not there and cannot be fetched; `where` is its key in the YAML."""
    place = source.place
    if isinstance(place, LocalPlace) and not place.path.exists():
        return MissingError("there is no such file or folder", where=f"{where}: {place.path}", fix="correct it")
    if isinstance(place, HubPlace) and is_offline() and not (cached_folder(place) / place.file).exists():
        return not_cached(place)
    return None


def _fetch_all(base: BaseSources, store: WeightStore, tell: Tell) -> dict[str, Path]:
    """Every source as a file or folder on this machine, by its key."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(base.sources), thread_name_prefix="source") as pool:
        jobs = {n: pool.submit(fetch, f"base.{n}", s, store, tell, stop) for n, s in base.sources.items()}
        try:
            # One fault ends the others at once, however much they have left.
            for job in wait(jobs.values(), return_when=FIRST_EXCEPTION).done:
                job.result()
        except BaseException:
            stop.set()
            raise
    return {name: job.result() for name, job in jobs.items()}


def fetch(where: str, source: Source, store: WeightStore, tell: Tell, stop: threading.Event) -> Path:
    """One source as a file or folder on this machine, with the content it should have. `where` is its key in the YAML.

    Raises what `obtain_base` raises.
    """
    place, name = source.place, where.rpartition(".")[2]
    match place:
        case LocalPlace(path):
            found = path
            if not path.exists():
                raise MissingError("there is no such file or folder", where=f"{where}: {path}", fix="correct it")
        case HubPlace(file=""):
            found = _hub_folder(name, place)
        case HubPlace():
            found = fetch_file(place)
        case S3Place() | WebPlace() if where == "base.tokenizers":
            found = _remote_tokenizers(place, store, tell, stop)
        case S3Place(bucket, key):
            with closing(S3File(bucket, key)) as remote:
                return _remote_file(name, remote, source, store, tell, stop)
        case WebPlace(url):
            with closing(WebFile(url)) as remote:
                return _remote_file(name, remote, source, store, tell, stop)
    if source.sha256:
        if found.is_dir():
            raise ConfigError("a folder has no sha256", where=where, fix="give it with a single file")
        if (actual := content_sha256(found)) != source.sha256:
            what = f"its sha256 is {actual}, the study asks for {source.sha256}"
            raise WeightsError(what, where=str(found), fix=f"correct {where}, or fetch the file again")
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
    return linked_folder(links, store.root / "bases")


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
