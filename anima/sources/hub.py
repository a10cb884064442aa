"""Models of the Hugging Face hub, in the hub's own cache, through its own client; asked only when a study names one.

What is in the cache is used without asking the hub again, so a base does not change under a study; `@revision` names
another one. `HF_HUB_OFFLINE=1` forbids asking altogether.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from anima.sources.config import HubPlace
from orchestrator.core.errors import MissingError


def is_offline() -> bool:
    """Whether the environment forbids asking the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cached_folder(place: HubPlace) -> Path:
    """Where the hub's cache keeps this model, whether it is there or not."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    model = hub / f"models--{place.repo.replace('/', '--')}"
    reference = model / "refs" / place.revision
    return model / "snapshots" / (reference.read_text().strip() if reference.is_file() else place.revision)


def fetch_files(place: HubPlace, patterns: Sequence[str], complete: Callable[[Path], bool]) -> Path:
    """The folder of a model, in which `complete` holds; files that fit `patterns` are fetched if it does not yet.

    Raises MissingError when the hub does not give them.
    """
    folder = cached_folder(place)
    if complete(folder):
        return folder
    with _hub_faults(place):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(place.repo, revision=place.revision, allow_patterns=list(patterns)))


def fetch_file(place: HubPlace) -> Path:
    """One file of a model. Raises MissingError when the hub does not give it."""
    file = cached_folder(place) / place.file
    if file.is_file():
        return file
    with _hub_faults(place):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(place.repo, place.file, revision=place.revision))


def shown(place: HubPlace) -> str:
    """The place as a study writes it."""
    at = "" if place.revision == "main" else f"@{place.revision}"
    return f"hf://{place.repo}{at}" + (f"/{place.file}" if place.file else "")


def not_cached(place: HubPlace) -> MissingError:
    """What to say when it is not in the cache and the hub must not be asked."""
    what = "file" if place.file else "base"
    wanted = " ".join(part for part in (place.repo, place.file) if part)
    at = "" if place.revision == "main" else f" --revision {place.revision}"
    return MissingError(
        f"{what} {shown(place)} is not in the hub's local cache",
        where=str(cached_folder(place)),
        fix=f"fetch it once, where the network is fast: hf download {wanted}{at}",
    )


@contextmanager
def _hub_faults(place: HubPlace) -> Iterator[None]:
    if is_offline():
        raise not_cached(place)
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        fix = f"accept its licence at https://huggingface.co/{place.repo} and set HF_TOKEN"
        raise MissingError("the hub asks for a licence to be accepted", where=shown(place), fix=fix) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        what = f"no such folder here, and the hub has no such model or file ({type(error).__name__})"
        fix = "correct the source; for a private model set HF_TOKEN"
        raise MissingError(what, where=shown(place), fix=fix) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        fix = f"check the network, or fetch it elsewhere: hf download {place.repo}"
        what = f"the hub cannot be reached ({type(error).__name__})"
        raise MissingError(what, where=shown(place), fix=fix) from error
