"""The formats of text that are known, by the suffixes of their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from smart_rag.files.formats.html import read_html
from smart_rag.files.formats.office.docx import read_docx
from smart_rag.files.formats.office.epub import read_epub
from smart_rag.files.formats.office.legacy import read_doc, read_ppt
from smart_rag.files.formats.office.opendocument import read_odp, read_ods, read_odt
from smart_rag.files.formats.office.rtf import read_rtf
from smart_rag.files.formats.office.sheets import read_xlsx
from smart_rag.files.formats.office.slides import read_pptx
from smart_rag.files.formats.office.xls import read_xls
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.pdf import read_pdf
from smart_rag.files.formats.pictures.svg import read_svg
from smart_rag.files.formats.plain.mail import read_mail
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
    ".eml": read_mail,
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


def format_of(path: Path) -> Format | None:
    """Return the function that reads a file, or None if its format is unknown.

    A file without a suffix, such as README or LICENSE, is known if it begins with text.
    """
    if path.suffix:
        return FORMATS.get(path.suffix.lower())
    return read_text if _begins_with_text(path) else None


def _begins_with_text(path: Path) -> bool:
    """Return whether a file begins with text: without control characters that no text has, and not with nothing."""
    try:
        if not path.is_file():  # to open a pipe could take for ever
            return False
        with path.open("rb") as file:
            start = file.read(_PEEKED_BYTES)
    except (OSError, ValueError):  # ValueError: the path contains a NUL
        return False
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        return True
    allowed = b"\t\n\v\f\r\x1b\b"
    return bool(start) and not any(byte < 32 and byte not in allowed for byte in start)
