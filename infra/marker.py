"""The form in which a volume keeps a file: a commit marker, and beside it the content of a larger file."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.core.errors import DamagedError
from orchestrator.core.layout import safe_name

SMALL_BYTES = 16 * 1024
"""A file up to this size travels inside its marker: one request instead of two."""
NOT_AS_PUBLISHED = "the content is not what was published"
_CONTENT = re.compile(r"files/(?P<stem>.+)-(?P<sha256>[0-9a-f]{12})-(?P<token>[0-9a-f]{8})(?P<suffix>\.[\w-]+|)")


def check_key(key: str) -> str:
    """`key` if it can name a file of a volume: safe names joined by `/`. Raises ConfigError."""
    for part in key.split("/"):
        safe_name(part, what="part of a key")
    return key


def marker_name(key: str) -> str:
    """Where the marker of a key is stored."""
    return f"published/{check_key(key)}"


class Published(BaseModel):
    """A file that a volume keeps, as its marker tells."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    key: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    token: str = Field(pattern="^([0-9a-f]{8})?$")
    """Tells the content of this upload from that of any other; empty for a small file."""

    @property
    def content_name(self) -> str:
        """Where the content of a larger file is stored."""
        path = PurePosixPath(self.key)
        return f"files/{path.with_suffix('')}-{self.sha256[:12]}-{self.token}{path.suffix}"

    def to_marker(self, content: bytes) -> bytes:
        """The bytes of the marker: a line of JSON, and the content of a small file."""
        return self.model_dump_json().encode() + b"\n" + content

    @classmethod
    def from_marker(cls, key: str, marker: bytes, place: str) -> tuple[Self, bytes]:
        """The file that a marker publishes, and its content when it is small, checked. Raises DamagedError."""
        line, _, content = marker.partition(b"\n")
        try:
            found = cls.model_validate_json(line)
        except ValidationError:
            raise damage("the commit marker is damaged", key, place) from None
        if found.key != key:
            raise damage("the commit marker is damaged: it is another key's", key, place)
        if not found.token and hashlib.sha256(content).hexdigest() != found.sha256:
            raise damage(NOT_AS_PUBLISHED, key, place)
        return found, content


@dataclass(frozen=True, slots=True)
class Aside:
    """Content that is stored and not yet published; `content` is set for a small file."""

    file: Published
    content: bytes


def damage(what: str, key: str, place: str) -> DamagedError:
    """The error for a file on a volume that is not what it should be."""
    fix = "quarantine the key, then publish the file again from where it was made"
    return DamagedError(what, where=f"{key} in {place}", fix=fix)


def quarantine_name(key: str, sha256: str, token: str) -> str:
    """Where the marker of a file that is set apart is stored."""
    return "-".join(part for part in (f"quarantine/{key}", sha256[:12], token) if part)


def split_content_name(name: str) -> tuple[str, str, str] | None:
    """Key, first 12 digits of the sha256 and token of a stored content; None for other names."""
    match = _CONTENT.fullmatch(name)
    return match and (match["stem"] + match["suffix"], match["sha256"], match["token"])
