"""What a character must look like, in the words a study's YAML uses and every judge understands."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, field_validator

PIXEL_VERSION = 1
"""Raised whenever the pixel judge (`pixel.py`) would say something else of some picture that shows the cast."""
STRANGERS_VERSION = 2
"""The same for controls that call nobody. 1 had nothing to say of them."""


class CharacterLook(BaseModel):
    """An identity: what must show on her, and nothing else that another character is known by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hair: str
    """Colour of her hair, one word: `brown`."""
    style: str
    """How it is worn: `short hair`, `long hair`, `side ponytail`, `twintails`."""
    eyes: str
    """Colour of her eyes."""
    accessory: str | None = None
    """Colour and kind of what she wears in her hair, like `blue ribbon`; left out when she wears nothing."""
    ahoge: bool = False
    """Whether one strand stands up from her hair."""

    @field_validator("accessory")
    @classmethod
    def _colour_and_kind(cls, accessory: str | None) -> str | None:
        if accessory is not None and len(accessory.split()) != 2:
            raise ValueError(f"an accessory is a colour and a kind, like 'blue ribbon', not {accessory!r}")
        return accessory

    def wears(self, kind: str) -> str:
        """The colour of her accessory of this kind, `none` when she wears no such thing."""
        colour, worn = (self.accessory or "none none").split()
        return colour if worn == kind else "none"
