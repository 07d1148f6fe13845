"""Rich text (.rtf).

striprtf loses tables, notes and headers, and the text of some files. Other readers mistake code pages. So this module
reads the format itself: groups in braces, control words, and bytes in the code page of their font.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smart_rag.errors import DocumentError
from smart_rag.files.formats.office.symbols import shown
from smart_rag.files.formats.page import Page
from smart_rag.wording import number

_TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|[\r\n\0]+|([^\\{}\r\n\0]+)"
)
# Groups without text that is shown. So are those that begin with \*, except for the ones below.
_UNSEEN = {
    *("colortbl", "stylesheet", "info", "pict", "objdata", "themedata", "colorschememapping", "listtable", "generator"),
    *("listoverridetable", "rsidtbl", "revtbl", "latentstyles", "datastore", "xmlnstbl", "filetbl"),
    *("nonshppict", "bkmkstart", "bkmkend", "private", "atnid", "atndate", "atnref", "datafield", "xe", "tc", "rxe"),
    *("ftnsep", "ftnsepc", "ftncn", "aftnsep", "aftnsepc", "aftncn", "pgdsctbl", "userprops", "wgrffmtfilter", "sp"),
    *("leveltext", "levelnumbers", "listname"),
    *("sn", "nesttableprops", "nonesttables", "shprslt", "template", "operator", "falt", "panose"),
}
_SEEN = {"shppict", "shpinst", "annotation", "footnote", "do", "moMath", "moMathPara"}
# Properties of formulas.
_PROPERTIES = re.compile("m[A-Za-z]*Pr")
# Groups whose text follows the paragraph that they stand in.
_APART = {
    *("footnote", "annotation", "shptxt", "header", "headerl", "headerr", "headerf", "footer", "footerl", "footerr"),
    *("footerf", "dptxbxtext"),
}
_END = "\n\n"
CUT = "what follows, because the file is cut off or damaged"
_TEXTS = {
    **{"par": "\n\n", "sect": "\n\n", "page": "\n\n", "row": "\n\n", "nestrow": "\n", "line": "\n", "lbr": "\n"},
    **{"cell": " | ", "nestcell": " | ", "tab": "\t", "emdash": "\u2014", "endash": "\u2013", "bullet": "\u2022"},
    **{"lquote": "\u2018", "rquote": "\u2019", "ldblquote": "\u201c", "rdblquote": "\u201d", "emspace": "\u2003"},
    **{"enspace": "\u2002", "zwj": "\u200d", "zwnj": "\u200c"},
}
_SIGNS = {b"~": "\xa0", b"_": "\u2011", b"\n": "\n\n", b"\r": "\n\n"}
# A field that shows one sign of a font.
_SYMBOL_FIELD = re.compile(r"\s*SYMBOL\s+(?P<code>0x[0-9a-f]+|[0-9]+)\b", re.IGNORECASE)
_BOX_STATES, _NO_STATE = ("ffres", "ffdefres"), 25
_FIELD_FONT = re.compile(r'\\f\s*"?([^"\\]+)', re.IGNORECASE)
_CHARSETS = {
    **{0: "cp1252", 2: "cp1252", 77: "mac_roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gbk", 136: "big5"},
    **{161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251"},
    **{222: "cp874", 238: "cp1250", 254: "cp437", 255: "cp437"},
}
_ENCODINGS = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}


@dataclass(frozen=True, slots=True)
class _State:
    """What holds within a group.

    Attributes:
        text: what the text of the group is added to, or None if it is not shown.
        in_unicode: what the text is added to that the group also has in Unicode. The other form of it is not shown.
        encoding: that of the font, or empty.
        unicode_bytes: the characters that follow a Unicode character, for older programs.
        hidden: whether the text is hidden.
        font: the name of the font.
        in_fonts: whether the text is a name of a font.
    """

    text: list[str] | None
    in_unicode: list[str] | None = None
    encoding: str = ""
    unicode_bytes: int = 1
    hidden: bool = False
    font: str = ""
    in_fonts: bool = False


def read_rtf(path: Path) -> Iterator[Page]:
    """Yield a rich text as one page. Notes, headers, footers and text boxes follow the paragraph that they stand in.

    Raises:
        DocumentError: the file is no rich text.
    """
    data = path.read_bytes()
    if not data.lstrip()[:4].startswith(b"{\\rt"):
        raise DocumentError(path, "damaged, or not a .rtf file")
    yield page_of_rtf(data)


def page_of_rtf(data: bytes) -> Page:
    """Return the text of a rich text, with what is left out of it: hidden words, and the end of a file that is cut."""
    reader = _Reader()
    reader.read(data)
    hidden = sum(len(part.split()) for part in reader.hidden)
    left_out = [number(hidden, "hidden word")] if hidden else []
    if reader.symbols:
        left_out.append(f"{number(reader.symbols, 'symbol')} of fonts such as Wingdings")
    if reader.embedded:
        left_out.append(f"{number(reader.embedded, 'embedded file')} not read")
    return Page(reader.text(), left_out=(*left_out, *([CUT] if reader.is_cut else [])))


class _Reader:
    def __init__(self) -> None:
        self.hidden: list[str] = []
        self.symbols = 0  # that stand for no character
        self.embedded = 0  # files of other programs
        self.is_cut = False
        self._body: list[str] = []
        self._apart: list[list[str]] = []  # texts that follow the paragraph
        self._state = _State(self._body)
        self._outer: list[_State] = []
        self._encoding = "cp1252"
        self._fonts: dict[int, str] = {}
        self._names: dict[int, list[str]] = {}  # of the fonts
        self._instruction: list[str] = []  # of the field that is read
        self._states: dict[str, int] = {}  # of the last box of a form, and the state before anybody changed it
        self._font = 0
        self._bytes = bytearray()  # of characters that are not yet decoded
        self._to_skip = 0
        self._begins = self._starred = False

    def read(self, data: bytes) -> None:
        place = 0
        while place < len(data):
            token = _TOKEN.match(data, place)
            if token is None:  # a backslash at the end
                break
            place = token.end()
            word, argument, code, sign, brace, plain = token.groups()
            if code:
                self._add_bytes(bytes([int(code, 16)]))
            elif plain:
                self._add_bytes(plain)
            elif word == b"bin":
                size = max(0, int(argument or 0))
                if size > len(data) - place:
                    self.is_cut, size = True, 0
                place += size
            elif word:
                self._do(word.decode(), None if argument is None else int(argument))
            elif sign == b"*":  # elsewhere than at the begin of a group it means nothing
                self._starred = self._begins
            elif sign:
                self._say(_SIGNS.get(sign, sign.decode("ascii", "ignore") if sign in b"\\{}" else ""))
            elif brace:
                self._turn(brace == b"{")
            if token.lastindex:  # else it is the end of a line
                self._begins = brace == b"{"
        self._decode()
        self.is_cut = self.is_cut or bool(self._outer)

    def text(self) -> str:
        found = "".join([*self._body, *self._following()])
        found = found.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # halves of pairs come one by one
        lines = (line.strip(" |\n\t") for line in found.split(_END))
        return _END.join(line for line in lines if line)

    def _turn(self, opens: bool) -> None:
        self._decode()
        self._to_skip, self._starred = 0, False
        if opens:
            self._outer.append(self._state)
        elif self._outer:
            inner, self._state = self._state, self._outer.pop()
            if inner.text is self._instruction and self._state.text is not self._instruction:
                self._do_field("".join(self._instruction))

    def _do(self, word: str, argument: int | None) -> None:
        starred, self._starred = self._starred, False
        if word == "u" and argument is not None:
            self._say(chr(argument % 65536))
            self._to_skip = self._state.unicode_bytes
        elif word in _APART:
            self._open_apart()
        elif word == "upr":  # a text in the code page, and again in Unicode
            self._change(text=None, in_unicode=self._state.text)
        elif word == "ud":
            self._change(text=self._state.in_unicode)
        elif word == "fldinst":
            self._instruction, self._states = [], {}
            self._change(text=self._instruction, font="")
        elif word in _BOX_STATES:
            self._states[word] = argument or 0
        elif word in _UNSEEN or _PROPERTIES.fullmatch(word) or (starred and word not in _SEEN):
            self.embedded += word == "objdata" and self._state.text is not None
            self._change(text=None)
        elif word in ("v", "deleted"):
            self._change(hidden=argument != 0)
        elif word == "uc":
            self._change(unicode_bytes=max(0, argument or 0))
        elif word in _TEXTS:
            self._say(_TEXTS[word])
        else:
            self._do_fonts(word, argument or 0)

    def _do_fonts(self, word: str, argument: int) -> None:
        if word == "fonttbl":
            self._change(text=None, in_fonts=True, font="")
        elif word == "f":
            self._font = argument
            if self._state.in_fonts:
                self._names[argument] = []
                self._change(text=self._names[argument], encoding=self._fonts.get(argument, ""))
            else:
                font = "".join(self._names.get(argument, ())).partition(";")[0]
                self._change(encoding=self._fonts.get(argument, ""), font=font)
        elif word == "fcharset":
            self._fonts[self._font] = _CHARSETS.get(argument, "")
        elif word == "plain":
            self._change(encoding="", hidden=False, font="")
        elif word == "ansicpg" and _is_known(f"cp{argument}"):
            self._encoding = f"cp{argument}"
        elif word in _ENCODINGS:
            self._encoding = _ENCODINGS[word]

    def _do_field(self, instruction: str) -> None:
        """Show the sign or the box that a field asks for. What any other field shows follows it."""
        if instruction.strip().startswith("FORMCHECKBOX"):
            state = next((one for word in _BOX_STATES if (one := self._states.get(word, _NO_STATE)) != _NO_STATE), 0)
            self._say("\u2612" if state else "\u2610")
            return
        found = _SYMBOL_FIELD.match(instruction)
        if found is None or len(found["code"]) > 6:
            return
        code = int(found["code"], 0) if found["code"].lower().startswith("0x") else int(found["code"])
        before, font = self._state, _FIELD_FONT.search(instruction)
        self._state = replace(before, font=font[1] if font else before.font)
        self._say(chr(code))
        self._state = before

    def _open_apart(self) -> None:
        self._decode()
        if self._state.text is not None:
            self._apart.append([])
            self._change(text=self._apart[-1])

    def _change(self, **values: Any) -> None:
        self._decode()
        self._state = replace(self._state, **values)

    def _add_bytes(self, data: bytes) -> None:
        skipped = min(self._to_skip, len(data))
        self._to_skip -= skipped
        self._bytes += data[skipped:]

    def _decode(self) -> None:
        """Add the bytes before this place. A character may have two of them."""
        if self._bytes:
            text = bytes(self._bytes).decode(self._state.encoding or self._encoding, "replace")
            self._bytes.clear()
            self._say(text)

    def _say(self, text: str) -> None:
        if self._bytes:
            self._decode()
        if self._state.text is None:
            return
        if not self._state.in_fonts and self._state.text is not self._instruction:
            text, lost = shown(text, self._state.font)
            self.symbols += lost
        (self.hidden if self._state.hidden else self._state.text).append(text)
        if text == _END and self._state.text is self._body:
            self._body += self._following()

    def _following(self) -> list[str]:
        found = [part for apart in self._apart for part in (_END, *apart, _END)]
        self._apart = []
        return found


def _is_known(encoding: str) -> bool:
    try:
        codecs.lookup(encoding)
    except LookupError:
        return False
    return True
