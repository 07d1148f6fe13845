"""From bytes to text: what the file says of its encoding, then UTF-8, then a detector."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace
from pathlib import Path

from smart_rag.errors import DocumentError
from smart_rag.files.formats.legacy_encoding import OLD, detect
from smart_rag.wording import number

# UTF-32 is first, because its mark for little endian begins like the one of UTF-16.
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)

# What a file may say, and the codec. A browser reads the smaller encodings as the larger ones that replaced them. Other
# names are not believed, because Python has codecs that are no encodings of files, and slow ones.
_SINGLE = {f"windows{i}": f"cp{i}" for i in range(1250, 1259)}
_SINGLE |= {f"cp{i}": f"cp{i}" for i in (437, 737, 775, 850, 852, 855, 857, 858, 862, 866, 874, *range(1250, 1259))}
_SINGLE |= {f"ibm{i}": f"cp{i}" for i in (437, 737, 775, 850, 852, 855, 857, 858, 862, 866)}
_SINGLE |= {f"iso8859{i}": f"iso8859-{i}" for i in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)}
_SINGLE |= {f"latin{i}": f"iso8859-{j}" for i, j in ((2, 2), (3, 3), (4, 4), (6, 10), (9, 15), (10, 16))}
_SINGLE |= {
    "iso88591": "cp1252",
    "latin1": "cp1252",
    "l1": "cp1252",
    "iso88599": "cp1254",
    "latin5": "cp1254",
    "iso885911": "cp874",
    "tis620": "cp874",
    "windows874": "cp874",
    "iso88598i": "iso8859-8",
    "koi8r": "koi8-r",
    "koi8u": "koi8-u",
    "koi8": "koi8-r",
    "macintosh": "mac-roman",
    "macroman": "mac-roman",
    "xmaccyrillic": "mac-cyrillic",
}
_MULTIPLE = {
    **dict.fromkeys(("gb2312", "gbk", "gb18030", "xgbk", "euccn", "cp936"), "gb18030"),
    **dict.fromkeys(("big5", "big5hkscs", "xxbig5", "cnbig5"), "big5hkscs"),
    "cp950": "cp950",
    **dict.fromkeys(("shiftjis", "sjis", "xsjis", "windows31j", "cp932", "mskanji"), "cp932"),
    **dict.fromkeys(("eucjp", "xeucjp"), "euc_jis_2004"),
    **dict.fromkeys(("euckr", "ksc56011987", "ksc5601", "windows949", "cp949", "uhc"), "cp949"),
    "iso2022jp": "iso2022_jp_ext",
    "iso2022kr": "iso2022_kr",
}

# Encodings of mails that are ASCII with escapes.
_SHIFTED = {"utf7": "utf-7", "hzgb2312": "hz", "iso2022jp": "iso2022_jp_ext", "iso2022kr": "iso2022_kr"}

# What a file may say stands in its first bytes.
_HEAD_BYTES = 4096
_XML = re.compile(rb"\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})")
_META = re.compile(rb"<meta\s[^>]{0,400}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_CODING = re.compile(rb"\A(?:[^\n]{0,200}\n)?[^\n]{0,200}?coding[:=]\s*([\w.-]{1,40})")
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)

# Files of these formats are refused even if most of their bytes could be text.
_BINARY = (
    b"%PDF-",
    b"\x89PNG",
    b"PK\3\4",
    b"\x1f\x8b",
    b"\xff\xd8\xff",
    b"\x7fELF",
    b"\xd0\xcf\x11\xe0",
    b"SQLite format 3\0",
)
# Controls that no text has. A log has ESC for colours, and a manual page has backspaces.
_CONTROLS = bytes(i for i in range(32) if i not in b"\0\a\b\t\n\v\f\r\x1a\x1b") + b"\x7f"
_NO_CONTROLS = bytes(i for i in range(256) if i not in _CONTROLS)
_NULS = re.compile("\0+")
_SIGNS_OF_WINDOWS = re.compile(rb"[\x80\x82-\x8c\x8e\x91-\x9c\x9e\x9f]")
# These encodings have controls in the place of the letters and quotes of Windows.
_WITH_CONTROLS = frozenset(f"iso8859-{i}" for i in range(2, 17))
_NO_CHARACTERS = dict.fromkeys(range(0x80, 0xA0), "\ufffd")

# Characters of texts. Binary data with a mark of UTF-16 has others.
_USUAL = re.compile(
    r"[\t\n\r -~\xa0-\u1fff\u2010-\u22ff\u2500-\u25ff\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uff00-\uffef"
    r"\U00010000-\U0003ffff]"
)
# A text without a mark has characters that all scripts share, and one script.
_SHARED = r"\t\n\r -~\xa0-\xbf\u2010-\u22ff\u2500-\u25ff\u3000-\u303f\uff00-\uffef\U0001f000-\U0001ffff"
_SCRIPTS = [
    re.compile(f"[{_SHARED}{script}]")
    for script in (
        r"\xc0-\u024f\u1e00-\u1eff",
        r"\u0370-\u03ff\u1f00-\u1fff",
        r"\u0400-\u052f",
        r"\u0590-\u05ff",
        r"\u0600-\u06ff",
        r"\u0900-\u0dff",
        r"\u0e00-\u0eff",
        r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff",
        r"\uac00-\ud7a3\u4e00-\u9fff",
    )
]
# Letters and spaces of ASCII. Nearly no byte of UTF-16 is one, apart from every second byte of English.
_NO_LETTERS = bytes(i for i in range(256) if not (i < 128 and (chr(i).isalpha() or i == 32)))
_SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text, and the encoding that it had.

    Attributes:
        text: the text, without NULs.
        encoding: the name of Python's codec.
        left_out: phrases of what could not be decoded; see `Page.left_out`.
    """

    text: str
    encoding: str
    left_out: tuple[str, ...] = ()


def decode(data: bytes, path: Path, *, is_html: bool = False) -> Decoded:
    """Return the text of ``data``.

    A byte order mark counts most. Then counts what the file says: an XML declaration, a line such as
    ``coding: latin-1``, or in HTML a meta element. Then it is UTF-8 where nearly all of it is, then what
    `legacy_encoding.detect` finds. A file that says another encoding and is sound UTF-8 is UTF-8.

    Args:
        data: the bytes of a file.
        path: the file, for the error.
        is_html: whether a meta element can say the encoding.

    Raises:
        DocumentError: the file holds binary data.
    """
    if data.startswith(_BINARY) or data[257:262] == b"ustar":
        raise _not_text(path)
    marked = next((codec for mark, codec in _MARKS if data.startswith(mark)), None)
    if marked is not None:
        text = data.decode(marked, "replace").removeprefix("\ufeff")
        if len(_USUAL.findall(text[:_SAMPLE_BYTES])) < 0.85 * len(text[:_SAMPLE_BYTES]):
            raise _not_text(path)
        return _decoded(text, marked, data)
    codec = _wide(data) or _shifted(data)
    if codec is not None:
        return _decoded(data.decode(codec, "replace"), codec, data)
    if _is_binary(data):
        raise _not_text(path)
    return _chosen(data, _named(data, is_html))


def decode_part(data: bytes, named: str = "", *, is_html: bool = False) -> Decoded:
    """Return the text of a part of a file, such as the body of a mail. No part is refused.

    Args:
        data: the bytes of the part.
        named: the encoding that the file says of it, which may be wrong.
        is_html: whether a meta element can say the encoding.
    """
    shifted = _SHIFTED.get(_plain(named)) if data.isascii() else None
    marked = next((codec for mark, codec in _MARKS if data.startswith(mark)), None)
    codec = shifted or marked or _wide(data) or _shifted(data)
    if codec is not None:
        return _decoded(data.decode(codec, "replace").removeprefix("\ufeff"), codec, data)
    return _chosen(data, _codec_of(named) or (_named(data, is_html) if is_html else None))


def _chosen(data: bytes, named: str | None) -> Decoded:
    """Return the text of ``data``, which may say a codec."""
    utf8 = _utf8(data, named)
    return utf8 or (_as_named(data, named) if named else None) or _mostly_utf8(data) or _detected(data)


def _not_text(path: Path) -> DocumentError:
    return DocumentError(path, "binary data, not text")


def _is_binary(data: bytes) -> bool:
    """Return whether ``data``, or its begin, has more controls than a damaged text has."""
    head = data[:512]
    return _controls(data) > 2 + len(data) // 100 or _controls(head) > 2 + len(head) // 20


def _controls(data: bytes) -> int:
    """Return the number of controls that no text has. A run of NULs counts once, because it is one hole in a log."""
    holes = len(re.findall(rb"\0+", data)) if b"\0" in data else 0
    return len(data.translate(None, _NO_CONTROLS)) + holes


def _wide(data: bytes) -> str | None:
    """Return the codec of a text in UTF-16 or UTF-32 without a mark. The upper bytes of a text have few values."""
    if data.count(0) * 4 < len(data) and not _is_binary(data):  # a log with a hole in it
        return None
    sample = data[:_SAMPLE_BYTES]
    if len(sample.translate(None, _NO_LETTERS)) > 0.6 * len(sample):
        return None
    if len(sample) < 4 or (len(sample) % 2 and len(sample) < 64):  # too little, and half of a character at its end
        return None
    upper_first = len(set(sample[::2])) < len(set(sample[1::2]))
    order = "be" if upper_first else "le"
    return next((codec for codec in (f"utf-32-{order}", f"utf-16-{order}") if _is_usual(sample, codec)), None)


def _is_usual(sample: bytes, codec: str) -> bool:
    """Return whether ``codec`` gives characters of texts. The sample may end in a character."""
    width = 4 if codec.startswith("utf-32") else 2
    try:
        text = sample[: len(sample) // width * width].decode(codec)
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:
            return False
        text = sample[: error.start].decode(codec)
    if not text:
        return False
    return max(len(script.findall(text)) for script in _SCRIPTS) >= 0.95 * len(text)


def _shifted(data: bytes) -> str | None:
    """Return the codec of a text that is ASCII with escapes: ISO-2022, as in Japanese and Korean mails."""
    if (b"\x1b$" not in data and b"\x1b(J" not in data) or not data.isascii():
        return None
    for codec in ("iso2022_jp_ext", "iso2022_kr"):
        try:
            text = data[:_SAMPLE_BYTES].decode(codec, "replace" if len(data) > _SAMPLE_BYTES else "strict")
        except UnicodeDecodeError:
            continue
        if not text.isascii() and text.count("\ufffd") * 20 <= len(text):
            return codec
    return None


def _utf8(data: bytes, named: str | None) -> Decoded | None:
    """Return the text if all of it is UTF-8, unless it is so short that it may be an Asian encoding that it names."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if len(data) - len(text) < 8 and not data.isascii() and named in _MULTIPLE.values():
        return None
    return _decoded(text, "utf-8", data)


def _as_named(data: bytes, codec: str) -> Decoded | None:
    """Return the text in the encoding that the file says, if nearly all of it can be decoded."""
    found = data.decode(codec, "replace")
    if found.count("\ufffd") * 20 > sum(len(run) for run in re.findall(rb"[\x80-\xff]+", data)):
        return None
    return _decoded(found, codec, data)


def _named(data: bytes, is_html: bool) -> str | None:
    """Return the codec of the encoding that a file says, if it is an older encoding."""
    head = data[:_HEAD_BYTES]
    found = _XML.search(head) or (is_html and _META.search(_COMMENT.sub(b"", head))) or _CODING.search(head)
    if not found:
        return None
    return _codec_of(found[1].decode())


def _codec_of(named: str) -> str | None:
    return _SINGLE.get(_plain(named)) or _MULTIPLE.get(_plain(named))


def _plain(named: str) -> str:
    return re.sub(r"[^a-z0-9]", "", named.lower())


def _mostly_utf8(data: bytes) -> Decoded | None:
    """Return the text if there are more than twice as many sound characters of UTF-8 beyond ASCII as broken ones.

    If there are at least as many, what is not UTF-8 is text of Windows, unless all of it is of an Asian encoding.
    The last character may be cut. If it is the only one, two of its bytes are evidence.
    """
    text = data.decode("utf-8-sig", "replace")
    broken = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    sound = len(text) - len(text.encode("ascii", "ignore")) - broken
    if _ends_cut(data):
        broken -= 1
        sound += 1
    if sound > 2 * broken:
        return _decoded(text, "utf-8", data)
    if sound < broken or detect(data) in _MULTIPLE.values():
        return None
    mixed = _decoded(data.decode("utf-8-sig", _OTHER_BYTES), "utf-8", data)
    return replace(mixed, left_out=(*mixed.left_out, f"{number(broken, 'character')} read as cp1252, not as utf-8"))


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    """Return the bytes that are not UTF-8 as text of Windows, for `codecs.register_error`."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


_OTHER_BYTES = "smart_rag.as_windows"
codecs.register_error(_OTHER_BYTES, _as_windows)


def _ends_cut(data: bytes) -> bool:
    """Return whether the file ends within a character of UTF-8, and that is no letter of an older encoding."""
    tail = data[-3:]
    lead = max((i for i, byte in enumerate(tail) if byte >= 0xC2), default=None)
    if lead is None:
        return False
    begun = tail[lead:]
    try:
        begun.decode()
    except UnicodeDecodeError as error:
        is_cut = error.reason == "unexpected end of data"
        return is_cut and (len(begun) > 1 or not data[:-1].isascii() or begun in (b"\xc2", b"\xc3"))
    return False


def _detected(data: bytes) -> Decoded:
    codec = detect(data)
    if codec == "iso8859-15" and _SIGNS_OF_WINDOWS.search(data):  # which ISO 8859 lacks
        codec = "cp1252"
    found = _decoded(data.decode(codec, "replace"), codec, data)
    return replace(found, left_out=(*found.left_out, f"read as {codec}, which is a guess")) if codec in OLD else found


def _decoded(text: str, codec: str, data: bytes) -> Decoded:
    """Return the text without its NULs, and count them and what could not be decoded."""
    left_out = []
    if codec in _WITH_CONTROLS:  # no text has these characters, so it is of another encoding
        text = text.translate(_NO_CHARACTERS)
    lost = text.count("\ufffd")
    if lost:
        lost -= data.count("\ufffd".encode(codec)) if codec.startswith(("utf", "gb18030")) else 0
    if lost > 0:
        left_out.append(f"{number(lost, 'character')} could not be decoded as {codec}")
    nuls = text.count("\0")
    if nuls:
        text = _NULS.sub(" ", text)
        left_out.append(f"{number(nuls, 'NUL character')} left out")
    return Decoded(text, codec, tuple(left_out))
