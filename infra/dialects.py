"""How S3 servers differ, as values: what each can do, its limits, and how patient a client has to be with it.

All are spoken to with plain requests and a Content-MD5; none is sent the checksum trailers that boto3 adds by default,
which R2 refuses and file gateways answer wrongly for ranges. Objects are deleted one by one: not every server deletes
several at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

MIB = 2**20
MOST_PARTS = 10_000
"""Parts of one upload, in every dialect."""
LONGEST_PAUSE_S = 20.0

DialectName = Literal["aws", "r2", "minio", "runpod"]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, and how often to ask again. Nothing waits longer than these values allow."""

    connect_s: float = 10.0
    """To open a connection; also for each block of an upload to be taken."""
    read_s: float = 60.0
    """Of silence before an answer is given up."""
    complete_s: float = 300.0
    """Of silence while a server joins the parts of an upload."""
    attempts: int = 7
    """Tries of one request, and tries of a download in a row that bring less than `progress_bytes`."""
    pause_s: float = 0.5
    """After the first try; doubles with every further one up to 20 s. botocore's own pauses, 50 ms and up, do not
    outlast a server's restart."""
    progress_bytes: int = MIB
    """What a download must bring within `read_s`, unless it ends first, so as not to count as stalled."""

    def pause_after(self, attempt: int) -> float:
        """The longest pause, in seconds, after try number `attempt`, counted from 1."""
        return min(LONGEST_PAUSE_S, self.pause_s * 2 ** (attempt - 1))

    @property
    def request_bound_s(self) -> float:
        """The longest that one request can take, in seconds, when the server never answers."""
        return self.attempts * (self.connect_s + self.read_s) + sum(map(self.pause_after, range(1, self.attempts)))


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of server can do."""

    name: DialectName
    addressing: Literal["auto", "path"]
    """Whether the bucket is part of the host name (`auto` where it can be) or of the path."""
    conditional_writes: bool
    """`If-None-Match: *` is honoured, so of two writers of one key one is refused. Without it a key must have a single
    writer."""
    keeps_metadata: bool
    """An object keeps `x-amz-meta-*`: its sha256 is then there for other tools to see."""
    part_bytes: int
    """Size of the parts of an upload, all but the last (R2 wants them equal); larger files are sent in parts."""
    longest_part_bytes: int
    parts_at_once: int
    region: str = ""
    """Where the server wants a fixed one."""
    patience: Patience = Patience()

    def part_bytes_for(self, size: int) -> int:
        """Part size for a file of `size` bytes: larger than usual when it would need more than 10,000 parts."""
        return max(self.part_bytes, math.ceil(size / MOST_PARTS))


AWS = Dialect("aws", "auto", True, True, 32 * MIB, 5 * 1024 * MIB, 4)
R2 = Dialect("r2", "path", True, True, 32 * MIB, 5 * 1024 * MIB, 3, region="auto")
MINIO = Dialect("minio", "path", True, True, 32 * MIB, 5 * 1024 * MIB, 4, region="us-east-1")
"""A server of one's own: MinIO, Ceph, Garage, Swift with s3api."""
RUNPOD = Dialect(
    "runpod",
    "path",
    False,
    False,
    64 * MIB,
    500 * 10**6,
    2,
    # The gateway answers 502 under load, and joins the parts of a large file by copying them.
    patience=Patience(read_s=120.0, complete_s=7200.0, attempts=10),
)
"""A RunPod network volume: keys are paths of files. The provider's documentation: storage/s3-api."""

DIALECTS: Mapping[DialectName, Dialect] = {d.name: d for d in (AWS, R2, MINIO, RUNPOD)}


def dialect_of(endpoint: str) -> DialectName:
    """The dialect spoken at an endpoint; AWS when there is none, a server of one's own when the host is not known."""
    host = urlsplit(endpoint).hostname or ""
    if not host or host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return "aws"
    if host.endswith(".r2.cloudflarestorage.com"):
        return "r2"
    if host.startswith("s3api-") and host.endswith(".runpod.io"):
        return "runpod"
    return "minio"


def region_of(dialect: Dialect, endpoint: str) -> str:
    """The region a server wants when none is given: RunPod's is the data centre of its host. Empty: boto3's own."""
    if dialect.name == "runpod":
        host = urlsplit(endpoint).hostname or ""
        return host.removeprefix("s3api-").partition(".")[0].upper() if host.startswith("s3api-") else "us-east-1"
    return dialect.region
