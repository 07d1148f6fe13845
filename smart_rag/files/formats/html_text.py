"""The visible text of a parsed HTML document. Elements may be nested to any depth, so nothing here is recursive."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
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
_LINKS = frozenset(("a", "button", "select"))
# Navigation has its words in links. Another part with such a mark is text.
_SHARE_OF_LINKS = 0.5
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
        walk = _Walk(without, self.left_out)
        node: Any = self._tree.root
        while node is not None:
            if walk.enters(node):
                node = node.first_child
                continue
            while node is not None and node.next is None:
                node = node.parent
                if node is not None:
                    walk.leave(node)
            node = node.next if node is not None else None
        return _joined(walk.texts.all)


class _Walk:
    """One way through a document.

    Attributes:
        texts: the texts that are shown.
    """

    def __init__(self, without: frozenset[str], left_out: Counter[str]) -> None:
        self.texts = _Texts()
        self._without = without
        self._left_out = left_out
        self._depth = 0
        self._depth_of_pre = 0
        self._navigation: list[_Navigation] = []  # the open ones

    def enters(self, node: Any) -> bool:
        """Add what ``node`` begins with, and return whether to go on in it. Then `leave` adds what it ends with."""
        tag = node.tag
        if tag == "-text":
            self._add(node.text_content)
        if tag is None or tag.startswith(("-", "!")) or tag in _UNSEEN:
            return False
        kind = _kind(node)
        if kind in self._without and kind != "navigation":
            self._count(kind, _words(node))
            self.texts.append(_LINE)
            return False
        if node.first_child is None:
            self.texts.open(node, tag)
            self.texts.close(node)
            return False
        if kind in self._without:
            self._navigation.append(_Navigation(self._depth, len(self.texts.all), self._left_out[kind]))
        elif self._navigation:
            self._navigation[-1].links += tag in _LINKS
        self._depth += 1
        self._depth_of_pre += tag in _PREFORMATTED
        self.texts.open(node, tag)
        return True

    def leave(self, node: Any) -> None:
        if node.tag is None:
            return
        self._depth -= 1
        self._depth_of_pre -= node.tag in _PREFORMATTED
        self.texts.close(node)
        if self._navigation and self._navigation[-1].depth == self._depth:
            self._end_navigation()
        elif self._navigation:
            self._navigation[-1].links -= node.tag in _LINKS

    def _add(self, text: str) -> None:
        self.texts.append(f"{_AS_IS}{text}" if self._depth_of_pre else _SPACE.sub(" ", text))
        if self._navigation:
            self._navigation[-1].count(text)

    def _end_navigation(self) -> None:
        """Leave out the innermost navigation, which ends here, if it is one by its links. Else it is text."""
        ended = self._navigation.pop()
        if self._navigation:
            self._navigation[-1].add(ended)
        if ended.in_links >= _SHARE_OF_LINKS * ended.words:
            self._left_out["navigation"] = ended.left_out_before
            self._count("navigation", ended.words)
            self.texts.cut(ended.begin)
            self.texts.append(_LINE)

    def _count(self, kind: str, words: int) -> None:
        self._left_out[kind] += words
        if not self._left_out[kind]:
            del self._left_out[kind]


@dataclass(slots=True)
class _Navigation:
    """An open element that says that it is navigation.

    Attributes:
        depth: the number of elements that it stands in.
        begin: the number of texts before it.
        left_out_before: the words of navigation that were left out before it.
        words: the number of words in it.
        in_links: the number of its words that are in links.
        links: the number of links in it that are open.
    """

    depth: int
    begin: int
    left_out_before: int
    words: int = 0
    in_links: int = 0
    links: int = 0

    def count(self, text: str) -> None:
        words = len(_WORD.findall(text))
        self.words += words
        self.in_links += words if self.links else 0

    def add(self, inner: _Navigation) -> None:
        self.words += inner.words
        self.in_links += inner.words if self.links else inner.in_links


@dataclass(slots=True)
class _Row:
    """An open row of a table: the places of its cells, each with the number of texts with words before it."""

    cells: list[tuple[int, int]] = field(default_factory=list)
    has_blocks: bool = False


class _Texts:
    """The texts of a document in order, with marks for the white space between them."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._rows: list[_Row] = []
        self._seen = 0  # texts that are not only white space

    def append(self, text: str) -> None:
        self._seen += bool(text.strip())
        if self._rows and text in (_LINE, _PARAGRAPH):
            self._rows[-1].has_blocks = True
        self.all.append(text)

    def cut(self, begin: int) -> None:
        """Remove all texts from the place ``begin`` on. No row may be open that begins behind it."""
        del self.all[begin:]

    def open(self, node: Any, tag: str) -> None:
        """Add what an element begins with."""
        if tag in _APART:
            self.append(_PARAGRAPH)
        elif tag in _LINES:
            self.append(_LINE)
        if tag == "br":
            self.append("\n")
        elif tag == "tr":
            self._rows.append(_Row())
        elif tag in _CELLS:
            if self._rows:
                self._rows[-1].cells.append((len(self.all), self._seen))
            self.all.append(_CELL)
        elif tag == "li":
            self.append(_ITEM)
        elif tag in ("img", "area"):
            self.append(f" {_SPACE.sub(' ', node.attributes.get('alt') or '')} ")
        elif tag == "input" and (node.attributes.get("type") or "text").lower() not in _NO_VALUE:
            self.append(f" {node.attributes.get('value') or node.attributes.get('placeholder') or ''} ")

    def close(self, node: Any) -> None:
        """Add what an element ends with."""
        tag = node.tag
        if tag == "li":
            self.append(_ITEM_END)
        if tag == "tr" and self._rows:
            self._divide(self._rows.pop())
        if tag in _APART:
            self.append(_PARAGRAPH)
        elif tag in _LINES:
            self.append(_LINE)
        elif tag in _DIVIDED and node.next is not None and node.next.tag in _DIVIDED:
            self.append(" ")

    def _divide(self, row: _Row) -> None:
        """Set the marks of the cells of a row. A row of blocks is a layout, with a line for each."""
        if self._rows:
            self._rows[-1].has_blocks |= row.has_blocks
        divider = _LINE if row.has_blocks else " | "
        for i, (place, seen) in enumerate(row.cells):
            self.all[place] = divider if seen > row.cells[0][1] and i else ""


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
