"""Mails (.eml): what a mail program shows of them, by the standard library."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from email.message import Message
from email.utils import collapse_rfc2231_value, parsedate_to_datetime
from itertools import count
from pathlib import Path

from smart_rag.errors import DocumentError, SmartRagError
from smart_rag.files.formats.encoding import decode, decode_part
from smart_rag.files.formats.html import page_of_markup
from smart_rag.files.formats.office.rtf import page_of_rtf
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.plain.calendars import KINDS as CALENDARS
from smart_rag.files.formats.plain.calendars import pages_of_calendar
from smart_rag.files.formats.plain.mail_parts import (
    ENCODED,
    decoded,
    parse,
    payload_of,
    with_edges,
    without_encoded_words,
)
from smart_rag.files.formats.plain.mail_text import text_of_enriched, without_soft_breaks
from smart_rag.wording import number, one_line

_HEADERS = ("Subject", "From", "To", "Cc", "Date")
_ADDRESSES = ("From", "To", "Cc")
_QUOTED_NAME = re.compile(r'"([^"\\]*)"\s*(?=<)')
_COMMA = re.compile(r",\s*")
MOST_BYTES = 256_000_000
_REPORTS = (
    *("message/delivery-status", "message/disposition-notification", "message/feedback-report"),
    *("message/global-delivery-status", "message/global-disposition-notification"),
)
_UNSEEN = ("text/css", "text/javascript")  # parts of web archives
_ELSEWHERE = "message/external-body"  # an attachment that the mail only names
_MAILS = ("message/rfc822", "message/global", "message/news")
_ENRICHED = ("text/enriched", "text/richtext")
_RICH = ("text/rtf", "text/richtext")
_BODIES = ("text/plain", "text/html", "text/rtf", *_ENRICHED)
# The plain text of a mail is its body, unless more than this share of the words of another form is only there.
_SMALL_SHARE = 0.05
# Then the plain text is read, too, if more than this share of its own words is only there.
_LARGE_SHARE = 0.25
# Lines are broken anywhere in languages without spaces, so there each character is a word.
_NO_SPACES = r"\u0e00-\u0eff\u2e80-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\W_{_NO_SPACES}]+")
_ADDRESS = re.compile(r"[A-Za-z]{1,20}://[!-~]*|[\w.+-]{1,64}@[!-~]*")
# A mail with more parts is no letter. To find the encodings of all of them could take for ever.
_MOST_PARTS = 5_000
# Each encoded mail in a mail is decoded into a copy.
_MOST_DEPTH = 20
# The words of forms in forms are compared at each level.
_MOST_FORMS = 10
_HEAD_BYTES = 1000


def read_mail(path: Path) -> Iterator[Page]:
    """Yield a mail as one page: its subject, sender, receivers and date, and its body.

    These are metadata, too, with the names of the attachments. The attachments are not read. HTML is read where there
    is no plain text, or where that lacks words of it.

    Raises:
        DocumentError: the file is no mail.
        MissingExtra: the body is HTML, and selectolax is not installed.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise DocumentError(path, f"more than {MOST_BYTES // 10**6} MB; expected a mail")
    yield page_of_mail(data, path)


def page_of_mail(data: bytes, path: Path) -> Page:
    """Return the page of a mail, whose file is ``path``; see `read_mail`."""
    head = data[:_HEAD_BYTES]
    if head.count(0) * 4 > len(head):  # an editor saved it in UTF-16
        data = decode(data, path).text.encode()
    message = parse(data.removeprefix(BOM_UTF8))
    headers = {name: text for name in _HEADERS if (text := _header(message, name))}
    if not headers and not message.is_multipart():
        raise DocumentError(path, "no mail: it has none of the headers Subject, From, To and Date")
    body = _Body(path)
    body.read(message, is_all=True)
    beyond = next(body.seen) - _MOST_PARTS
    if beyond > 0:
        body.left_out.append(f"{number(beyond, 'part')} after the first {_MOST_PARTS:,}")
    return mail_page(headers, "\n\n".join(body.texts), body.attachments, body.left_out)


def mail_page(headers: dict[str, str], body: str, attachments: list[str], left_out: list[str]) -> Page:
    """Return the page of a mail, with what is left out of it."""
    lines = "\n".join(f"{name}: {text}" for name, text in headers.items())
    metadata = {name.lower(): text for name, text in headers.items()}
    if "date" in metadata:
        metadata["date"] = _iso(metadata["date"])
    if attachments:
        named = ", ".join(dict.fromkeys(attachments))
        metadata["attachments"] = named
        left_out = [*left_out, f"{number(len(attachments), 'attachment')} not read: {named}"]
    return Page(f"{lines}\n\n{body.strip()}", metadata=metadata, left_out=tuple(left_out))


def text_of_web_archive(data: bytes, path: Path) -> Page:
    """Return the text of a web archive (.mht), which is a page in the form of a mail, in a part of a file.

    Args:
        data: the archive.
        path: the file, for the errors.

    Raises:
        MissingExtra: selectolax is not installed.
    """
    body = _Body(path)
    body.read(parse(data), is_all=True)
    if body.attachments:
        body.left_out.append(f"{number(len(body.attachments), 'attachment')} not read")
    return Page("\n\n".join(body.texts).strip(), left_out=tuple(body.left_out))


class _Body:
    """The texts of a mail, the names of its attachments, and what cannot be read. ``seen`` counts the parts."""

    def __init__(self, path: Path, outer: _Body | None = None) -> None:
        self._path = path
        self._depth: int = outer._depth if outer else 0  # of encoded mails in encoded mails
        self._forms: int = outer._forms + 1 if outer else 0  # in forms
        self.seen: count[int] = outer.seen if outer else count()
        self.texts: list[str] = []
        self.attachments: list[str] = []
        self.left_out: list[str] = []

    def read(self, part: Message, is_all: bool = False) -> None:
        """Read a part of a mail, or a mail that may be all one text. Such a text is the body even if it has a name."""
        if next(self.seen) >= _MOST_PARTS:
            return
        kind = part.get_content_type()
        named = _file_name(part)
        if kind.startswith(ENCODED):
            self._read_encoded(part)
        elif kind in _REPORTS:
            self._read_report(part)
        elif kind == _ELSEWHERE:
            name = collapse_rfc2231_value(part.get_param("name") or part.get_param("url") or "")
            self.attachments.append(named or " ".join(name.split()) or f"({kind})")
        elif kind in _MAILS and part.is_multipart():
            for message in _parts(part):
                lines = (f"{name}: {text}" for name in _HEADERS if (text := _header(message, name)))
                self.texts.append("\n".join(lines))
                self.read(message)
        elif kind.startswith("multipart/") and not part.is_multipart():
            self._read_unparted(part, is_all)
        elif kind == "multipart/alternative" and part.is_multipart() and self._forms < _MOST_FORMS:
            self._read_best(_parts(part))
        elif part.is_multipart():
            self._read_parts(part)
        elif (
            kind.startswith("text/")
            and kind not in _UNSEEN
            and part.get_content_disposition() != "attachment"
            and (is_all or not named)
        ):
            self._read_text(part, kind)
        elif named or part.get_payload(decode=True):
            self.attachments.append(named or f"({kind})")

    def _read_parts(self, part: Message) -> None:
        """Read several parts. If one says the same edge as they have, it has the parts that follow it."""
        inner = _parts(part)
        for place, one in enumerate(inner, 1):
            is_same = one.get_content_maintype() == "multipart" and one.get_boundary() == part.get_boundary()
            if is_same and one.get_content_subtype() == "alternative" and not one.is_multipart():
                self._read_best(inner[place:])
                break
            self._read_one(one, place)
        after = (part.epilogue or "").encode("ascii", "surrogateescape")
        again = with_edges(after, "mixed") if self._depth < _MOST_DEPTH else None
        if again is not None:
            self._depth += 1
            self._read_one(again, len(inner) + 1)
            self._depth -= 1
        elif words := len(after.split()):
            self.left_out.append(f"{number(words, 'word')} after the last part, which no mail program shows")

    def _read_one(self, part: Message, place: int) -> None:
        """Read one of several parts. Whatever is wrong with it, the others are read."""
        try:
            self.read(part)
        except (SmartRagError, MemoryError):
            raise
        except Exception as error:  # the standard library raises many kinds for headers that are malformed
            self.left_out.append(f"part {place} cannot be read ({type(error).__name__}: {one_line(error)})")

    def _read_encoded(self, part: Message) -> None:
        if self._depth == _MOST_DEPTH:
            self.left_out.append(f"what is encoded more than {_MOST_DEPTH} times, a mail in a mail")
            return
        self._depth += 1
        self.read(decoded(part))
        self._depth -= 1

    def _read_report(self, part: Message) -> None:
        """Read the fields of a report, and free text, which some servers write in their place."""
        for inner in _parts(part):
            fields = "\n".join(f"{name}: {text}" for name, text in inner.items())
            text = decode_part(payload_of(inner)[0]).text if not inner.is_multipart() else ""
            self.texts += [found for found in (fields, text.strip()) if found]
            if inner.is_multipart():
                self.read(inner)

    def _read_unparted(self, part: Message, is_all: bool) -> None:
        """Read a part that says that it has parts, and none is found: the edges between them are other ones."""
        payload = b"\n".join(payload_of(part)).strip()
        again = with_edges(payload, part.get_content_subtype())
        if again is not None:
            self.read(again, is_all)
        elif payload:
            self.texts.append(decode_part(payload, str(part.get_content_charset() or "")).text)

    def _read_best(self, parts: list[Message]) -> None:
        """Read one of several forms of the same text, or two that differ; see `_shown`.

        The attachments of all forms are named, and so are forms that are no body. A calendar, which an invitation has,
        is read besides, as mail programs show it. Lines that the text has, too, are there once.
        """
        bodies, calendars = [], []
        for place, part in enumerate(parts, 1):
            body = _Body(self._path, self)
            body._read_one(part, place)
            kinds = {inner.get_content_type() for inner in part.walk()}
            is_body = not kinds.isdisjoint(_BODIES)
            is_calendar = not kinds.isdisjoint(CALENDARS) and not any("BEGIN:" in text for text in body.texts)
            if body.texts and not is_body and is_calendar:
                calendars.append(body)
                self.attachments += body.attachments
                continue
            if body.texts and not is_body and len(parts) > 1:
                body.attachments.append(f"({part.get_content_type()})")
                body.texts.clear()
            self.attachments += body.attachments
            bodies.append((body, "text/plain" in kinds))
        plain = next((body for body, is_plain in bodies if is_plain and body.has_words()), None)
        others = [body for body, _ in bodies if body is not plain and body.has_words()]
        rich = max(others, key=lambda body: sum(map(len, body.texts)), default=None)
        for body in _shown(plain, rich):
            self.texts += body.texts
            self.left_out += body.left_out
        known = {" ".join(line.split()) for text in self.texts for line in text.splitlines()}
        for calendar in calendars:
            lines = [line for text in calendar.texts for line in text.splitlines()]
            self.texts.append("\n".join(line for line in lines if " ".join(line.split()) not in known))
            self.left_out += calendar.left_out

    def has_words(self) -> bool:
        return any(map(str.strip, self.texts))

    def words(self) -> Counter[str]:
        """Return how often each word occurs. Addresses are none: HTML hides those of its links."""
        return Counter(_WORD.findall(_ADDRESS.sub(" ", "\n".join(self.texts)).casefold()))

    def _read_text(self, part: Message, kind: str) -> None:
        is_html = kind == "text/html"
        payload, footer = payload_of(part)
        found = decode_part(payload, str(part.get_content_charset() or ""), is_html=is_html)
        text = found.text.strip()
        is_rtf = kind in _RICH and payload.lstrip().startswith(b"{\\rtf")
        self.left_out += () if is_rtf else found.left_out
        if is_html or is_rtf:
            page = page_of_rtf(payload) if is_rtf else page_of_markup(found.text, self._path)
            self.left_out += page.left_out
            text = page.text
        elif kind in CALENDARS:
            pages = pages_of_calendar(payload, str(part.get_content_charset() or ""))
            self.left_out += [phrase for page in pages for phrase in page.left_out]
            text = "\n\n".join(page.text for page in pages if page.text) or text
        elif kind in _ENRICHED:
            text = text_of_enriched(found.text, kind).strip()
        elif kind == "text/plain" and str(part.get_param("delsp", "")).lower() == "yes":
            text = without_soft_breaks(text)
        self.texts += [text, decode_part(footer).text] if footer else [text]


def _shown(plain: _Body | None, rich: _Body | None) -> list[_Body]:
    """Return the forms of a text that are read: one, or both if each has much that the other lacks.

    A mail program shows the rich form. The plain one may be a note that there is another one, or say the same.
    """
    if plain is None or rich is None:
        return [body for body in (plain, rich) if body is not None]
    words, rich_words = plain.words(), rich.words()
    only_plain, only_rich = (words - rich_words).total(), (rich_words - words).total()
    if only_rich <= _SMALL_SHARE * rich_words.total():
        shown, lost = plain, only_rich
    elif only_plain <= _LARGE_SHARE * words.total():
        shown, lost = rich, only_plain
    else:
        return [rich, plain]
    if lost:
        shown.left_out.append(f"{number(lost, 'word')} that only another form of the text has")
    return [shown]


def _parts(part: Message) -> list[Message]:
    """Return the parts of a part that has some."""
    payload = part.get_payload()
    return [inner for inner in payload if isinstance(inner, Message)] if isinstance(payload, list) else []


def _header(message: Message, name: str) -> str:
    """Return a header on one line."""
    found = ", ".join(without_encoded_words(str(text)) for text in message.get_all(name, []))
    if name in _ADDRESSES:
        found = _COMMA.sub(", ", _QUOTED_NAME.sub(r"\1 ", found))
    return " ".join(found.split())


def _file_name(part: Message) -> str:
    try:
        return " ".join(without_encoded_words(part.get_filename() or "").split())
    except (ValueError, LookupError, AttributeError, TypeError, IndexError):
        return "(a name that cannot be read)"


def _iso(date: str) -> str:
    """Return the date of a mail in the form of ISO 8601, or as it is."""
    try:
        return parsedate_to_datetime(date).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return date
