"""Word and PowerPoint files of before 2007 (.doc, .ppt), whose parts are streams in an OLE container."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smart_rag.errors import DocumentError, MissingExtra
from smart_rag.files.formats.legacy_encoding import detect
from smart_rag.files.formats.office.rtf import CUT
from smart_rag.files.formats.page import Page
from smart_rag.wording import number

_STREAM = 2  # for olefile
_WORD_97 = 105  # the first version of the format whose text lies in pieces
_COMPRESSED = 1 << 30
# The parts of a container of records in a .ppt.
_SLIDE_LIST, _SLIDE_PLACE, _CHARACTERS, _BYTES, _EDIT, _DIRECTORY = 0x0FF0, 0x03F3, 0x0FA0, 0x0FA8, 0x0FF5, 0x1772
_FOR_97 = "PP97_DUALSTORAGE/"  # a file for PowerPoint 95 and 97 has its slides twice, those for 97 in this folder
_ENCRYPTED_SLIDES = 0xF3D1C4DF
_SIGNS = str.maketrans(
    {"\r": "\n\n", "\x0c": "\n\n", "\x07": " | ", "\x0b": "\n", "\x1e": "-", "\x1f": None, "\x01": None, "\x02": None}
    | {"\x03": None, "\x04": None, "\x05": None, "\x08": None}
)
_CONTROLS = re.compile(rb"[\x00-\x1f]+")
# What olefile says of a container that is cut.
_IS_CUT = re.compile("out of range|less than declared|incomplete")
_FIELD = re.compile("\x13[^\x13\x14\x15]*(?:\x14([^\x13\x15]*))?\x15")  # its code, then what it shows


@contextmanager
def ole(path: Path) -> Iterator[Any]:
    """Open a file as an OLE container.

    Raises:
        DocumentError: the file is none, or it is damaged.
        MissingExtra: olefile is not installed.
    """
    try:
        import olefile
        from olefile.olefile import OleFileError
    except ImportError as error:
        raise MissingExtra("olefile", "office", f"reading {path.name}") from error
    try:
        with olefile.OleFileIO(path) as opened:
            if opened.exists("EncryptedPackage"):
                raise DocumentError(path, "encrypted; save it without a password")
            yield opened
    except (struct.error, IndexError, OleFileError) as error:
        raise DocumentError(path, f"damaged, or not a {path.suffix} file") from error


def stream(opened: Any, name: str) -> bytes:
    """Return a stream of a container, which is empty if there is none."""
    data: bytes = opened.openstream(name).read() if opened.get_type(name) == _STREAM else b""
    return data


def losses(opened: Any) -> tuple[str, ...]:
    """Return what a container lacks, as for `Page.left_out`. Only streams that were read are known to be cut."""
    return (CUT,) if any(_IS_CUT.search(str(reason)) for _, reason in opened.parsing_issues) else ()


def read_doc(path: Path) -> Iterator[Page]:
    """Yield a Word document as one page: the body, then notes, headers, comments and text boxes.

    Raises:
        DocumentError: the file is encrypted or damaged.
        MissingExtra: olefile is not installed.
    """
    with ole(path) as opened:
        main = stream(opened, "WordDocument")
        version, flags = struct.unpack_from("<2xH6xH", main)
        if flags & 0x0100:
            raise DocumentError(path, "encrypted; save it without a password")
        if version < _WORD_97:
            start, end = struct.unpack_from("<II", main, 0x18)
            text = _text_of_word_95(main[start:end])
            lost = max(0, end - max(start, len(main)))
        else:
            text, lost = _joined_pieces(main, stream(opened, "1Table" if flags & 0x0200 else "0Table"))
        left_out = (f"{number(lost, 'character')} that the file does not hold",) if lost else losses(opened)
        yield Page(_shown(text), left_out=left_out)


def read_ppt(path: Path) -> Iterator[Page]:
    """Yield each slide as a page, with its notes.

    Raises:
        DocumentError: the file is encrypted or damaged.
        MissingExtra: olefile is not installed.
    """
    with ole(path) as opened:
        folder = _FOR_97 if opened.exists(f"{_FOR_97}PowerPoint Document") else ""
        if not folder and (opened.exists("PP40") or opened.exists("PersistentStorage Directory")):
            raise DocumentError(path, "a presentation of PowerPoint 95 or older, which is not read; save it as .pptx")
        user = stream(opened, f"{folder}Current User")
        data = stream(opened, f"{folder}PowerPoint Document")
        if len(user) >= 20 and struct.unpack_from("<I", user, 12)[0] == _ENCRYPTED_SLIDES:
            raise DocumentError(path, "encrypted; save it without a password")
        try:
            yield from list(_slides(data, struct.unpack_from("<I", user, 16)[0]))
            if cut := losses(opened):
                yield Page("", left_out=cut)
        except (struct.error, KeyError, ValueError):
            text = "\n\n".join(_texts(data, 0, len(data)))
            yield Page(
                text, left_out=("the numbers of the slides, because the list of them is damaged", *losses(opened))
            )


def _text_of_word_95(data: bytes) -> str:
    """Return a text in the code page of its author, which the file does not say, or in UTF-16."""
    if data.count(0) * 4 > len(data):
        return data.decode("utf-16-le", "replace")
    # To the detector, controls such as the ends of cells are a sign of another encoding.
    return data.decode(detect(_CONTROLS.sub(b"\n", data)), "replace")


def _joined_pieces(main: bytes, table: bytes) -> tuple[str, int]:
    """Return the text of a Word document, and the number of its characters that lie beyond the end of the file."""
    texts, lost = [], 0
    for start, length, width in _pieces(main, table):
        found = main[start : start + length * width]
        texts.append(found.decode("cp1252" if width == 1 else "utf-16-le", "replace"))
        lost += length - len(found) // width
    return "".join(texts), lost


def _pieces(main: bytes, table: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield where each piece of the text lies: its place, its characters, and the bytes of each."""
    place, size = struct.unpack_from("<II", main, 0x1A2)
    end = place + size
    while table[place] == 1:  # formats, which come before the pieces
        place += 3 + struct.unpack_from("<H", table, place + 1)[0]
    (size,) = struct.unpack_from("<I", table, place + 1)
    count = (min(size, end - place) - 4) // 12
    place += 5
    positions = struct.unpack_from(f"<{count + 1}I", table, place)
    for i in range(count):
        (start,) = struct.unpack_from("<I", table, place + 4 * (count + 1) + 8 * i + 2)
        length = max(0, positions[i + 1] - positions[i])
        if start & _COMPRESSED:
            yield (start & ~_COMPRESSED) // 2, length, 1
        else:
            yield start, length, 2


def _shown(text: str) -> str:
    """Return the text of a Word document without its control characters and the codes of its fields."""
    while True:  # fields stand in fields
        text, count = _FIELD.subn(lambda field: field[1] or "", text)
        if not count:
            break
    text = re.sub("\x07\x07", "\r", text)  # the end of the last cell, and of the row
    text = re.sub("[\x13\x14\x15]", "", text).translate(_SIGNS)
    lines = (line.strip(" |\n") for line in text.split("\n\n"))
    return "\n\n".join(line for line in lines if line)


def _records(data: bytes, place: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (type, instance, start, end) of each record of a .ppt, and of those in them."""
    ends = min(end, len(data))
    while place + 8 <= ends:
        head, kind, size = struct.unpack_from("<HHI", data, place)
        start = place + 8
        yield kind, head >> 4, start, min(start + size, ends)
        # A container is followed by what is in it.
        place = start if head & 0xF == 0xF else start + size


def _texts(data: bytes, start: int, end: int) -> Iterator[str]:
    for kind, _, first, last in _records(data, start, end):
        if kind in (_CHARACTERS, _BYTES):
            text = data[first:last].decode("utf-16-le" if kind == _CHARACTERS else "latin-1", "replace")
            text = text.replace("\r", "\n").replace("\x0b", "\n").strip()
            if text and text != "*":  # the place of a number or of a date
                yield text


def _slides(data: bytes, edit: int) -> Iterator[Page]:
    """Yield the slides of the last version of a presentation. Earlier versions are in the file, too."""
    places: dict[int, int] = {}
    document = 0
    seen: set[int] = set()
    while edit and edit not in seen:
        seen.add(edit)
        kind, edit_before, directory, main = struct.unpack_from("<2xH12xIII", data, edit)
        if kind != _EDIT:
            raise ValueError("expected an edit")
        document = document or main
        for id, place in _directory(data, directory):
            places.setdefault(id, place)
        edit = edit_before
    slides: dict[int, list[str]] = {}
    start, end = _record(data, places[document])
    for kind, instance, first, last in list(_records(data, start, end)):
        if kind == _SLIDE_LIST and instance in (0, 2):  # the slides, then the notes
            for id, texts in _listed(data, first, last, places, is_notes=instance == 2):
                slides.setdefault(id, []).extend(texts)
    for slide, texts in enumerate(slides.values(), 1):
        yield Page("\n\n".join(texts), slide)


def _directory(data: bytes, place: int) -> Iterator[tuple[int, int]]:
    """Yield the number and the place of each part that a version of a presentation wrote."""
    start, end = _record(data, place)
    while start + 4 <= end:
        (head,) = struct.unpack_from("<I", data, start)
        first, count = head & 0xFFFFF, head >> 20
        for i, found in enumerate(struct.unpack_from(f"<{count}I", data, start + 4)):
            yield first + i, found
        start += 4 + 4 * count


def _listed(
    data: bytes, first: int, last: int, places: dict[int, int], *, is_notes: bool
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each slide of a list, and its texts: those in the list, and those of its shapes."""
    marks = [start for kind, _, start, _ in _records(data, first, last) if kind == _SLIDE_PLACE]
    for mark, following in zip(marks, [*marks[1:], last + 8], strict=True):
        reference, id = struct.unpack_from("<I8xI", data, mark)
        texts = list(_texts(data, mark + 20, following - 8))
        if reference in places:
            start, end = _record(data, places[reference])
            texts += _texts(data, start, end)
            if is_notes:  # the record of notes begins with the number of their slide
                id = struct.unpack_from("<8xI", data, start)[0]
        yield id, texts


def _record(data: bytes, place: int) -> tuple[int, int]:
    """Return the start and the end of what is in a record."""
    (size,) = struct.unpack_from("<4xI", data, place)
    return place + 8, min(place + 8 + size, len(data))
