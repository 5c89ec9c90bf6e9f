"""Build HTML and SVG in which every text and attribute is data: nothing that comes from a file can become markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

_TAG = re.compile(r"[a-zA-Z][a-zA-Z0-9]*")
_ATTRIBUTE = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
_EMPTY = frozenset({"br", "col", "hr", "img", "input", "meta"})
_RAW = frozenset({"script", "style"})  # Their content is not unescaped by a browser.
_ACTIVE = frozenset({"action", "formaction", "src", "srcdoc", "style", "srcset"})  # A value would be more than text.
# Controls, lone surrogates, and marks that reorder text or take no room: a name must look like what it is.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
_POLICY = "default-src 'none'; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class Markup:
    """Text that is HTML already."""

    text: str


Child = Markup | str | int


def element(tag: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """Return an element of HTML or SVG; children that are not Markup become text.

    Attributes are spelled with `_` for `-`, and one at the end where Python has the word: `class_`, `aria_label`.
    True stands for an attribute without a value, False and None for none; numbers keep two decimals.

    Raises:
        ValueError: the tag or an attribute would not be plain data: scripts, styles, `on...`, a link out of the page.
    """
    if not _TAG.fullmatch(tag) or tag.lower() in _RAW:
        raise ValueError(f"<{tag}>: is no element of a page; expected letters and digits, not a script or style")
    opened = tag + "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _EMPTY:
        return Markup(f"<{opened}>")
    return Markup(f"<{opened}>{fragment(*children).text}</{tag}>")


def _attribute(name: str, value: str | float | None) -> str:
    name = name.rstrip("_").replace("_", "-")
    if not _ATTRIBUTE.fullmatch(name) or name.lower() in _ACTIVE or name.lower().startswith("on"):
        raise ValueError(f"{name}=: is no attribute of plain data")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    if name == "href" and not str(value).startswith("#"):
        raise ValueError(f"href={str(value)[:40]!r}: leads out of the page; expected '#' and an id")
    return f' {name}="{_escaped(_number(value) if isinstance(value, float) else str(value))}"'


def _number(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def fragment(*children: Child) -> Markup:
    """Return children one after another; those that are not Markup become text."""
    return Markup("".join(x.text if isinstance(x, Markup) else _escaped(str(x)) for x in children))


def _escaped(text: str) -> str:
    return html.escape(visible(text))


def visible(text: str) -> str:
    r"""Return a text with what cannot be seen, or changes how the rest is seen, spelled out: "a\u202eb"."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def data(name: str, value: Any) -> Markup:
    """Return a JSON value as an element of the id `name`, which a script of the page reads and nothing else can.

    Texts, but not the names of fields, are made `visible`. NaN and infinities become null: JSON has none.
    """
    text = json.dumps(_plain(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    # No '<' ends the element or opens a comment in it; ensure_ascii has taken care of U+2028.
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(f'<script type="application/json" id="{_escaped(name)}">{text}</script>')


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {name: _plain(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def page(title: str, *body: Child, style: str = "", script: str = "") -> str:
    """Return a whole page: light or dark as the reader has it, fit to print, and closed to everything outside.

    `style` comes after the common one, `script` runs when the page is there. They are this package's own, never data;
    a browser runs no other script or style and asks for no file, whatever else were in the page.

    Raises:
        ValueError: a script or style would end its own element.
    """
    style = resources.files("surgery.page").joinpath("style.css").read_text("utf-8") + style
    for text in (style, script):
        if re.search(r"</(script|style)|<!--", text, re.IGNORECASE):
            raise ValueError("a script or style holds '</script', '</style' or '<!--', which would end it")
    policy = _POLICY.format(style=_digest(style), script=_digest(script))
    head = fragment(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        Markup(f"<style>{style}</style>"),
    )
    code = Markup(f"<script>{script}</script>") if script else Markup("")
    whole = element("html", element("head", head), element("body", *body, code), lang="en")
    return f"<!DOCTYPE html>\n{whole.text}\n"


def _digest(text: str) -> str:
    """Return the name by which a policy allows one text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
