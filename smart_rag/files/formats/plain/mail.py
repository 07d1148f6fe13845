"""Mails (.eml): what a mail program shows of them, by the standard library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import EmailPolicy
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from smart_rag.errors import DocumentError, SmartRagError
from smart_rag.files.formats.encoding import codec_named, decode
from smart_rag.files.formats.html import page_of_markup
from smart_rag.files.formats.legacy_encoding import detect
from smart_rag.files.formats.page import Page
from smart_rag.wording import number, one_line

_HEADERS = ("Subject", "From", "To", "Cc", "Date")
_HEAD_BYTES = 1000
_MOST_BYTES = 256_000_000
# Characters of a header that the standard library parses, which takes it the square of their number.
_MOST_PARSED = 2_000
# What the standard library raises for headers that are malformed.
_MALFORMED = (MessageError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
_WORD = re.compile(r"=\?[^?\s]{1,80}\?[bqBQ]\?[^?]*\?=")
_BETWEEN_WORDS = re.compile(r"(?<=\?=)\s+(?==\?)")


def read_mail(path: Path) -> Iterator[Page]:
    """Yield a mail as one page: its subject, sender, receivers and date, and its body.

    These are metadata, too, with the names of the attachments. The attachments are not read. HTML is read only where
    there is no plain text.

    Raises:
        DocumentError: the file is no mail.
        MissingExtra: the body is HTML, and selectolax is not installed.
    """
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise DocumentError(path, f"more than {_MOST_BYTES // 10**6} MB; expected a mail")
    head = data[:_HEAD_BYTES]
    if head.count(0) * 4 > len(head):  # an editor saved it in UTF-16
        data = decode(data, path).text.encode()
    message = BytesParser(EmailMessage, policy=_Policy()).parsebytes(data)
    headers = {name: text for name in _HEADERS if (text := _header(message, name))}
    if not headers and not message.is_multipart():
        raise DocumentError(path, "no mail: it has none of the headers Subject, From, To and Date")
    body = _Body(path)
    body.read(message)
    yield mail_page(headers, "\n\n".join(body.texts), body.attachments, body.left_out)


def mail_page(headers: dict[str, str], body: str, attachments: list[str], left_out: list[str]) -> Page:
    """Return the page of a mail, with what is left out of it."""
    lines = "\n".join(f"{name}: {text}" for name, text in headers.items())
    metadata = {name.lower(): text for name, text in headers.items()}
    if "date" in metadata:
        metadata["date"] = _iso(metadata["date"])
    if attachments:
        named = ", ".join(attachments)
        metadata["attachments"] = named
        left_out = [*left_out, f"{number(len(attachments), 'attachment')} not read: {named}"]
    return Page(f"{lines}\n\n{body.strip()}", metadata=metadata, left_out=tuple(left_out))


def decoded(data: bytes, charset: str | None = None) -> str:
    """Return the text of a part of a file. ``charset`` is what the file says of it, which may be wrong."""
    for encoding in (codec_named(charset or ""), "utf-8-sig"):
        try:
            if encoding:
                return data.decode(encoding)
        except ValueError:  # it has other bytes
            continue
    return data.decode(detect(data), "replace")


class _Policy(EmailPolicy):
    """The usual rules for mails. A header that is malformed or long is a plain text."""

    def header_fetch_parse(self, name: str, value: str) -> Any:
        if len(value) <= _MOST_PARSED:
            try:
                return super().header_fetch_parse(name, value)
            except _MALFORMED:
                pass
        elif name.lower().startswith("content-"):  # it is parsed again, so that it must be short
            value = value[:_MOST_PARSED]
        return _WORD.sub(_decoded_word, _BETWEEN_WORDS.sub("", "".join(value.splitlines())))


def _decoded_word(word: re.Match[str]) -> str:
    try:
        return str(make_header(decode_header(word[0])))
    except _MALFORMED:
        return word[0]


class _Body:
    """The texts of a mail, the names of its attachments, and what cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.texts: list[str] = []
        self.attachments: list[str] = []
        self.left_out: list[str] = []

    def read(self, part: Message) -> None:
        kind = part.get_content_type()
        named = _file_name(part)
        if kind == "message/delivery-status":
            lines = (f"{name}: {text}" for inner in _parts(part) for name, text in inner.raw_items())
            self.texts.append("\n".join(lines))
        elif kind == "message/rfc822" and part.is_multipart():
            for message in _parts(part):
                lines = (f"{name}: {text}" for name in _HEADERS if (text := _header(message, name)))
                self.texts.append("\n".join(lines))
                self.read(message)
        elif part.is_multipart():
            parts = _parts(part)
            for place, inner in enumerate(self._chosen(parts) if kind == "multipart/alternative" else parts, 1):
                self._read_one(inner, place)
        elif part.get_content_maintype() == "text" and not named and part.get_content_disposition() != "attachment":
            self.texts.append(self._text(part))
        elif named or part.get_payload(decode=True):
            self.attachments.append(named or f"({kind})")

    def _read_one(self, part: Message, place: int) -> None:
        """Read one of several parts. Whatever is wrong with it, the others are read."""
        try:
            self.read(part)
        except (SmartRagError, MemoryError):
            raise
        except Exception as error:  # the standard library raises many kinds for headers that are malformed
            self.left_out.append(f"part {place} cannot be read ({type(error).__name__}: {one_line(error)})")

    def _chosen(self, parts: list[Message]) -> list[Message]:
        """Return the parts of an alternative to read: the plain text, or else the last one, which is the best."""
        for part in parts:
            if part.get_content_type() == "text/plain" and self._text(part).strip():
                return [part]
        return [part for part in parts if part.get_content_type() != "text/plain"][-1:] or parts

    def _text(self, part: Message) -> str:
        payload = part.get_payload(decode=True)
        text = decoded(payload if isinstance(payload, bytes) else b"", part.get_content_charset())
        if part.get_content_type() != "text/html":
            return text.strip()
        page = page_of_markup(text, self._path)
        self.left_out += page.left_out
        return page.text


def _parts(part: Message) -> list[Message]:
    """Return the parts of a part that has some."""
    payload = part.get_payload()
    return [inner for inner in payload if isinstance(inner, Message)] if isinstance(payload, list) else []


def _header(message: Message, name: str) -> str:
    """Return a header on one line. The standard library fails on some that are malformed."""
    try:
        found = ", ".join(map(str, message.get_all(name, [])))
    except _MALFORMED:
        found = next((str(text) for key, text in message.raw_items() if key.lower() == name.lower()), "")
    return " ".join(found.encode("utf-8", "replace").decode().split())


def _file_name(part: Message) -> str:
    try:
        return " ".join((part.get_filename() or "").split())
    except _MALFORMED:
        return "(a name that cannot be read)"


def _iso(date: str) -> str:
    """Return the date of a mail in the form of ISO 8601, or as it is."""
    try:
        return parsedate_to_datetime(date).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return date
