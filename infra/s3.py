"""A store in an S3 bucket, through boto3's client. What servers do differently is a value: `infra.dialects`.

boto3's own transfer manager is not used: it cannot take a download up again in another process, nor send a checksum of
each part that every dialect verifies.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import threading
import time
from base64 import b64encode
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from infra.config import S3Config
from infra.dialects import Dialect, Patience
from infra.s3_errors import explain
from infra.store import Listed, Measured
from orchestrator.core.errors import AbsentError, StudyError, VolumeError

log = logging.getLogger(__name__)

ABSENT = ("NoSuchKey", "404", "NotFound")
TAKEN = ("PreconditionFailed", "412", "ConditionalRequestConflict")
NO_UPLOAD = ("NoSuchUpload", "404")
CONNECTIONS = 32
READ_BYTES = 256 * 1024


class S3Store:
    """Objects in a bucket below a prefix. It may be pickled: the client is made where it is used, and never travels."""

    def __init__(self, config: S3Config, dialect: Dialect | None = None) -> None:
        """`dialect` overrides what the configuration tells, for another size of parts or another patience."""
        self.config, self.dialect = config, dialect or config.speaks
        self.patience = self.dialect.patience
        self._session: Any = None
        self._clients: dict[tuple[float, int], Any] = {}
        self._making = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.config, self.dialect))

    def __repr__(self) -> str:
        return f"S3Store({self.place!r}, dialect={self.dialect.name!r})"

    @property
    def place(self) -> str:
        return self.config.place

    def part_bytes(self, size: int) -> int:
        return self.dialect.part_bytes_for(size)

    def write(self, name: str, source: Path | bytes, measured: Measured) -> None:
        """One request for a file that fits in a part; otherwise parts, which show nothing until they are joined."""
        kept: dict[str, Any] = {"Metadata": {"sha256": measured.sha256}} if self.dialect.keeps_metadata else {}
        if len(measured.part_md5) > 1:
            if isinstance(source, bytes):
                raise ValueError("a large object is written from a file")
            self._write_in_parts(name, source, measured, kept)
            return
        with closing(_part(source, 0, measured.size)) as body:
            self._ask("put_object", name, Body=body, ContentMD5=_text(measured.part_md5[0]), **kept)

    def _write_in_parts(self, name: str, source: Path, measured: Measured, kept: dict[str, Any]) -> None:
        upload = self._ask("create_multipart_upload", name, needs="UploadId", **kept)["UploadId"]
        stopped = threading.Event()

        def send(index: int) -> dict[str, Any]:
            if stopped.is_set():
                raise VolumeError("the upload was given up", where=self._where(name))
            with closing(_part(source, index * measured.part_bytes, measured.part_bytes)) as body:
                answer = self._ask(
                    "upload_part",
                    name,
                    needs="ETag",
                    UploadId=upload,
                    PartNumber=index + 1,
                    Body=body,
                    ContentMD5=_text(measured.part_md5[index]),
                )
            return {"PartNumber": index + 1, "ETag": answer["ETag"]}

        try:
            with ThreadPoolExecutor(self.dialect.parts_at_once) as pool:
                try:
                    parts = list(pool.map(send, range(len(measured.part_md5))))
                except BaseException:
                    stopped.set()
                    raise
            self._join(name, upload, parts, measured.size)
        except BaseException:
            # One try: what stays behind in an outage is found by `abort_uploads`.
            with suppress(StudyError):
                self._ask("abort_multipart_upload", name, attempts=1, unless=NO_UPLOAD, UploadId=upload)
            raise

    def _join(self, name: str, upload: str, parts: list[dict[str, Any]], size: int) -> None:
        """Make the parts one object. A server that joined them but whose answer was lost does not know the upload."""
        self._ask(
            "complete_multipart_upload",
            name,
            read_s=self.patience.complete_s,
            unless=NO_UPLOAD,
            UploadId=upload,
            MultipartUpload={"Parts": parts},
        )
        stored = self._ask("head_object", name, unless=ABSENT, needs="ContentLength")
        if stored is None or stored["ContentLength"] != size:
            what = "is not there" if stored is None else f"has {stored['ContentLength']} bytes instead of {size}"
            raise VolumeError(
                f"after its upload the object {what}", where=self._where(name), fix="look after the volume's free space"
            )

    def create(self, name: str, data: bytes) -> bool:
        """Where the dialect has no conditional writes, a name must have a single writer."""
        sent: dict[str, Any] = {"Body": data, "ContentMD5": _text(hashlib.md5(data, usedforsecurity=False).digest())}
        if self.dialect.conditional_writes:
            return self._ask("put_object", name, unless=TAKEN, IfNoneMatch="*", **sent) is not None
        if self.has(name):
            return False
        self._ask("put_object", name, **sent)
        return True

    def read(self, name: str) -> bytes | None:
        for attempt in itertools.count(1):
            answer = self._ask("get_object", name, unless=ABSENT, needs="ContentLength")
            if answer is None:
                return None
            error: Exception = ConnectionResetError()
            try:
                with closing(answer["Body"]) as body:
                    data = b"".join(_pieces(body, answer["ContentLength"], self.patience))
                if len(data) == answer["ContentLength"]:
                    return data
            except _broken() as caught:
                error = caught
            self._pause(attempt, error, name)
        return None

    def stream(self, name: str, size: int, start: int = 0) -> Iterator[bytes]:
        broken, fruitless, mark = _broken(), 0, start
        while start < size:
            answer = self._ask("get_object", name, unless=ABSENT, Range=f"bytes={start}-")
            if answer is None:
                raise AbsentError("there is no such object", where=self._where(name))
            error: Exception = ConnectionResetError()
            try:
                with closing(answer["Body"]) as body:
                    for piece in _pieces(body, size - start, self.patience):
                        start += len(piece)
                        yield piece
            except broken as caught:
                error = caught
            if start < size:
                if start - mark >= self.patience.progress_bytes:
                    fruitless, mark = 0, start
                fruitless += 1
                self._pause(fruitless, error, name)
                log.warning("download taken up again | %s | %d of %d bytes", self._where(name), start, size)

    def has(self, name: str) -> bool:
        return self._ask("head_object", name, unless=ABSENT) is not None

    def listed(self, prefix: str) -> Iterator[Listed]:
        for page in self._pages("list_objects_v2", prefix):
            for item in page.get("Contents", ()):
                # Gateways to a file system list folders too.
                if not item["Key"].endswith("/"):
                    yield Listed(self._name(item["Key"]), item["LastModified"].timestamp())

    def remove(self, name: str) -> None:
        self._ask("delete_object", name, unless=ABSENT)

    def abort_uploads(self, before: float) -> int:
        limit, own, count = datetime.fromtimestamp(before, UTC), self._key(""), 0
        # Some gateways say that there is no such upload when there is none at all.
        for page in self._pages("list_multipart_uploads", "", unless=NO_UPLOAD):
            for upload in page.get("Uploads", ()):
                if upload["Key"].startswith(own) and upload["Initiated"] <= limit:
                    name = self._name(upload["Key"])
                    self._ask("abort_multipart_upload", name, unless=NO_UPLOAD, UploadId=upload["UploadId"])
                    count += 1
        return count

    def _ask(
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
        """One request, tried as often as patience allows; None when the server answers with a code in `unless`.

        An answer without the field that it `needs` was cut short.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        for attempt in itertools.count(1):
            try:
                client = self._client(read_s or self.patience.read_s, attempts or self.patience.attempts)
                answer = getattr(client, operation)(Bucket=self.config.bucket, Key=self._key(name), **arguments)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code", "") in unless:
                    return None
                self._fail(error, name)
            except BotoCoreError as error:
                self._fail(error, name)
            if not needs or needs in answer:
                return answer
            self._pause(attempt, ConnectionResetError(), name)
        return None

    def _pages(self, operation: str, prefix: str, unless: Collection[str] = ()) -> Iterator[Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client = self._client(self.patience.read_s, self.patience.attempts)
            yield from client.get_paginator(operation).paginate(Bucket=self.config.bucket, Prefix=self._key(prefix))
        except ClientError as error:
            if error.response.get("Error", {}).get("Code", "") not in unless:
                self._fail(error, prefix)
        except BotoCoreError as error:
            self._fail(error, prefix)

    def _client(self, read_s: float, attempts: int) -> Any:
        """A client with these limits, made at its first use; boto3 finds the credentials."""
        from botocore.config import Config

        with self._making:
            self._session = self._session or _session()
            if (read_s, attempts) not in self._clients:
                self._clients[read_s, attempts] = self._session.client(
                    "s3",
                    endpoint_url=self.config.endpoint or None,
                    region_name=self.config.signs_for,
                    config=Config(
                        connect_timeout=self.patience.connect_s,
                        read_timeout=read_s,
                        retries={"total_max_attempts": attempts, "mode": "standard"},
                        max_pool_connections=CONNECTIONS,
                        s3={"addressing_style": self.dialect.addressing},
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                    ),
                )
            return self._clients[read_s, attempts]

    def _pause(self, attempt: int, error: Exception, name: str) -> None:
        """Wait before the next try, or raise when this was the last."""
        if attempt >= self.patience.attempts:
            self._fail(error, name)
        time.sleep(self.patience.pause_after(attempt))

    def _fail(self, error: Exception, name: str) -> NoReturn:
        raise explain(error, self._where(name), self.patience.attempts) from None

    def _key(self, name: str) -> str:
        return f"{self.config.prefix}/{name}" if self.config.prefix else name

    def _name(self, key: str) -> str:
        return key.removeprefix(f"{self.config.prefix}/") if self.config.prefix else key

    def _where(self, name: str) -> str:
        return self.config.model_copy(update={"prefix": self._key(name).rstrip("/")}).place


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


def _text(md5: bytes) -> str:
    """An MD5 as the header Content-MD5 wants it."""
    return b64encode(md5).decode()


def _part(source: Path | bytes, start: int, size: int) -> Any:
    """A readable piece of a file, which is not held in memory."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    from s3transfer.utils import ReadFileChunk

    return ReadFileChunk.from_filename(str(source), start, size)


def _pieces(body: Any, size: int, patience: Patience) -> Iterator[bytes]:
    """What has arrived, as it arrives, up to `size` bytes. Raises TimeoutError when too little does.

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


def _broken() -> tuple[type[Exception], ...]:
    """What reading from a connection that breaks can raise."""
    from botocore.exceptions import HTTPClientError
    from urllib3.exceptions import HTTPError

    return (HTTPClientError, HTTPError, OSError)
