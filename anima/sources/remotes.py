"""Files elsewhere, over HTTP and in S3 stores: how long they are, and any stretch of their bytes.

Credentials come from the environment only: `~/.netrc` for web servers, what boto3 finds for S3 (`AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL_S3` for a store that is not Amazon's). Names shown to people have no query.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from orchestrator.core.errors import MissingError, WeightsError

if TYPE_CHECKING:
    import requests

CHUNK_BYTES = 1 << 20
TIMEOUT_S = (20.0, 60.0)
"""To connect, and between two arrivals of bytes."""


class Interrupted(Exception):
    """A connection failed or ended early; the same request may succeed when made again."""

    def __init__(self, reason: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Changed(Exception):
    """The file is not the one that was looked at first: what was fetched of it is void."""


@dataclass(frozen=True, slots=True)
class RemoteFacts:
    """What a look at a remote file told."""

    size: int | None
    """In bytes; None when the server does not say."""
    version: str
    """Changes when the content does (ETag or date); empty when the server does not say."""
    ranges: bool
    """Whether any stretch of it can be asked for."""


class Remote(Protocol):
    """A file elsewhere. Both calls raise Interrupted when trying again may help, StudyError when it cannot."""

    @property
    def name(self) -> str:
        """For people, and for files that people read."""

    @property
    def address(self) -> str:
        """What tells it from every other file."""

    def look(self) -> RemoteFacts:
        """Length and version, without the content."""

    def read(self, start: int, stop: int | None, facts: RemoteFacts) -> Iterator[bytes]:
        """Bytes from `start` up to `stop` (None: the end). Raises Changed when it is no longer the file of `facts`."""

    def close(self) -> None:
        """Let go of all connections."""


class WebFile:
    """A file behind http:// or https://."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._own = threading.local()
        self._sessions: list[requests.Session] = []

    @property
    def name(self) -> str:
        return self._url.partition("?")[0]

    @property
    def address(self) -> str:
        return self._url

    def look(self) -> RemoteFacts:
        # A ranged GET, not HEAD: signed URLs and some content networks allow no other method.
        with self._get({"Range": "bytes=0-0"}) as answer:
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            if answer.status_code == 206:
                total = re.fullmatch(r"bytes 0-0/(\d+)", answer.headers.get("Content-Range", ""))
                if total:
                    return RemoteFacts(int(total[1]), version, ranges=True)
            length = answer.headers.get("Content-Length", "") if answer.status_code == 200 else ""
            return RemoteFacts(int(length) if length.isdigit() else None, version, ranges=False)

    def read(self, start: int, stop: int | None, facts: RemoteFacts) -> Iterator[bytes]:
        wanted = {} if stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        with self._get(wanted) as answer:
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            began = answer.headers.get("Content-Range", "")
            if version != facts.version or (stop is not None and not began.startswith(f"bytes {start}-")):
                raise Changed
            with _web_faults(self.name):
                # Not iter_content: when a connection breaks, that would lose what came of the chunk under way.
                while chunk := answer.raw.read1(CHUNK_BYTES):
                    yield chunk

    def close(self) -> None:
        for session in self._sessions:
            session.close()

    @contextmanager
    def _get(self, headers: dict[str, str]) -> Iterator[requests.Response]:
        # Compressed bytes would have neither the length nor the positions that were asked for.
        plain = {"Accept-Encoding": "identity", **headers}
        with _web_faults(self.name):
            answer = self._session.get(self._url, headers=plain, stream=True, timeout=TIMEOUT_S)
        with answer:
            self._refuse(answer)
            yield answer

    def _refuse(self, answer: requests.Response) -> None:
        status, host = answer.status_code, urlsplit(self._url).hostname
        if status in (200, 206) and answer.headers.get("Content-Encoding", "identity") == "identity":
            return
        if status in (401, 403):
            raise MissingError(
                f"the server refuses it ({status})", where=self.name, fix=f"put a login for {host} into ~/.netrc"
            )
        if status in (404, 410):
            raise MissingError(f"the server has no such file ({status})", where=self.name, fix="correct the URL")
        if status == 416:
            raise WeightsError("the file is empty (0 bytes)", where=self.name, fix="correct the URL")
        if status in (408, 425, 429) or status >= 500:
            wait = answer.headers.get("Retry-After", "")
            raise Interrupted(f"the server answers {status}", retry_after_s=float(wait) if wait.isdigit() else 0.0)
        raise MissingError(f"the server answers {status}", where=self.name, fix="correct the URL")

    @property
    def _session(self) -> requests.Session:
        """One per thread: sessions are not made to be shared."""
        import requests

        if not hasattr(self._own, "session"):
            self._own.session = requests.Session()
            self._sessions.append(self._own.session)
        session: requests.Session = self._own.session
        return session


@contextmanager
def _web_faults(name: str) -> Iterator[None]:
    import requests
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (requests.exceptions.TooManyRedirects, ValueError) as error:
        # Among requests' errors, those that are ValueErrors say that the URL itself is wrong.
        raise MissingError(f"cannot be asked for: {_reason(error)}", where=name, fix="correct the URL") from error
    except (requests.RequestException, HTTPError, OSError) as error:
        raise Interrupted(_reason(error)) from error


class S3File:
    """An object of an S3 store. `client`, from `s3_client`, serves several: making one takes longer than a picture."""

    def __init__(self, bucket: str, key: str, client: Any = None) -> None:
        self._bucket, self._key, self._shared = bucket, key, client

    @property
    def name(self) -> str:
        return f"s3://{self._bucket}/{self._key}"

    @property
    def address(self) -> str:
        # The same names mean other objects in another store.
        return f"{self._client.meta.endpoint_url}/{self._bucket}/{self._key}"

    def look(self) -> RemoteFacts:
        with self._faults():
            head = self._client.head_object(Bucket=self._bucket, Key=self._key)
        if head["ContentLength"] == 0:
            raise WeightsError("the file is empty (0 bytes)", where=self.name, fix="correct the key")
        return RemoteFacts(int(head["ContentLength"]), str(head.get("ETag", "")), ranges=True)

    def read(self, start: int, stop: int | None, facts: RemoteFacts) -> Iterator[bytes]:
        last = (facts.size if stop is None else stop) or 0
        with self._faults():
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{last - 1}")
        with closing(answer["Body"]) as body, self._faults():
            # Compared here: conditional requests are missing from some stores.
            if str(answer.get("ETag", "")) != facts.version:
                raise Changed
            # In small steps: when a connection breaks, what came of the step under way is lost.
            yield from body.iter_chunks(CHUNK_BYTES >> 3)

    def close(self) -> None:
        if "_client" in self.__dict__ and self._shared is None:
            self._client.close()

    @cached_property
    def _client(self) -> Any:
        return self._shared or s3_client()

    def _faults(self) -> AbstractContextManager[None]:
        return _s3_faults(self.name)


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing tells of it."""

    key: str
    size: int
    version: str


def s3_endpoint() -> str:
    """The store that the environment names."""
    with closing(s3_client()) as client:
        return str(client.meta.endpoint_url)


def list_s3(client: Any, bucket: str, prefix: str) -> Iterator[Listed]:
    """Every object whose key begins with `prefix`. Raises MissingError."""
    name = f"s3://{bucket}/{prefix}"
    try:
        with _s3_faults(name):
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for entry in page.get("Contents", ()):
                    yield Listed(entry["Key"], int(entry["Size"]), str(entry.get("ETag", "")))
    except Interrupted as error:
        # boto3 itself has tried ten times by now.
        raise MissingError(f"the store does not answer ({error})", where=name, fix="try again later") from error


def s3_client() -> Any:
    """A client of the store that the environment names; to be closed."""
    import boto3
    from botocore.config import Config

    # A session of its own: the shared one keeps the credentials of whoever asked first.
    return boto3.session.Session().client(
        "s3",
        config=Config(
            retries={"max_attempts": 10, "mode": "standard"},
            s3={"addressing_style": "path"},
            # Stores that are not Amazon's know no checksums beyond the ETag.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=TIMEOUT_S[0],
            read_timeout=TIMEOUT_S[1],
            max_pool_connections=32,
        ),
    )


@contextmanager
def _s3_faults(name: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise MissingError(
            "no S3 credentials in the environment",
            where=name,
            fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_ENDPOINT_URL_S3 where it is not Amazon's)",
        ) from error
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code", "")
        if status in (408, 429) or status >= 500:
            raise Interrupted(f"the store answers {status} {code}") from error
        what = "the store refuses it" if status in (401, 403) else "the store has no such object"
        fix = "check the credentials" if status in (401, 403) else "correct bucket and key"
        raise MissingError(f"{what} ({status} {code})", where=name, fix=fix) from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise Interrupted(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """The innermost cause in one line: what libraries wrap around it repeats the URL, query and all."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return " ".join(f"{type(error).__name__} {getattr(error, 'strerror', None) or ''}".split())
