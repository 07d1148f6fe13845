"""Headers and bodies of mails as bytes and texts, without trust in what a mail says of its encodings."""

from __future__ import annotations

import binascii
import re
from email.message import Message
from email.parser import BytesParser
from email.policy import Compat32

from smart_rag.files.formats.encoding import decode_part

# A header with the parameters of a part is cut here. The standard library takes a time that grows with its square.
_LONGEST_PARAMETERS = 10_000
_ENCODED_WORD = re.compile(r"=\?([^?\s*]{1,40})(?:\*[^?\s]{0,40})?\?([bBqQ])\?([^?]*)\?=")
_QUOTED = re.compile(rb"=([0-9a-fA-F]{2})")
# Possessive, because else a line that does not match takes a time that doubles with each letter.
_BASE64_LINE = re.compile(rb"\s*+(?:[A-Za-z0-9+/]++={0,2}+)*+\s*\Z")
_NO_BASE64 = re.compile(rb"[^A-Za-z0-9+/=\s]")
# A text in quoted-printable has no such sign.
_UNENCODED = re.compile(rb"=(?![0-9a-fA-F]{2}|[ \t]*\r?(?:\n|\Z))")
# An edge between parts, and a header of a part.
_EDGE = re.compile(
    rb"^--([!#-\[\]-~](?:[ !#-\[\]-~]{0,68}[!#-\[\]-~])?)[ \t]*\r?\nContent-[\w-]+:", re.MULTILINE | re.IGNORECASE
)
_BLANK_LINE = re.compile(rb"\n\r?\n")
# A line of base64 is so long, and may have one sign that does not belong to it. Footers have spaces or more such signs.
_LONG_LINE = 40


class _Policy(Compat32):
    """Headers with bytes beyond ASCII are decoded like any other text, and the rest is left as it is."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        if name.lower().startswith("content-"):
            value = value[:_LONGEST_PARAMETERS]
        if value.isascii():
            return value
        return decode_part(value.encode("ascii", "surrogateescape")).text


_POLICY = _Policy()


class _Part(Message):
    """A part of a mail. A mail in it that is encoded is no mail yet, so its type is another one until it is decoded."""

    def get_content_type(self) -> str:
        found = super().get_content_type()
        if found.startswith("message/") and _encoding_of(self) in ("base64", "quoted-printable"):
            return f"{ENCODED}{found}"
        return found


ENCODED = "encoded-"


def parse(data: bytes) -> Message:
    """Return a mail, or a part of one, with its headers."""
    return BytesParser(_Part, policy=_POLICY).parsebytes(data)


def decoded(part: Message) -> Message:
    """Return a part whose type begins with `ENCODED`, without its encoding."""
    kind = part.get_content_type().removeprefix(ENCODED)
    is_quoted = _encoding_of(part) != "base64"
    data = b"\n".join(payload_of(part))
    if is_quoted and _UNENCODED.search(_BLANK_LINE.split(raw := _raw(part), 1)[0]):  # it only says that it is encoded
        data = raw
    return parse(b"Content-Type: " + kind.encode("ascii", "replace") + b"\n\n" + data.lstrip(b"\r\n"))


def with_edges(payload: bytes, kind: str) -> Message | None:
    """Return what has parts that begin at an edge which no header names, or None if there is no edge."""
    edge = _EDGE.search(payload)
    if edge is None:
        return None
    found = parse(
        b'Content-Type: multipart/%s; boundary="%s"\n\n' % (kind.encode("ascii", "replace"), edge[1]) + payload
    )
    return found if found.is_multipart() else None


def without_encoded_words(header: str) -> str:
    """Return a header with its encoded words decoded, such as ``=?utf-8?Q?caf=C3=A9?=``.

    Neighbours in the same encoding are decoded together, because a character may begin in one and end in the next.
    """
    parts: list[str] = []
    charset, data = "", b""
    place = 0
    for word in _ENCODED_WORD.finditer(header):
        between = header[place : word.start()]
        found = _bytes_of(word[2].lower(), word[3])
        if found is None:
            continue
        if data and not between.strip():
            between = ""
        if between or word[1].lower() != charset:
            parts.append(decode_part(data, charset).text)
            charset, data = word[1].lower(), b""
        parts.append(between)
        data += found
        place = word.end()
    return "".join([*parts, decode_part(data, charset).text, header[place:]])


def _bytes_of(encoding: str, text: str) -> bytes | None:
    """Return the bytes of an encoded word, or None if it is none."""
    data = text.encode("utf-8", "surrogateescape")
    if encoding == "q":
        return _QUOTED.sub(lambda code: bytes([int(code[1], 16)]), data.replace(b"_", b" "))
    return _from_base64(data) if _BASE64_LINE.match(data) else None


def payload_of(part: Message) -> tuple[bytes, bytes]:
    """Return the bytes of a part, and those of a footer.

    Servers of mailing lists add a footer in plain text, also to a body in base64.
    """
    if _encoding_of(part) != "base64":
        found = part.get_payload(decode=True)
        return found if isinstance(found, bytes) else b"", b""
    lines = _raw(part).splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if not _is_base64(line)), len(lines))
    return _from_base64(b"".join(lines[:end])), b"".join(lines[end:]).strip()


def _encoding_of(part: Message) -> str:
    return str(part.get("Content-Transfer-Encoding", "")).partition("(")[0].strip(' \t"').lower()


def _raw(part: Message) -> bytes:
    """Return the bytes of a part as they stand in the mail."""
    del part["Content-Transfer-Encoding"]
    found = part.get_payload(decode=True)
    return found if isinstance(found, bytes) else b""


def _is_base64(line: bytes) -> bool:
    if _BASE64_LINE.match(line):
        return True
    return len(line) > _LONG_LINE and len(line.split()) == 1 and len(_NO_BASE64.findall(line)) == 1


def _from_base64(data: bytes) -> bytes:
    """Return the bytes of base64, which may be cut at its end. Each part with padding is decoded on its own."""
    found = b""
    for part in _NO_BASE64.sub(b"", b"".join(data.split())).split(b"="):
        whole = part[: len(part) - (len(part) % 4 == 1)]
        found += binascii.a2b_base64(whole + b"=" * (-len(whole) % 4))
    return found
