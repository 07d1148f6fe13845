"""The visible text of a parsed HTML document. Elements may be nested to any depth, so nothing here is recursive."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser

# What no browser shows, and what it shows only if it cannot show the element itself.
_UNSEEN = frozenset(
    [
        "script",
        "style",
        "template",
        "noscript",
        "head",
        "iframe",
        "noembed",
        "noframes",
        "audio",
        "video",
        "canvas",
        "datalist",
    ]
)
# These begin and end lines. Those of the second set also have an empty line before and after.
_LINES = frozenset(
    [
        "address",
        "article",
        "aside",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "dir",
        "div",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "frameset",
        "header",
        "hgroup",
        "html",
        "legend",
        "li",
        "main",
        "menu",
        "nav",
        "optgroup",
        "option",
        "search",
        "section",
        "select",
        "summary",
        "tbody",
        "textarea",
        "tfoot",
        "thead",
        "tr",
    ]
)
_APART = frozenset(["blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "ol", "p", "pre", "table", "ul"])
_PREFORMATTED = frozenset(("pre", "textarea", "listing", "xmp"))
_CELLS = frozenset(("td", "th"))
# Neighbours of these kinds are divided by a style, or by the rules for formulas, even if no space is between them.
_DIVIDED = frozenset(("a", "button", "label", "mi", "mn", "mtext"))
# Fields whose value is not shown.
_NO_VALUE = frozenset(("hidden", "password", "checkbox", "radio", "image", "file", "range", "color"))

_HIDDEN_STYLE = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_NAVIGATION_ROLES = frozenset(("navigation", "menu", "menubar", "search"))
_COOKIES = re.compile(r"cookie[-_ ]?(?:banner|consent|notice|bar|law|popup|message)|consent[-_ ]?banner", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\n\r\f]+")
_WORD = re.compile(r"\w+")
# Navigation has its words in links. Another part with such a mark is text.
_SHARE_OF_LINKS = 0.5
# Such parts may stand in each other, and each is counted anew. After so many that are text, the others are text, too.
_MOST_KEPT = 50
# A page with fewer words outside of its navigation is a table of contents.
_FEWEST_WORDS = 25

# Marks in the list of texts, which become white space at the end.
_LINE, _PARAGRAPH, _CELL, _ITEM, _ITEM_END = "\0n", "\0p", "\0c", "\0i", "\0e"
_AS_IS = "\0r"  # begins a text that keeps its spaces


class Visible:
    """The text that a browser shows of a document.

    Attributes:
        text: the text. Each block begins a line, the cells of a table are divided by ``|``, preformatted text keeps its
            spaces, and images give their alternative texts.
        left_out: the numbers of words of what ``text`` lacks: ``"navigation"``, ``"cookie banners"``, ``"hidden
            text"``.
    """

    def __init__(self, tree: LexborHTMLParser) -> None:
        self._tree = tree
        self.left_out: Counter[str] = Counter()
        self._kept = 0  # parts with the mark of navigation that are text
        self.text = self._read(frozenset(("navigation", "cookie banners", "hidden text")))
        if self.left_out and len(_WORD.findall(self.text)) < _FEWEST_WORDS:
            self.left_out.clear()
            self.text = self._read(frozenset(("hidden text",)))
            if not self.text and self.left_out:
                self.left_out.clear()
                self.text = self._read(frozenset())

    def head(self) -> list[str]:
        """Return the title and the descriptions of the document, each once, without those that begin the text."""
        found = [node.text() for node in self._tree.css("head > title")[:1]]
        for query in ('meta[property="og:title"]', 'meta[name="description" i]', 'meta[property="og:description"]'):
            found += [node.attributes.get("content") or "" for node in self._tree.css(query)[:1]]
        shown: list[str] = []
        for text in (_SPACE.sub(" ", text).strip() for text in found):
            if text and not any(text in other for other in shown):
                shown.append(text)
        return [text for text in shown if not self.text.startswith(f"{text}\n")]

    def _read(self, without: frozenset[str]) -> str:
        texts: list[str] = []
        node: Any = self._tree.root
        depth_of_pre = 0
        rows: list[list[int]] = []
        while node is not None:
            tag = node.tag
            enters = False
            if tag == "-text":
                text = node.text_content
                texts.append(f"{_AS_IS}{text}" if depth_of_pre else _SPACE.sub(" ", text))
            elif tag is not None and not tag.startswith(("-", "!")) and tag not in _UNSEEN:
                kind = _kind(node)
                if kind in without and self._leaves(node, kind):
                    texts.append(_LINE)
                else:
                    enters = node.first_child is not None
                    depth_of_pre += tag in _PREFORMATTED and enters
                    _open(texts, node, tag, rows)
                    if not enters:
                        _close(texts, node, rows)
            if enters:
                node = node.first_child
                continue
            while node is not None and node.next is None:
                node = node.parent
                if node is not None and node.tag is not None:
                    depth_of_pre -= node.tag in _PREFORMATTED
                    _close(texts, node, rows)
            node = node.next if node is not None else None
        return _joined(texts)

    def _leaves(self, node: Any, kind: str) -> bool:
        """Return whether to leave out ``node``, and count its words."""
        if kind == "navigation" and self._kept > _MOST_KEPT:
            return False
        words = _words(node)
        if kind == "navigation":
            in_links = sum(_words(link) for link in node.css("a, button, select"))
            if in_links < _SHARE_OF_LINKS * words:
                self._kept += 1
                return False
        if words:
            self.left_out[kind] += words
        return True


def _words(node: Any) -> int:
    """Return the number of words of the text in ``node``. Scripts in it count for nothing."""
    unseen = sum(len(_WORD.findall(part.text(deep=True))) for part in node.css("script, style, template"))
    return len(_WORD.findall(node.text(deep=True, separator=" "))) - unseen


def _kind(node: Any) -> str:
    """Return what the marks of an element say of it, as in `Visible.left_out`, or an empty string."""
    attributes = node.attributes
    if not attributes:
        return "navigation" if node.tag == "nav" else ""
    if "hidden" in attributes or _HIDDEN_STYLE.search(attributes.get("style") or ""):
        return "hidden text"
    if node.tag == "nav" or attributes.get("role") in _NAVIGATION_ROLES:
        return "navigation"
    name = f"{attributes.get('id') or ''} {attributes.get('class') or ''}"
    return "cookie banners" if _COOKIES.search(name) and node.tag not in ("body", "html", "main") else ""


def _open(texts: list[str], node: Any, tag: str, rows: list[list[int]]) -> None:
    """Add the marks of an element that begins. ``rows`` has the places of each open row and of its cells."""
    if tag in _APART:
        texts.append(_PARAGRAPH)
    elif tag in _LINES:
        texts.append(_LINE)
    if tag == "br":
        texts.append("\n")
    elif tag == "tr":
        rows.append([len(texts)])
    elif tag in _CELLS:
        if rows:
            rows[-1].append(len(texts))
        texts.append(_CELL)
    elif tag == "li":
        texts.append(_ITEM)
    elif tag in ("img", "area"):
        texts.append(f" {_SPACE.sub(' ', node.attributes.get('alt') or '')} ")
    elif tag == "input" and (node.attributes.get("type") or "text").lower() not in _NO_VALUE:
        texts.append(f" {node.attributes.get('value') or node.attributes.get('placeholder') or ''} ")


def _close(texts: list[str], node: Any, rows: list[list[int]]) -> None:
    tag = node.tag
    if tag == "li":
        texts.append(_ITEM_END)
    if tag == "tr" and rows:
        _divide(texts, *rows.pop())
    if tag in _APART:
        texts.append(_PARAGRAPH)
    elif tag in _LINES:
        texts.append(_LINE)
    elif tag in _DIVIDED and node.next is not None and node.next.tag in _DIVIDED:
        texts.append(" ")


def _divide(texts: list[str], begin: int, *marks: int) -> None:
    """Set the marks of the cells in a row. A row of blocks is a layout, with a line for each.

    Rows stand in rows, so this must look only at the begin of what stands in a cell.
    """
    has_blocks = any(texts[i] in (_LINE, _PARAGRAPH) for i in range(begin, len(texts)))
    seen = False
    for mark, end in zip(marks, [*marks, len(texts)][1:], strict=True):
        divider = _LINE if has_blocks else " | "
        texts[mark] = divider if seen else ""
        seen = seen or any(texts[i].strip() for i in range(mark + 1, end))


def _joined(texts: list[str]) -> str:
    """Return the texts with at most one space between words, and at most one empty line between blocks."""
    lines: list[str] = []
    line = bullet = ""
    blank = False
    for text in [*texts, _PARAGRAPH]:
        if text in (_LINE, _PARAGRAPH):
            if line.strip():
                lines += ["", line.rstrip()] if blank and lines else [line.rstrip()]
                blank = False
            line = ""
            blank = (blank or text == _PARAGRAPH) and not bullet
        elif text == _ITEM:
            bullet = "- "
        elif text == _ITEM_END:
            bullet = ""
        elif text != _CELL:
            if text.startswith(_AS_IS):
                text = text.removeprefix(_AS_IS)
            elif not line or line[-1] in " \n":
                text = text.lstrip(" ")
            if text.strip():
                text, bullet = bullet + text, ""
            line += text
    return "\n".join(lines)
