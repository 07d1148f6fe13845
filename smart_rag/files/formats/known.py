"""The formats of text that are known, by the suffixes of their files, and by their first bytes if a suffix lies.

Web applications export tables in HTML as .xls, and people rename files. So there is one rule, in `format_of`: the first
bytes of a file decide where they are certain, and else its suffix does.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from smart_rag.errors import DocumentError
from smart_rag.files.formats.html import read_html
from smart_rag.files.formats.office.docx import read_docx
from smart_rag.files.formats.office.epub import read_epub
from smart_rag.files.formats.office.legacy import ole, read_doc, read_ppt
from smart_rag.files.formats.office.opendocument import read_odp, read_ods, read_odt
from smart_rag.files.formats.office.rtf import read_rtf
from smart_rag.files.formats.office.sheets.xls import read_xls
from smart_rag.files.formats.office.sheets.xlsx import read_xlsx
from smart_rag.files.formats.office.sheets.xml_sheets import read_xml_sheets
from smart_rag.files.formats.office.slides import read_pptx
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.pdf import read_pdf
from smart_rag.files.formats.pictures.svg import read_svg
from smart_rag.files.formats.plain.calendars import read_calendar
from smart_rag.files.formats.plain.mail import read_mail
from smart_rag.files.formats.plain.mailbox import read_emlx, read_mbox
from smart_rag.files.formats.plain.notebook import read_notebook
from smart_rag.files.formats.plain.outlook import read_msg
from smart_rag.files.formats.plain.records import read_json, read_jsonl
from smart_rag.files.formats.plain.tables import read_table
from smart_rag.files.formats.text import read_text

Format = Callable[[Path], Iterator[Page]]

# Texts, marked up or not, that are read as they are.
_TEXTS = """
    .txt .md .text .markdown .mdx .rst .tex .bib .org .adoc .asciidoc .textile .log .diff .patch .srt .vtt .po
    .xml .yaml .yml .toml .ini .cfg .conf .properties
"""
_SOURCE_CODE = """
    .py .pyi .js .mjs .cjs .jsx .ts .tsx .vue .svelte .css .scss .less .java .kt .kts .scala .groovy .gradle .clj .c .h
    .cc .cpp .cxx .hh .hpp .hxx .cs .fs .vb .go .rs .swift .m .mm .rb .php .pl .pm .lua .r .rmd .jl .sql .sh .bash .zsh
    .fish .ps1 .bat .dart .ex .exs .erl .hs .ml .mli .elm .nim .zig .lisp .el .scm .f .f90 .pas .asm .proto .graphql .tf
    .cmake .mk .nix
"""
# The function of each suffix reads the pages of such a file.
FORMATS: dict[str, Format] = {
    **dict.fromkeys(_TEXTS.split(), read_text),
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".xht": read_html,
    ".shtml": read_html,
    ".pdf": read_pdf,
    **dict.fromkeys((".docx", ".docm", ".dotx", ".dotm"), read_docx),
    **dict.fromkeys((".pptx", ".pptm", ".ppsx", ".ppsm", ".potx", ".potm"), read_pptx),
    **dict.fromkeys((".xlsx", ".xlsm", ".xltx", ".xltm"), read_xlsx),
    **dict.fromkeys((".odt", ".ott"), read_odt),
    **dict.fromkeys((".odp", ".otp"), read_odp),
    **dict.fromkeys((".ods", ".ots"), read_ods),
    **dict.fromkeys((".doc", ".dot"), read_doc),
    **dict.fromkeys((".ppt", ".pps", ".pot"), read_ppt),
    **dict.fromkeys((".xls", ".xlt", ".xlsb"), read_xls),
    ".msg": read_msg,
    ".rtf": read_rtf,
    ".epub": read_epub,
    **dict.fromkeys((".eml", ".mht", ".mhtml"), read_mail),
    ".emlx": read_emlx,
    **dict.fromkeys((".ics", ".ical", ".ifb", ".vcs", ".vcf", ".vcard"), read_calendar),
    ".mbox": read_mbox,
    ".svg": read_svg,
    ".svgz": read_svg,
    ".csv": read_table,
    ".tsv": read_table,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".ipynb": read_notebook,
    **dict.fromkeys(_SOURCE_CODE.split(), read_text),
}
_PEEKED_BYTES = 4096

# A zip is what its parts say, and an OLE container what its streams say: the first of these whose name begins so.
_OF_PARTS = {
    "word/document": read_docx,
    "ppt/presentation": read_pptx,
    "xl/workbook.xml": read_xlsx,
    "xl/workbook.bin": read_xls,
    "META-INF/container.xml": read_epub,
}
_OF_STREAMS = {
    "WordDocument": read_doc,
    "PowerPoint Document": read_ppt,
    "Workbook": read_xls,
    "Book": read_xls,
    "__properties_version1.0": read_msg,
}
_OF_MIMETYPES = {b"text": read_odt, b"presentation": read_odp, b"spreadsheet": read_ods}
_MIMETYPE = b"application/vnd.oasis.opendocument."
# In a zip without a suffix, a document has one of these parts first.
_FIRST_PARTS = (b"[Content_Types].xml", b"_rels/", b"docProps/", b"mimetype", b"word/", b"xl/", b"ppt/")
# Programs that read these formats also read text in their place.
_OF_TEXT: dict[Format, Format] = {
    **dict.fromkeys((read_doc, read_rtf), read_text),
    **dict.fromkeys((read_xls, read_xlsx, read_ods), read_table),
    read_msg: read_mail,
}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_POINTER = b"version https://git-lfs.github.com/spec/"
_TEXT_FORMATS = (
    *(read_text, read_html, read_mail, read_emlx, read_mbox, read_calendar, read_json, read_jsonl, read_notebook),
    read_table,
)
# The repetitions give nothing back, because to try all ways of many comments would take for ever.
_COMMENTS = r"(?:\s++|<!--(?:(?!-->).)*+-->|<\?[^>]*+>)*+"
_HTML = re.compile(
    rf"{_COMMENTS}<(?:!doctype\s+html|html|head|body|title|meta|style|script|table|div|center|font|h[1-6]|p|br|b)\b",
    re.DOTALL | re.IGNORECASE,
)
# A whole page begins so. Browsers save pages under the suffixes of the programs that made them.
_PAGE = re.compile(rf"{_COMMENTS}<(?:!doctype\s+html|html)\b", re.DOTALL | re.IGNORECASE)
_OF_PAGES = (".mht", ".mhtml", ".php", ".php5", ".phtml")
# Programs and templates have code among the markup, and older copies of a page are no pages.
_CODE = re.compile(rb"<\?(?:php\b|=|\s)|<%", re.IGNORECASE)
_CODE_BYTES = 1 << 20
_COPIES = (".bak", ".old", ".orig", ".tmp")
_QUERY = re.compile(r"(\.[a-z][a-z0-9]{0,7})\?\S+\Z")
_SHEETS = re.compile(
    rf"{_COMMENTS}<(?:\w+:)?Workbook\b[^>]*?urn:schemas-microsoft-com:office:spreadsheet", re.DOTALL | re.IGNORECASE
)
_MIME = re.compile(r"\s*MIME-Version:", re.IGNORECASE)


def format_of(path: Path) -> Format | None:
    """Return the function that reads a file, or None if its format is unknown.

    1. A file that begins as a PDF, a rich text or a pointer of Git LFS is one, whatever its suffix.
    2. If the suffix is known or missing, a zip is the document whose parts it has, an OLE container the document whose
       streams it has, and a text that begins as sheets in XML is such sheets.
    3. If the suffix is missing or not one of texts, a text that begins as HTML or as a web archive is one. Any other
       text, but no XML, is a text, a table or a mail, if programs for this suffix read these, too.
    4. A text that begins as a whole page of HTML and has no code in it is one, if its suffix is unknown or one of
       programs that make pages, such as .php.
    5. Everything else is what its suffix says. A file without a suffix, such as README or LICENSE, is known if it
       begins with text.

    Only the first bytes of the file are read here.
    """
    suffix = suffix_of(path)
    stated = FORMATS.get(suffix)
    start = _start(path)
    if start.startswith(b"%PDF-") or (stated is read_pdf and b"%PDF-" in start[:1024]):
        return read_pdf
    if start.startswith(b"{\\rtf"):
        return read_rtf
    if start.startswith(_POINTER):
        return _read_pointer
    if (suffix and stated is None) or suffix in _OF_PAGES:
        is_page = suffix not in _COPIES and not suffix.endswith("~") and _is_page(path, start)
        if is_page or stated is None:
            return read_html if is_page else None
    if start.startswith(b"PK\3\4") and (stated or start[30:].startswith(_FIRST_PARTS)):
        return _read_zip
    if start.startswith(_OLE):
        return _read_ole
    if not _is_text(start):
        return stated
    return _format_of_text(_decoded(start), stated)


def _format_of_text(start: str, stated: Format | None) -> Format:
    """Return the function that reads a file that begins as a text. ``stated`` is the one of its suffix."""
    if _SHEETS.match(start):
        return read_xml_sheets
    if stated is not None and stated in _TEXT_FORMATS:
        return stated
    if _HTML.match(start):
        return read_html
    if _MIME.match(start):
        return read_mail
    if stated is None:
        return read_text
    return stated if start.lstrip().startswith("<") else _OF_TEXT.get(stated, stated)


def suffix_of(path: Path) -> str:
    """Return the suffix of a file in lower case, without the query that a saved web page may have in its name.

    >>> suffix_of(Path("index.HTML?x=1&y=2.3"))
    '.html'
    """
    suffix = path.suffix.lower()
    found = None if suffix in FORMATS else _QUERY.search(path.name.lower())
    return found[1] if found else suffix


def is_pdf(path: Path) -> bool:
    """Return whether a file is a PDF, by `format_of`."""
    return format_of(path) is read_pdf


def _read_pointer(path: Path) -> Iterator[Page]:
    raise DocumentError(path, "a pointer of Git LFS, not the file itself; fetch the file with: git lfs pull")


def _read_zip(path: Path) -> Iterator[Page]:
    """Yield the pages of a document that is a zip. If it is several at once, its suffix decides."""
    yield from _chosen(path, _of_zip(path))


def _read_ole(path: Path) -> Iterator[Page]:
    """Yield the pages of a document that is an OLE container. If it is several at once, its suffix decides."""
    yield from _chosen(path, _of_ole(path))


def _chosen(path: Path, found: list[Format]) -> Iterator[Page]:
    """Return the pages of a container by the reader of its suffix, unless it only is ``found`` to be something else.

    Raises:
        DocumentError: the file has no suffix, and nothing is found.
    """
    stated = FORMATS.get(path.suffix.lower())
    if stated is None and not found:
        raise DocumentError(path, "a container without a document of a known format")
    return stated(path) if stated and (stated in found or not found) else found[0](path)


def _of_zip(path: Path) -> list[Format]:
    """Return the readers of the documents whose parts a zip has."""
    try:
        with zipfile.ZipFile(path) as opened:
            names = opened.namelist()
            with opened.open("mimetype") if "mimetype" in names else path.open("rb") as file:
                kind = file.read(100)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError, zlib.error):
        # the reader of the suffix says why
        return []
    found: list[Format] = [read for part, read in _OF_PARTS.items() if any(name.startswith(part) for name in names)]
    if "content.xml" in names and kind.startswith(_MIMETYPE):
        found += [read for name, read in _OF_MIMETYPES.items() if kind.removeprefix(_MIMETYPE).startswith(name)]
    return found


def _of_ole(path: Path) -> list[Format]:
    """Return the readers of the documents whose streams an OLE container has."""
    try:
        with ole(path) as opened:
            names = ["/".join(entry) for entry in opened.listdir()]
    except (DocumentError, ValueError):  # the reader of the suffix says why, or can read it
        return []
    return [read for stream, read in _OF_STREAMS.items() if stream in names]


def _start(path: Path) -> bytes:
    """Return the first bytes of a file. They are empty if it cannot be read, which its reader reports."""
    try:
        if not path.is_file():  # to open a pipe could take for ever
            return b""
        with path.open("rb") as file:
            return file.read(_PEEKED_BYTES)
    except (OSError, ValueError):  # ValueError: the path contains a NUL
        return b""


def _is_page(path: Path, start: bytes) -> bool:
    """Return whether a file that begins so is a page of HTML, and no program or template that makes one."""
    if not _is_text(start) or not _PAGE.match(_decoded(start)):
        return False
    with path.open("rb") as file:
        return _CODE.search(file.read(_CODE_BYTES)) is None


def _is_text(start: bytes) -> bool:
    """Return whether a file that begins so is a text: without control characters that no text has, and not empty."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        return True
    allowed = b"\t\n\v\f\r\x1b\b"
    return bool(start) and not any(byte < 32 and byte not in allowed for byte in start)


def _decoded(start: bytes) -> str:
    """Return the begin of a text. Markup is known by ASCII alone."""
    is_wide = start.startswith((b"\xff\xfe", b"\xfe\xff"))
    return start.decode("utf-16" if is_wide else "utf-8-sig", "ignore")
