"""HTML that is escaped unless it says it is HTML: text becomes markup only through `element`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TypeAlias

VOID = frozenset({"img", "input", "meta", "br", "rect", "line", "circle", "path", "use", "polyline", "polygon"})


class Markup(str):
    """A piece of HTML or SVG that is safe to put into a page as it is."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | Iterable[Child] | None"
Attribute = str | int | float | bool | None


def element(tag: str, *children: Child, **attributes: Attribute) -> Markup:
    """`<tag attributes>children</tag>`. In attribute names `_` stands for `-` and a trailing `_` is dropped.

    None and False leave an attribute out, True writes its bare name; floats are written to 2 decimals.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    inner = join(children)
    if tag in VOID and not inner:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{inner}</{tag}>")


def join(children: Child) -> Markup:
    """Children one after another, text escaped."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, str | int | float):
        return Markup(escape(str(children)))
    return Markup("".join(join(child) for child in children))


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    plain = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {plain}"
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return f' {plain}="{escape(str(value))}"'
