"""A store in an S3 bucket. What servers do differently is a value: `infra.dialects`.

boto3's own transfer manager is not used: it cannot take a download up again in another process, nor send a checksum of
each part that every dialect verifies.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import threading
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.config import S3Config
from infra.dialects import Dialect
from infra.progress import Furthest, Moved, unheard
from infra.s3_client import S3Client, pieces
from infra.s3_errors import failures
from infra.store import Listed, Measured
from orchestrator.core.errors import AbsentError, StudyError, VolumeError

log = logging.getLogger(__name__)

ABSENT = ("NoSuchKey", "404", "NotFound")
TAKEN = ("PreconditionFailed", "412", "ConditionalRequestConflict")
NO_UPLOAD = ("NoSuchUpload", "404")


class S3Store:
    """Objects in a bucket below a prefix."""

    def __init__(self, config: S3Config, dialect: Dialect | None = None) -> None:
        """`dialect` overrides what the configuration tells, for another size of parts or another patience."""
        self.dialect = dialect or config.speaks
        self.client = S3Client(config, self.dialect)

    def __repr__(self) -> str:
        return f"S3Store({self.place!r}, dialect={self.dialect.name!r})"

    @property
    def config(self) -> S3Config:
        """Where it is."""
        return self.client.config

    @property
    def place(self) -> str:
        return self.config.place

    def part_bytes(self, size: int) -> int:
        return self.dialect.part_bytes_for(size)

    def write(self, name: str, source: Path | bytes, measured: Measured, moved: Moved = unheard) -> None:
        """One request for a file that fits in a part; otherwise parts, which show nothing until they are joined."""
        kept: dict[str, Any] = {"Metadata": {"sha256": measured.sha256}} if self.dialect.keeps_metadata else {}
        if len(measured.part_md5) > 1:
            if isinstance(source, bytes):
                raise ValueError("a large object is written from a file")
            self._write_in_parts(name, source, measured, kept, moved)
            return
        with closing(_part(source, 0, measured.size, moved)) as body:
            self.client.ask("put_object", name, Body=body, ContentMD5=_text(measured.part_md5[0]), **kept)

    def _write_in_parts(self, name: str, source: Path, measured: Measured, kept: dict[str, Any], moved: Moved) -> None:
        upload = self.client.ask("create_multipart_upload", name, needs="UploadId", **kept)["UploadId"]
        stopped = threading.Event()

        def send(index: int) -> dict[str, Any]:
            if stopped.is_set():
                raise VolumeError("the upload was given up", where=self.client.where(name))
            with closing(_part(source, index * measured.part_bytes, measured.part_bytes, moved)) as body:
                answer = self.client.ask(
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
                self.client.ask("abort_multipart_upload", name, attempts=1, unless=NO_UPLOAD, UploadId=upload)
            raise

    def _join(self, name: str, upload: str, parts: list[dict[str, Any]], size: int) -> None:
        """Make the parts one object. A server that joined them but whose answer was lost does not know the upload."""
        self.client.ask(
            "complete_multipart_upload",
            name,
            read_s=self.dialect.patience.complete_s,
            unless=NO_UPLOAD,
            UploadId=upload,
            MultipartUpload={"Parts": parts},
        )
        stored = self.client.ask("head_object", name, unless=ABSENT, needs="ContentLength")
        if stored is None or stored["ContentLength"] != size:
            what = "is not there" if stored is None else f"has {stored['ContentLength']} bytes instead of {size}"
            raise VolumeError(
                f"after its upload the object {what}",
                where=self.client.where(name),
                fix="look after the volume's free space, then the same command goes on",
            )

    def create(self, name: str, data: bytes) -> bool:
        """Where the dialect has no conditional writes, a name must have a single writer."""
        sent: dict[str, Any] = {"Body": data, "ContentMD5": _text(hashlib.md5(data, usedforsecurity=False).digest())}
        if self.dialect.conditional_writes:
            return self.client.ask("put_object", name, unless=TAKEN, IfNoneMatch="*", **sent) is not None
        if self.has(name):
            return False
        self.client.ask("put_object", name, **sent)
        return True

    def read(self, name: str) -> bytes | None:
        for attempt in itertools.count(1):
            answer = self.client.ask("get_object", name, unless=ABSENT, needs="ContentLength")
            if answer is None:
                return None
            error: Exception = ConnectionResetError()
            try:
                with closing(answer["Body"]) as body:
                    data = b"".join(pieces(body, answer["ContentLength"], self.dialect.patience))
                if len(data) == answer["ContentLength"]:
                    return data
            except failures() as caught:
                error = caught
            self.client.pause(attempt, error, name)
        return None

    def stream(self, name: str, size: int, start: int = 0) -> Iterator[bytes]:
        broken, fruitless, mark = failures(), 0, start
        while start < size:
            answer = self.client.ask("get_object", name, unless=ABSENT, Range=f"bytes={start}-")
            if answer is None:
                raise AbsentError("there is no such object", where=self.client.where(name))
            error: Exception = ConnectionResetError()
            try:
                with closing(answer["Body"]) as body:
                    for piece in pieces(body, size - start, self.dialect.patience):
                        start += len(piece)
                        yield piece
            except broken as caught:
                error = caught
            if start < size:
                if start - mark >= self.dialect.patience.progress_bytes:
                    fruitless, mark = 0, start
                fruitless += 1
                self.client.pause(fruitless, error, name)
                log.warning("download taken up again | %s | %d of %d bytes", self.client.where(name), start, size)

    def has(self, name: str) -> bool:
        return self.client.ask("head_object", name, unless=ABSENT) is not None

    def listed(self, prefix: str) -> Iterator[Listed]:
        for page in self.client.pages("list_objects_v2", prefix, {"NextContinuationToken": "ContinuationToken"}):
            for item in page.get("Contents", ()):
                # Gateways to a file system list folders too.
                if not item["Key"].endswith("/"):
                    yield Listed(self.client.name(item["Key"]), item["LastModified"].timestamp())

    def remove(self, name: str) -> None:
        self.client.ask("delete_object", name, unless=ABSENT)

    def abort_uploads(self, before: float) -> int:
        limit, own, count = datetime.fromtimestamp(before, UTC), self.client.key(""), 0
        tokens = {"NextKeyMarker": "KeyMarker", "NextUploadIdMarker": "UploadIdMarker"}
        # Some gateways say that there is no such upload when there is none at all.
        for page in self.client.pages("list_multipart_uploads", "", tokens, unless=NO_UPLOAD):
            for upload in page.get("Uploads", ()):
                if upload["Key"].startswith(own) and upload["Initiated"] <= limit:
                    name, upload_id = self.client.name(upload["Key"]), upload["UploadId"]
                    self.client.ask("abort_multipart_upload", name, unless=NO_UPLOAD, UploadId=upload_id)
                    count += 1
        return count


def _text(md5: bytes) -> str:
    """An MD5 as the header Content-MD5 wants it."""
    return b64encode(md5).decode()


def _part(source: Path | bytes, start: int, size: int, moved: Moved) -> Any:
    """A readable piece of a file, which is not held in memory. It counts what is read to be sent, not to be signed."""
    from s3transfer.utils import ReadFileChunk

    heard = [Furthest(moved)]
    if isinstance(source, bytes):
        return ReadFileChunk(io.BytesIO(source), size, size, heard, enable_callbacks=False)
    return ReadFileChunk.from_filename(str(source), start, size, heard, enable_callbacks=False)
