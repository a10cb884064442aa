"""Requests to an S3 server, each tried as often as patience allows; what fails in the end is one clear error.

boto3 makes, signs and sends the requests and finds the credentials. Trying again is done here, because botocore's own
pauses are too short to outlast a server's restart.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any, NoReturn

from infra.config import S3Config
from infra.dialects import Dialect, Patience
from infra.s3_errors import explain, failures, may_pass
from orchestrator.core.errors import VolumeError

CONNECTIONS = 32
READ_BYTES = 256 * 1024


class S3Client:
    """Speaks to the bucket of a configuration. May be pickled: boto3's clients are made where they are used, and never
    travel."""

    def __init__(self, config: S3Config, dialect: Dialect) -> None:
        self.config, self.dialect, self.patience = config, dialect, dialect.patience
        self._session: Any = None
        self._clients: dict[float, Any] = {}
        self._making = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.config, self.dialect))

    def key(self, name: str) -> str:
        """The key of an object in the bucket."""
        return f"{self.config.prefix}/{name}" if self.config.prefix else name

    def name(self, key: str) -> str:
        """The object of a key."""
        return key.removeprefix(f"{self.config.prefix}/") if self.config.prefix else key

    def where(self, name: str) -> str:
        """An object, or a prefix of some, as people read it."""
        return self.config.model_copy(update={"prefix": self.key(name).rstrip("/")}).place

    def ask(self, operation: str, name: str, **more: Any) -> Any:
        """A request about one object; `more` as for `request`."""
        return self.request(operation, name, Key=self.key(name), **more)

    def request(
        self,
        operation: str,
        name: str,
        *,
        unless: Collection[str] = (),
        needs: str = "",
        read_s: float = 0.0,
        attempts: int = 0,
        **arguments: Any,
    ) -> Any:
        """boto3's answer; None when the server refuses with a code in `unless`. Raises VolumeError, MissingError.

        An answer without the field that it `needs` was cut short. `read_s` and `attempts` are patience's by default.
        """
        for attempt in itertools.count(1):
            problem: Exception = ConnectionResetError()
            try:
                answer = getattr(self.boto(read_s), operation)(Bucket=self.config.bucket, **arguments)
                if not needs or needs in answer:
                    return answer
            except failures() as error:
                if _code(error) in unless:
                    return None
                if not may_pass(error):
                    self.fail(error, name)
                problem = error
            self.pause(attempt, problem, name, attempts)
            body = arguments.get("Body")
            if body is not None and not isinstance(body, bytes):
                body.seek(0)
        return None

    def pages(
        self, operation: str, prefix: str, tokens: Mapping[str, str], unless: Collection[str] = ()
    ) -> Iterator[Any]:
        """The pages of a listing. `tokens`: what a page names the next one by -> what that is asked for by."""
        asked: list[dict[str, Any]] = [{}]
        while True:
            page = self.request(operation, prefix, unless=unless, Prefix=self.key(prefix), **asked[-1])
            if page is None:
                return
            yield page
            following = {argument: page[field] for field, argument in tokens.items() if page.get(field)}
            if not page.get("IsTruncated") or not following:
                return
            if following in asked:
                raise VolumeError(
                    "the listing goes round in circles",
                    where=self.where(prefix),
                    fix="wait some minutes: a network volume may be taking stock",
                )
            asked.append(following)

    def boto(self, read_s: float = 0.0) -> Any:
        """boto3's client that waits so long for an answer, made at its first use."""
        from botocore.config import Config

        read_s = read_s or self.patience.read_s
        with self._making:
            self._session = self._session or _session()
            if read_s not in self._clients:
                client = self._session.client(
                    "s3",
                    endpoint_url=self.config.endpoint or None,
                    region_name=self.config.signs_for,
                    config=Config(
                        connect_timeout=self.patience.connect_s,
                        read_timeout=read_s,
                        retries={"total_max_attempts": 1, "mode": "standard"},
                        max_pool_connections=CONNECTIONS,
                        s3={"addressing_style": self.dialect.addressing},
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                    ),
                )
                _count_what_is_sent(client)
                self._clients[read_s] = client
            return self._clients[read_s]

    def pause(self, attempt: int, error: Exception, name: str, attempts: int = 0) -> None:
        """Wait before the next try, not as long as all others do; or raise when this was the last."""
        if attempt >= (attempts or self.patience.attempts):
            self.fail(error, name)
        time.sleep(self.patience.pause_after(attempt) * random.uniform(0.5, 1))

    def fail(self, error: Exception, name: str) -> NoReturn:
        """Raise what an error means."""
        raise explain(error, self.where(name), self.patience.attempts) from None


def pieces(body: Any, size: int, patience: Patience) -> Iterator[bytes]:
    """What has arrived of an answer, as it arrives, up to `size` bytes. Raises TimeoutError when too little does.

    boto3's own `read` waits until all it was asked for is there: a server that sends a byte now and then would hold it
    for hours.
    """
    read = body._raw_stream.read1
    began, brought = time.monotonic(), 0
    while size > 0 and (piece := read(min(READ_BYTES, size))):
        size -= len(piece)
        brought += len(piece)
        yield piece
        if (now := time.monotonic()) - began > patience.read_s:
            if brought < patience.progress_bytes and size > 0:
                raise TimeoutError
            began, brought = now, 0


def _count_what_is_sent(client: Any) -> None:
    """A body is read once more before it goes, to sign it: `ReadFileChunk` is told which reading is which."""
    from s3transfer.utils import signal_not_transferring, signal_transferring

    client.meta.events.register_first("request-created.s3", signal_not_transferring)
    client.meta.events.register_last("request-created.s3", signal_transferring)


def _code(error: Exception) -> str:
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


@cache
def _descriptions() -> Any:
    """What botocore knows of S3: megabytes of JSON, read once in a process."""
    from botocore.loaders import create_loader

    return create_loader()


def _session() -> Any:
    """A session that looks for credentials anew."""
    import boto3
    from botocore.session import get_session

    session = get_session()
    session.register_component("data_loader", _descriptions())
    return boto3.session.Session(botocore_session=session)
