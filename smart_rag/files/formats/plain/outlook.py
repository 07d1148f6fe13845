"""Mails of Outlook (.msg): an OLE container with a stream for each property."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from smart_rag.files.formats.encoding import decode_part
from smart_rag.files.formats.html import page_of_markup
from smart_rag.files.formats.office.legacy import losses, ole, stream
from smart_rag.files.formats.office.rtf import page_of_rtf
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.plain.mail import mail_page

_SUBJECT, _TO, _CC, _SENDER = "0037", "0E04", "0E03", "0C1A"
_ADDRESSES = ("5D01", "0C1F")
_BODY, _HTML, _RICH = "1000", "1013", "1009"
_FILE_NAMES = ("3707", "3704", "3001")
_DATES = (0x00390040, 0x0E060040)  # when it was sent, when it came
_FIRST_YEAR = datetime(1601, 1, 1, tzinfo=UTC)
# With this text before it, rich text is compressed: what is repeated is said by its place.
_BEFORE = (
    b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript \\fdecor "
    b"MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\\par \\pard\\plain\\f0"
    b"\\fs20\\b\\i\\u\\tab\\tx"
)
_MOST_BYTES = 256_000_000


def read_msg(path: Path) -> Iterator[Page]:
    """Yield a mail as one page; see `smart_rag.files.formats.plain.mail.read_mail`.

    Raises:
        DocumentError: the file is damaged, or it is no mail.
        MissingExtra: olefile or lxml is not installed.
    """
    with ole(path) as opened:
        address = next(filter(None, (_text(opened, id) for id in _ADDRESSES)), "")
        sender = _text(opened, _SENDER)
        if "@" in address and address != sender:
            sender = f"{sender} <{address}>".strip()
        headers = {
            "Subject": _text(opened, _SUBJECT),
            "From": sender,
            "To": _text(opened, _TO),
            "Cc": _text(opened, _CC),
            "Date": _date(stream(opened, "__properties_version1.0")),
        }
        attachments = [
            next(filter(None, (_text(opened, id, folder) for id in _FILE_NAMES)), "(no name)")
            for folder in sorted({entry[0] for entry in opened.listdir() if entry[0].startswith("__attach")})
        ]
        headers = {name: " ".join(text.split()) for name, text in headers.items() if text}
        body = _body(opened, path)
        yield mail_page(headers, body.text, attachments, [*body.left_out, *losses(opened)])


def _body(opened: Any, path: Path) -> Page:
    """Return the plain text, or else the HTML, or else the rich text."""
    plain = _text(opened, _BODY)
    if plain:
        return Page(plain.replace("\r\n", "\n"))
    html = _text(opened, _HTML) or decode_part(stream(opened, f"__substg1.0_{_HTML}0102"), is_html=True).text
    if html.strip():
        return page_of_markup(html.replace("\0", ""), path)
    return page_of_rtf(_unpacked(stream(opened, f"__substg1.0_{_RICH}0102")))


def _text(opened: Any, id: str, folder: str = "") -> str:
    name = f"{folder}/__substg1.0_{id}" if folder else f"__substg1.0_{id}"
    wide = stream(opened, f"{name}001F")
    text = wide.decode("utf-16-le", "replace") if wide else decode_part(stream(opened, f"{name}001E")).text
    return text.replace("\0", "").strip()


def _date(properties: bytes) -> str:
    found = {}
    for place in range(32, len(properties) - 15, 16):
        tag, value = struct.unpack_from("<I4xQ", properties, place)
        found[tag] = value
    ticks = next((found[tag] for tag in _DATES if found.get(tag)), 0)
    try:
        return format_datetime(_FIRST_YEAR + timedelta(microseconds=ticks // 10)) if ticks else ""
    except OverflowError:
        return ""


def _unpacked(data: bytes) -> bytes:
    """Return rich text that is compressed with Outlook's LZFu."""
    if len(data) < 16:
        return b""
    size, kind = struct.unpack_from("<4xI4s", data)
    if kind == b"MELA":
        return data[16:]
    found = bytearray(_BEFORE)
    place, end = 16, min(len(_BEFORE) + size, _MOST_BYTES)
    while place < len(data) and len(found) < end:
        flags = data[place]
        place += 1
        for bit in range(8):
            if place >= len(data) or len(found) >= end:
                break
            if not flags >> bit & 1:
                found.append(data[place])
                place += 1
                continue
            if place + 1 >= len(data):
                break
            reference = data[place] << 8 | data[place + 1]
            place += 2
            # Places are those of a ring of 4096 bytes.
            back = (len(found) - (reference >> 4)) % 4096 or 4096
            if back > len(found):
                return bytes(found[len(_BEFORE) :])
            for _ in range((reference & 15) + 2):
                found.append(found[-back])
    return bytes(found[len(_BEFORE) :])
