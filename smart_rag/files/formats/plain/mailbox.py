"""Files that hold mails in a form of their own: mailboxes (.mbox), and mails of Apple Mail (.emlx)."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from smart_rag.errors import DocumentError, MissingExtra
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.plain.mail import MOST_BYTES, page_of_mail
from smart_rag.wording import number, one_line

# The line before each mail, and the first header of the mail.
_BEGIN = re.compile(rb"From \S.*\d\d:\d\d")
_QUOTED_FROM = re.compile(rb">+From ")
_SIZE = re.compile(rb"\s*(\d{1,12})[ \t]*\r?\n")


def read_mbox(path: Path) -> Iterator[Page]:
    """Yield each mail of a mailbox as a page, by `read_mail`. A mail that cannot be read is named.

    Raises:
        DocumentError: the file is no mailbox.
        MissingExtra: the body of a mail is HTML, and selectolax is not installed.
    """
    place = 0
    for place, (data, is_cut, words_before) in enumerate(_mails(path), 1):
        try:
            page = page_of_mail(data, path)
        except MissingExtra:
            raise
        except DocumentError as error:
            page = Page("", left_out=(f"mail {place} is {error.reason}",))
        except Exception as error:  # the standard library raises many kinds for headers that are malformed
            page = Page("", left_out=(f"mail {place} cannot be read ({type(error).__name__}: {one_line(error)})",))
        left_out = list(page.left_out)
        if is_cut:
            left_out.append(f"what follows the first {MOST_BYTES // 10**6} MB of mail {place}")
        if words_before and place == 1:
            left_out.append(f"{number(words_before, 'word')} before the first mail")
        yield replace(page, number=place, left_out=tuple(left_out))
    if not place:
        raise DocumentError(path, "no mailbox: no line begins with 'From ' and ends with a date")


def _mails(path: Path) -> Iterator[tuple[bytes, bool, int]]:
    """Yield the bytes of each mail, whether they are cut off because they are too many, and the words before all."""
    lines: list[bytes] | None = None
    size = words = 0
    after_blank = True
    with path.open("rb") as file:
        for place, line in enumerate(file):
            line = line if place else line.removeprefix(BOM_UTF8)
            if after_blank and _BEGIN.match(line):
                if lines is not None:
                    yield b"".join(lines), size > MOST_BYTES, words
                lines, size = [], 0
            elif lines is not None:
                size += len(line)
                if size <= MOST_BYTES:
                    lines.append(line[1:] if _QUOTED_FROM.match(line) else line)
            else:
                words += len(line.split())
            after_blank = not line.strip()
    if lines is not None:
        yield b"".join(lines), size > MOST_BYTES, words


def read_emlx(path: Path) -> Iterator[Page]:
    """Yield a mail of Apple Mail as one page. Its size stands before it, and properties of Apple Mail follow it.

    Raises:
        DocumentError: the file is no such mail.
        MissingExtra: the body is HTML, and selectolax is not installed.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    size = _SIZE.match(data)
    if size is None or len(data) > MOST_BYTES:
        raise DocumentError(path, f"no .emlx file of up to {MOST_BYTES // 10**6} MB: its first line is not its size")
    page = page_of_mail(data[size.end() : size.end() + int(size[1])], path)
    is_cut = len(data) < size.end() + int(size[1])
    yield replace(page, left_out=(*page.left_out, "what follows, because the file is cut off")) if is_cut else page
