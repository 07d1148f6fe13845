"""SVG pictures: their words, as a viewer shows them. `svg_drawing` draws them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.errors import DocumentError, MissingExtra
from smart_rag.files.formats.encoding import decode
from smart_rag.files.formats.office.archive import local, parse
from smart_rag.files.formats.page import Page, is_visible
from smart_rag.files.formats.pictures.svg_text import Visible
from smart_rag.types import PdfPage
from smart_rag.wording import number

if TYPE_CHECKING:
    from lxml.etree import _Element

SUFFIXES = (".svg", ".svgz")
NO_WORDS = "no text in it (words that are drawn as shapes need --ocr (ocr=True), or a model that reads images)"
MOST_BYTES = 64_000_000  # of the XML, unpacked; a zip bomb has more
GZIP = b"\x1f\x8b"

_DECLARATION = re.compile(r"\A\s*<\?xml\b[^>]*>")
_DOCTYPE = re.compile(
    r"""<!DOCTYPE\b(?:"[^"]*"|'[^']*'|[^"'\[>])*+(?:\[(?:"[^"]*"|'[^']*'|<!--.*?-->|<\?.*?\?>|[^\]"'])*+\]\s*)?>""",
    re.DOTALL,
)
_ENTITY = re.compile(r"""<!ENTITY\s+([\w.:-]+)\s+(?:"([^"]*)"|'([^']*)')\s*>""")
_REFERENCE = re.compile(r"&([A-Za-z_][\w.:-]*);")
_OF_XML = ("lt", "gt", "amp", "quot", "apos")
# Programs that draw declare short entities, such as the addresses of namespaces. Long ones, and entities that are made
# of others, are only in files that want to fill the memory.
_LONGEST_ENTITY = 1000


def is_svg(path: Path) -> bool:
    """Return whether the name of a file says that it is an SVG."""
    return path.suffix.lower() in SUFFIXES


@dataclass(frozen=True, slots=True)
class Svg:
    """A parsed SVG: its root, and phrases of what could not be read; see `Page.left_out`."""

    root: _Element
    left_out: tuple[str, ...]


def read_svg(path: Path) -> Iterator[Page]:
    """Yield the words of an SVG as one page, with its picture if there is a package that draws it.

    Raises:
        DocumentError: the file is no SVG, is too large, or has entities that are not read.
        MissingExtra: lxml is not installed.
    """
    svg = parsed(path.read_bytes(), path)
    visible = Visible(svg.root)
    left_out = [*svg.left_out]
    if visible.hidden:
        left_out.append(f"{number(visible.hidden, 'word')} of hidden text")
    if not is_visible(visible.text):
        left_out.append(NO_WORDS)
    can_draw = find_spec("resvg_py") is not None
    yield Page(visible.text, image=PdfPage(path, 1) if can_draw else None, left_out=tuple(left_out))


def parsed(data: bytes, path: Path) -> Svg:
    """Return the parsed SVG in ``data``, which may be packed by gzip. Comments are left out.

    Entities are replaced only if they are short and plain, and nothing outside of ``data`` is read.

    Raises:
        DocumentError, MissingExtra: as `read_svg`.
    """
    try:
        from lxml import etree
    except ImportError as error:
        raise MissingExtra("lxml", "svg", f"reading {path.name}") from error
    found = decode(_unpacked(data, path), path)
    text, left_out = _without_entities(_DECLARATION.sub("", found.text), path)
    xml = text.encode("utf-8", "replace")
    try:
        root = parse(xml)
    except etree.XMLSyntaxError as error:
        root = parse(xml, recover=True) if xml.strip() else None
        if root is None:
            raise DocumentError(path, f"damaged, or not a {path.suffix} file (it is not XML)") from error
        left_out = [*left_out, "the file is damaged, and what follows the damage may be missing"]
    if root is None or local(root) != "svg":
        raise DocumentError(path, f"damaged, or not a {path.suffix} file (it has no element <svg>)")
    etree.strip_tags(root, etree.Comment, etree.ProcessingInstruction)
    return Svg(root, (*found.left_out, *left_out))


def _unpacked(data: bytes, path: Path) -> bytes:
    if data.startswith(GZIP):
        try:
            data = unzipped(data)
        except zlib.error as error:
            raise DocumentError(path, f"damaged, or not a {path.suffix} file (it cannot be unpacked)") from error
    if len(data) > MOST_BYTES:
        raise DocumentError(path, f"its XML has more than {MOST_BYTES // 10**6} MB; expected a picture")
    return data


def unzipped(data: bytes) -> bytes:
    """Return what gzip packed, but at most one byte more than `MOST_BYTES`. The end may be cut.

    Raises:
        zlib.error: ``data`` is broken.
    """
    return zlib.decompressobj(wbits=31).decompress(data, MOST_BYTES + 1)


def _without_entities(text: str, path: Path) -> tuple[str, list[str]]:
    """Return an XML text without its document type, with its entities replaced, and phrases of those that are not."""
    doctype = _DOCTYPE.search(text)
    if doctype is None:
        if "<!ENTITY" in text:
            raise DocumentError(path, "it declares XML entities in a way that is not read; save it without them")
        return text, []
    values = {name: double or single for name, double, single in _ENTITY.findall(doctype[0])}
    plain: dict[str, str] = {
        name: value for name, value in values.items() if len(value) <= _LONGEST_ENTITY and not set(value) & {*"&%<"}
    }
    room = MOST_BYTES
    lost = 0

    def replaced(reference: re.Match[str]) -> str:
        nonlocal room, lost
        if reference[1] in _OF_XML:
            return str(reference[0])
        value = plain.get(reference[1])
        if value is None:
            lost += 1
            return ""
        room -= len(value)
        if room < 0:
            raise DocumentError(path, f"its XML has more than {MOST_BYTES // 10**6} MB; expected a picture")
        return value

    text = _REFERENCE.sub(replaced, text[: doctype.start()] + text[doctype.end() :])
    return text, [f"{number(lost, 'XML entity')} not read"] if lost else []
