"""Sheets in the binary formats (.xls, .xlsb), by calamine."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from smart_rag.errors import DocumentError, MissingExtra, SmartRagError
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.plain.tables import table_text

_ZIP, _OLE = b"PK\3\4", b"\xd0\xcf\x11\xe0"
# How files with the suffixes that calamine knows begin. If it is encrypted, an .xlsb is an OLE container.
_BEGINS = {".xls": (_OLE,), ".xlsb": (_ZIP, _OLE)}


def read_xls(path: Path) -> Iterator[Page]:
    """Yield each sheet as a page. The name of the sheet and its first row are the header, which each chunk repeats.

    Raises:
        DocumentError: the file is encrypted or damaged.
        MissingExtra: python-calamine is not installed.
    """
    try:
        import python_calamine
    except ImportError as error:
        raise MissingExtra("python-calamine", "office", f"reading {path.name}") from error
    try:
        with path.open("rb") as file, python_calamine.load_workbook(_source(path, file)) as book:
            for number, sheet in enumerate(book.sheets_metadata, 1):
                if sheet.typ == python_calamine.SheetTypeEnum.ChartSheet:
                    yield Page("", number, metadata={"sheet": sheet.name}, left_out=("a chart, which is not read",))
                else:
                    yield _sheet(book, number, sheet.name)
    except python_calamine.PasswordError as error:
        raise DocumentError(path, "encrypted; save it without a password") from error
    except (SmartRagError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit, OSError):
        raise
    except BaseException as error:  # calamine is written in Rust, whose panics are no `Exception`
        raise DocumentError(path, f"damaged, or not a {path.suffix} file") from error


def _source(path: Path, file: BinaryIO) -> Path | BinaryIO:
    """Return what calamine is to read: it believes the suffix of a path, and does not say if a file is encrypted."""
    begin = file.read(4)
    file.seek(0)
    return path if begin in _BEGINS.get(path.suffix.lower(), ()) else file


def _sheet(book: Any, number: int, name: str) -> Page:
    from python_calamine import CalamineError

    try:
        rows = ([_shown(cell) for cell in row] for row in book.get_sheet_by_name(name).iter_rows())
        header, text = table_text(rows)
    except (CalamineError, OSError) as error:  # a sheet that ends too soon is an OSError
        return Page("", number, metadata={"sheet": name}, left_out=(f"cannot be read ({error})",))
    return Page(text, number, metadata={"sheet": name}, header=f"{name}\n{header}")


def _shown(cell: Any) -> str:
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float):
        return f"{cell:.15g}"
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return str(cell).replace("\0", "")  # some programs say that a text has one byte for each letter, and write two
