"""HTML by construction: what is text stays text, and a page holds all that it needs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
_EMPTY = {"meta", "link", "img", "line", "path", "circle", "rect", "source"}


class Html(str):
    """Text that is HTML already. Everything else is escaped."""

    __slots__ = ()


def html(child: object) -> Html:
    """Escaped, unless it is HTML; an iterable is put together, None is nothing."""
    if isinstance(child, Html):
        return child
    if child is None:
        return Html("")
    if isinstance(child, Iterable) and not isinstance(child, str):
        return Html("".join(html(each) for each in child))
    return Html(escape(str(child)))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Attributes: `class_` is "class", `view_box` "viewBox", other underscores are dashes; True stands for
    an attribute without value, None and False for none."""
    said = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in _EMPTY:
        return Html(f"<{name}{said}>" if name in ("meta", "link", "img", "source") else f"<{name}{said}/>")
    return Html(f"<{name}{said}>{html(children)}</{name}>")


def page(title: str, *children: object) -> str:
    """A whole document. Its policy lets nothing be loaded from elsewhere, and no script run but its own."""
    style, script = (HERE / "style.css").read_text(), (HERE / "script.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data: 'self' file:; media-src data: 'self' file:; "
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(style)),
    )
    body = tag("body", tag("main", *children), tag("script", Html(script)))
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def table(head: Iterable[object], rows: Iterable[Iterable[object]], class_: str | None = None) -> Html:
    """With a box around it that scrolls where it is wider than the screen."""
    top = tag("tr", *(tag("th", cell) for cell in head))
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    return tag("div", tag("table", tag("thead", top), tag("tbody", body), class_=class_), class_="wide")


def _attribute(key: str, value: object) -> str:
    name = "viewBox" if key == "view_box" else key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return "" if value is False else f' {name}="{escape(str(value))}"'
