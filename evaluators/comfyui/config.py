"""Where a running ComfyUI is, and which workflow it draws with. Torch-free."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, field_validator


class ComfyUIConfig(BaseModel):
    """A ComfyUI and its workflow. If it asks for a login, put the token in the environment as COMFYUI_TOKEN."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = "http://127.0.0.1:8188"
    """Its address; this machine unless you say otherwise."""
    workflow: str = ""
    """A workflow in API format with slots, `docs/grids.md` tells how; empty: the shipped one for Anima."""
    slots: dict[str, str] = {}
    """Slots of a workflow that has none written into it: name -> `node.input`, by the node's number or title."""
    models: dict[str, str] = {}
    """File names that replace those of the shipped workflow: `transformer`, `text_encoder`, `vae`."""
    loras: str = ""
    """ComfyUI's folder models/loras, if this machine sees it: adapters are linked into it. Empty: they are there."""
    timeout_s: PositiveFloat = 600
    """How long one picture may take from the moment nothing is before it in the queue."""
    ahead: PositiveInt = 2
    """Pictures in its queue at once, so that it never waits for us."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("an address like http://127.0.0.1:8188")
        if parts.username or parts.password:
            raise ValueError("no user or password in the address; set COMFYUI_TOKEN in the environment")
        return url.rstrip("/")
