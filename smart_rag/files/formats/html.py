"""HTML and XHTML: the title and the description, then the text that a browser shows.

All visible text is kept. Extractors of articles guess what belongs to the article: they lose much of a form, and of a
page of documentation. So only those parts are left out that the page itself marks as navigation, and banners that ask
for cookies. Their words are counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from smart_rag.errors import MissingExtra
from smart_rag.files.formats.encoding import decode
from smart_rag.files.formats.html_text import Visible
from smart_rag.files.formats.page import Page
from smart_rag.wording import number

# Elements without content. In XHTML any other element may also end in its start tag, which HTML does not know.
_VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr")
)
_ENDED = re.compile(r"<([A-Za-z][\w:.-]*)((?:\s[^<>]*)?)/>")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_IS_XHTML = re.compile(r"\s*(?:<\?xml\b|<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML)", re.IGNORECASE)
# With each element that holds blocks, the parser looks at all elements around it. Browsers bound their nesting, too.
_BLOCK = re.compile(
    r"<(/?)(?:div|section|article|aside|main|header|footer|nav|ul|ol|dl|menu|pre|listing|form|blockquote|center|address"
    r"|dir|details|summary|dialog|fieldset|figure|figcaption|hgroup|search|table)\b[^<>]*>",
    re.IGNORECASE,
)
_MOST_DEPTH = 500
# A start or end tag, or a comment. No part of it is tried twice, so the time grows with the length of the markup.
_TAG = re.compile(
    r"""<(?:!--|(?P<end>/)?(?P<name>[a-zA-Z][^\s/>]*+)(?P<rest>(?:[^>"'=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+|["'])*+)>?)"""
)
# A parser reads no tags in these elements, but the one that ends them. A browser that runs scripts shows no noscript.
_RAW = frozenset(("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "noscript"))
_RAW_END = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _RAW}
_SHADOW_ROOT = re.compile(r"\sshadowrootmode\s*=", re.IGNORECASE)
_MARKUP = re.compile(r"<[^>]*>?")
_WORD = re.compile(r"\w+")


def read_html(path: Path) -> Iterator[Page]:
    """Yield the text of an HTML or XHTML file as one page.

    Raises:
        DocumentError: the file holds binary data.
        MissingExtra: selectolax is not installed.
    """
    yield text_of_html(path.read_bytes(), path)


def text_of_html(data: bytes, path: Path) -> Page:
    """Return the title, the description and the visible text of an HTML or XHTML document, as a page.

    Args:
        data: the document. It may also be a part of another file, such as a chapter of an EPUB.
        path: the file, for the errors.

    Raises:
        DocumentError: ``data`` is binary.
        MissingExtra: selectolax is not installed.
    """
    found = decode(data, path, is_html=True)
    page = page_of_markup(found.text, path)
    return replace(page, left_out=(*found.left_out, *page.left_out))


def page_of_markup(markup: str, path: Path) -> Page:
    """Return the page of an HTML or XHTML document that is decoded; see `text_of_html`."""
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as error:
        raise MissingExtra("selectolax", "html", f"reading {path.name}") from error
    if path.suffix.lower() in (".xhtml", ".xht", ".epub") or _IS_XHTML.match(markup):
        markup = _ENDED.sub(_as_html, _replaced(markup, _CDATA, _escaped, "]]>"))
    markup, without_scripts = _as_shown(markup)
    visible = Visible(LexborHTMLParser(_shallow(markup)))
    if without_scripts:
        visible.left_out["text for browsers that run no scripts"] = without_scripts
    head = "\n\n".join(visible.head())
    text = f"{head}\n\n{visible.text}" if head and visible.text else head or visible.text
    return Page(text, left_out=tuple(f"{number(words, 'word')} of {what}" for what, words in visible.left_out.items()))


def _as_shown(markup: str) -> tuple[str, int]:
    """Return ``markup`` as a browser that runs scripts shows it, and the number of words that are left out for it.

    Elements ``noscript`` are left out. The parser would read what is in them. A ``template`` that is a shadow root
    becomes a ``div``. The parser would not read what is in it.
    """
    lower = markup.lower()
    if "<noscript" not in lower and "shadowrootmode" not in lower:
        return markup, 0
    parts: list[str] = []
    are_shown: list[bool] = []  # of each open template, whether it is a shadow root
    place = words = 0
    copied = 0  # the markup before this place is in ``parts``
    while (tag := _TAG.search(markup, place)) is not None:
        place = tag.end()
        name = (tag["name"] or "").lower()
        by = None
        if not name:
            place = markup.find("-->", tag.start() + 2) + 3
        elif name == "template" and not tag["end"]:
            are_shown.append(_SHADOW_ROOT.search(tag["rest"]) is not None)
            by = "<div>" if are_shown[-1] else None
        elif name == "template" and are_shown:
            by = "</div>" if are_shown.pop() else None
        elif name in _RAW and not tag["end"]:
            end = _RAW_END[name].search(markup, place)
            inside = markup[place : end.start() if end else len(markup)]
            place = (markup.find(">", end.end()) + 1 if end else 0) or len(markup)
            if name == "noscript":
                words += len(_WORD.findall(_MARKUP.sub(" ", inside)))
                by = " "
        if by is not None:
            parts += [markup[copied : tag.start()], by]
            copied = place
        if place < tag.end():  # a comment without an end
            break
    return "".join([*parts, markup[copied:]]), words


def _shallow(markup: str) -> str:
    """Return ``markup`` without the blocks that are nested more deeply than any page needs. Their text stays."""
    depth = 0

    def bounded(tag: re.Match[str]) -> str:
        nonlocal depth
        ends = bool(tag[1])
        is_deep = depth > _MOST_DEPTH - (not ends)
        depth = max(0, depth + (-1 if ends else 1))
        return "<hr>" if is_deep else tag[0]

    return _BLOCK.sub(bounded, markup)


def _replaced(markup: str, pattern: re.Pattern[str], by: Callable[[re.Match[str]], str], end: str) -> str:
    """Return ``markup`` with all matches replaced. Behind the last ``end`` is none, so that is not searched."""
    last = markup.rfind(end) + len(end) if end in markup else 0
    return f"{pattern.sub(by, markup[:last])}{markup[last:]}"


def _as_html(element: re.Match[str]) -> str:
    name, attributes = element.groups()
    return element[0] if name.lower() in _VOID else f"<{name}{attributes}></{name}>"


def _escaped(section: re.Match[str]) -> str:
    return section[1].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
