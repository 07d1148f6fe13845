"""Make an SVG safe to draw: nothing in it leads to a file, to the network, or to a picture that fills the memory.

resvg reads the file that the address of a picture names, relative to the working directory or not. So an address is
kept only if it names a part of the same SVG, or if it is the picture itself, as data. Such a picture is written anew.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from PIL import Image

from smart_rag.errors import DocumentError
from smart_rag.files.formats.images import MAX_SOURCE_PIXELS
from smart_rag.files.formats.office.archive import elements, local
from smart_rag.files.formats.pictures.svg import GZIP, MOST_BYTES, parsed, unzipped
from smart_rag.files.formats.pictures.svg_style import without_comments
from smart_rag.files.formats.pictures.svg_text import html_lines, is_chosen
from smart_rag.wording import number

if TYPE_CHECKING:
    from lxml.etree import _Element

SVG = "http://www.w3.org/2000/svg"
_HREFS = ("href", "src")
_PICTURES = ("image", "feImage", "use")
_DATA = re.compile(r"data:([^,]*),", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(?:([0-9a-fA-F]{1,6})\s?|)")
_IMPORT = re.compile(r"@import\b[^;]*;?", re.IGNORECASE)
_URL = re.compile(r"url\s*+\(\s*+[\"']?+\s*+(?!#)[^)]*\)?", re.IGNORECASE)
_RASTERS = ("PNG", "JPEG", "GIF", "WEBP")
# resvg's parser is recursive. It crashes at a depth of more than 200, and pictures that people draw have up to 40.
_DEEPEST = 100
_LINE_HEIGHT = 1.2
_SIZE = 16.0  # of a font, where nothing says another one


class Safe:
    """A parsed SVG that is safe to draw. The constructor changes ``root``.

    Attributes:
        root: the root of the SVG.
        left_out: phrases of what cannot be drawn.

    Raises:
        DocumentError: the elements are nested too deeply.
    """

    def __init__(self, root: _Element, path: Path, nested: bool = False) -> None:
        self.root = root
        self._path = path
        self._nested = nested
        self._room = MAX_SOURCE_PIXELS
        self._lost: Counter[str] = Counter()
        _check_depth(root, path)
        for element in list(elements(root)):
            if local(element) == "foreignObject":
                _replace_html(element)
        for element in root.iter("{*}switch"):
            _resolve(element)
        for element in elements(root):
            self._clean(element)
        self.left_out = [f"{number(count, 'picture')} {where} not drawn" for where, count in self._lost.items()]

    def xml(self) -> str:
        """Return the SVG as XML, without a document type."""
        from lxml import etree

        return str(etree.tostring(self.root, encoding="unicode", with_tail=False))

    def _clean(self, element: _Element) -> None:
        is_picture = local(element) in _PICTURES
        for key in list(element.attrib):
            text = str(element.attrib[key])
            name = re.split("[}:]", str(key))[-1].lower()
            if name in _HREFS:
                address = self._address(text.strip(), is_picture)
                if address:
                    element.attrib[key] = address
                else:
                    del element.attrib[key]
            elif name == "base":
                del element.attrib[key]
            elif "\\" in text or "url" in text.lower():
                element.attrib[key] = safe_css(text)
        if local(element) == "style":
            css = safe_css("".join(map(str, element.itertext())))
            for child in list(element):
                element.remove(child)
            element.text = css

    def _address(self, text: str, is_picture: bool) -> str:
        """Return an address that is safe, or an empty text."""
        if text.startswith("#") or not is_picture:
            return text if text.startswith("#") else ""
        found = _DATA.match(text)
        if not found:
            self._lost["of other files"] += 1
            return ""
        try:
            encoded = unquote_to_bytes(text[found.end() :])
            is_base64 = found[1].lower().replace(" ", "").endswith(";base64")
            data = base64.b64decode(encoded, validate=False) if is_base64 else encoded
        except (ValueError, binascii.Error):
            data = b""
        address = "" if self._nested else self._raster(data) or self._picture(data)
        if not address:
            self._lost["in it"] += 1
        return address

    def _raster(self, data: bytes) -> str:
        """Return the address of a picture of pixels, or an empty text if it is none, or too large."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = Image.open(io.BytesIO(data), formats=_RASTERS)
        except Exception:  # Pillow raises errors of many classes; the caller counts the picture
            return ""
        self._room -= image.width * image.height
        return _data("png" if image.format is None else image.format.lower(), data) if self._room >= 0 else ""

    def _picture(self, data: bytes) -> str:
        """Return the address of an SVG in an SVG, or an empty text if it is none. A third one in it is not drawn."""
        try:
            data = unzipped(data) if data.startswith(GZIP) else data
            if len(data) > MOST_BYTES:
                return ""
            safe = Safe(parsed(data, self._path).root, self._path, nested=True)
        except (DocumentError, zlib.error):
            return ""
        self._lost += safe._lost
        return _data("svg+xml", safe.xml().encode())


def safe_css(css: str) -> str:
    r"""Return a style sheet, or a value in it, without any address but those of parts of the same SVG.

    >>> safe_css(r"@import 'a.css'; a{fill:url(#p); filter:u\72 l('/etc/x#f')}")
    ' a{fill:url(#p); filter:none}'
    """
    css = without_comments(_ESCAPE.sub(_unescaped, without_comments(css)))
    return _URL.sub("none", _IMPORT.sub("", css))


def _unescaped(escape: re.Match[str]) -> str:
    code = int(escape[1] or "0", 16)
    return chr(code) if 32 <= code < 0xD800 and code != ord("\\") else ""


def _data(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _check_depth(root: _Element, path: Path) -> None:
    from lxml import etree

    depth = 0
    for event, _ in etree.iterwalk(root, events=("start", "end")):
        depth += 1 if event == "start" else -1
        if depth > _DEEPEST:
            raise DocumentError(path, f"its elements are nested more than {_DEEPEST} deep; it cannot be drawn")


def _replace_html(element: _Element) -> None:
    """Put the words of the HTML in a picture into an element <text>, because resvg draws no HTML.

    In an element <switch>, a text may stand in for the HTML. It has the right place, but often other words.
    """
    from lxml import etree

    parent = element.getparent()
    if parent is None or (local(parent) == "switch" and not is_chosen(element)):
        return
    lines = html_lines(element)
    others = list(element.itersiblings()) if local(parent) == "switch" else []
    text = next((other for other in others if local(other) == "text"), None)
    if others:
        parent.remove(element)
        if text is None:
            return
    if text is None:
        text = etree.Element(f"{{{SVG}}}text")
        text.tail = element.tail
        parent.replace(element, text)
        x, y, size = _middle(element, len(lines))
        text.attrib.update({"text-anchor": "middle", "font-size": f"{size:g}"})
    else:
        x, y = _float(text.get("x")), _float(text.get("y"))
        size = _float(text.get("font-size")) or _SIZE
        del text[:]
        text.text = None
    for i, line in enumerate(lines):
        down = (i - (len(lines) - 1) / 2) * _LINE_HEIGHT * size
        etree.SubElement(text, f"{{{SVG}}}tspan", {"x": f"{x:g}", "y": f"{y + down:g}"}).text = line


def _resolve(switch: _Element) -> None:
    """Leave what viewers show of a <switch>. resvg knows fewer features, and would draw what stands in for them."""
    for child in [child for child in switch if not is_chosen(child)]:
        switch.remove(child)
    for child in switch:
        child.attrib.pop("requiredFeatures", None)


def _middle(element: _Element, lines: int) -> tuple[float, float, float]:
    """Return the place of the middle line of a text that fills an element, and the size of its font."""
    left, top, width, height = (_float(element.get(key)) for key in ("x", "y", "width", "height"))
    size = min(_SIZE, height / (_LINE_HEIGHT * max(1, lines))) or _SIZE
    return left + width / 2, top + height / 2 + size / 3, size


def _float(text: str | None) -> float:
    try:
        return float((text or "0").removesuffix("px"))
    except ValueError:
        return 0.0
