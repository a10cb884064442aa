"""What a source may be, and what it must not: a pickle, a credential, something that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from anima.base import POCKET
from anima.sources.config import HubPlace, LocalPlace, Place, S3Place, Source, WebPlace, parse_place
from orchestrator.core.errors import StudyError


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("pocket", LocalPlace(POCKET)),
        ("/models/dit.safetensors", LocalPlace(Path("/models/dit.safetensors"))),
        ("./owner/model", LocalPlace(Path("owner/model"))),
        ("models/dit.safetensors", LocalPlace(Path("models/dit.safetensors"))),
        ("~/models", LocalPlace(Path.home() / "models")),
        ("owner/Model-v1.0", HubPlace("owner/Model-v1.0")),
        ("hf://owner/model", HubPlace("owner/model")),
        ("hf://owner/model@v2", HubPlace("owner/model", "v2")),
        ("hf://owner/model/a folder/x.safetensors", HubPlace("owner/model", "main", "a folder/x.safetensors")),
        ("hf://owner/model@abc/x.safetensors", HubPlace("owner/model", "abc", "x.safetensors")),
        ("s3://bucket/a/b.safetensors", S3Place("bucket", "a/b.safetensors")),
        (
            "https://host/a.safetensors?type=Model&size=pruned",
            WebPlace("https://host/a.safetensors?type=Model&size=pruned"),
        ),
    ],
)
def test_a_source_is_a_place(text: str, place: Place) -> None:
    assert parse_place(text) == place
    assert Source(source=text).place == place


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hf://owner", "write hf://owner/model"),
        ("s3://bucket", "write s3://bucket/path/to/file"),
        ("s3:///key", "write s3://bucket/path/to/file"),
        ("https:///path", "write https://host/path/to/file"),
        ("ftp://host/file", "ftp:// is no source of weights — known: hf://, s3://"),
        ("https://me:mine@host/f", "carries a credential (user or password)"),
        ("https://host/f?token=abcdef", "carries a credential (parameter 'token')"),
        ("https://host/f?X-Amz-Signature=abcdef", "carries a credential (parameter 'X-Amz-Signature')"),
        ("https://host/f?apikey=abcdef", "belong in ~/.netrc"),
        ("/models/model.ckpt", "/models/model.ckpt: is a pickle, which runs its maker's code"),
        ("models/pytorch_model.BIN", "is a pickle"),
        ("hf://owner/model/model.pt", "is a pickle"),
        ("s3://bucket/model.pth", "is a pickle"),
        ("https://host/model.pkl?download=1", "is a pickle"),
    ],
)
def test_what_no_source_may_be_is_told(text: str, words: str) -> None:
    with pytest.raises(StudyError) as error:
        Source(source=text)
    assert words in str(error.value)
    assert "abcdef" not in str(error.value)
    assert "mine" not in str(error.value)
