"""Text of HTML that is a part of another file: a chapter of a book, or the body of a mail. All of it is wanted."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from smart_rag.errors import MissingExtra

if TYPE_CHECKING:
    from lxml.etree import _Element

_UNSEEN = {"head", "script", "style", "template", "noscript"}
_INLINE = {
    *("a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins"),
    *("kbd", "label", "mark", "math", "q", "rp", "rt", "ruby", "s", "samp", "small", "span", "strike", "strong", "sub"),
    *("sup", "time", "tt", "u", "var", "wbr", "img", "svg", "text", "tspan", "mi", "mn", "mo", "mrow", "mtext"),
}
_CELLS = {"td", "th"}
_NAMED_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)[A-Za-z][A-Za-z0-9]*;")
_TAG = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_SPACES = re.compile(r"[ \t\r\n\f]+")


def html_text(text: str, name: str) -> str:
    """Return the text of HTML or XHTML as a person sees it: a line for each block, empty lines between paragraphs.

    Args:
        text: the HTML.
        name: the name of the file, for an error.

    Raises:
        MissingExtra: lxml is not installed.
    """
    try:
        import lxml.etree
    except ImportError as error:
        raise MissingExtra("lxml", "office", f"reading {name}") from error
    root = _root(text)
    if root is None:  # nothing in it, or nested so deeply that the parser gives up
        words = html.unescape(_TAG.sub("\n", text))
        return "\n\n".join(" ".join(line.split()) for line in words.splitlines() if line.strip())
    lines: list[list[str]] = [[]]
    walk = lxml.etree.iterwalk(root, events=("start", "end", "comment", "pi"))
    for event, element in walk:
        tag = element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else ""
        if event == "start" and tag in _UNSEEN:
            walk.skip_subtree()
        elif event == "start":
            if tag in _CELLS and lines[-1]:
                lines[-1].append(" | ")
            elif tag and tag not in _INLINE and tag not in _CELLS:
                lines.append([])
            lines[-1].append(element.text or "")
        if event != "start":
            if tag and tag not in _INLINE and tag not in _CELLS and tag != "br":
                lines.append([])
            lines[-1].append(element.tail or "")
    found = (_SPACES.sub(" ", "".join(line)).strip(" |") for line in lines)
    return "\n\n".join(line for line in found if line)


def _root(text: str) -> _Element | None:
    """Return the root of HTML or XHTML, or None if there is none."""
    import lxml.etree

    options = {"resolve_entities": False, "no_network": True, "huge_tree": True}
    text = re.sub(r"^\ufeff?\s*<\?xml[^>]*\?>", "", text)  # it may state another encoding than that of `str`
    if not text.strip():
        return None
    if "http://www.w3.org/1999/xhtml" in text[:4096]:  # XHTML: an HTML parser would not understand <title/>
        plain = _NAMED_ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
        try:
            return lxml.etree.fromstring(plain.encode(), lxml.etree.XMLParser(**options, load_dtd=False))
        except lxml.etree.XMLSyntaxError:
            pass  # it calls itself XHTML, but it is not
    parser = lxml.etree.HTMLParser(encoding="utf-8", no_network=True, huge_tree=True)
    root = lxml.etree.fromstring(text.encode("utf-8", "replace"), parser)
    return None if any("depth" in error.message for error in parser.error_log) else root
