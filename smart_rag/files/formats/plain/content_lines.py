"""Content lines, of which calendars (RFC 5545) and address cards (RFC 6350, vCard 2.1) are made."""

from __future__ import annotations

import quopri
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from smart_rag.files.formats.encoding import Decoded, decode_part
from smart_rag.wording import number

# A line that is folded goes on after a blank. In vCard 2.1, the blank belongs to the text.
_FOLD = re.compile(rb"\r?\n[ \t]")
_OLD_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_OLD = b"VERSION:2.1"
_NEWER = re.compile(rb"VERSION:[34]\.0|BEGIN:VCALENDAR", re.IGNORECASE)
_WIDE = (b"\xff\xfe", b"\xfe\xff")
# ``group.NAME;PARAMETER="value":``. The repetitions give nothing back.
_HEAD = re.compile(r'(?:([\w-]+)\.)?+([A-Za-z][A-Za-z0-9_-]*+)((?:;(?:[^":;]|"[^"]*+")*+)*+):')
_PARAMETER = re.compile(r';((?:[^";]|"[^"]*+"?)*+)')
_VALUE = re.compile(r'((?:[^",]|"[^"]*+"?)++)')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_CARET = re.compile(r"\^(['n^])")
_OF_CARET = {"'": '"', "n": "\n", "^": "^"}
_ENCODINGS = ("QUOTED-PRINTABLE", "BASE64", "B", "8BIT", "7BIT")
# Components in components are not followed further. Nobody writes such.
_MOST_DEPTH = 20


@dataclass(slots=True)
class Property:
    r"""A property: its name in capitals, and its value as it is written. Names of parameters are in capitals, too.

    ``is_old`` says that it is of vCard 2.1, where ``\n`` is no end of a line.
    """

    name: str
    value: str
    group: str = ""
    parameters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_old: bool = False

    @property
    def text(self) -> str:
        """The value without escapes."""
        return self._unescaped(self.value)

    def parts(self, separator: str) -> list[str]:
        """Return the parts of the value between separators that no backslash stands before, without escapes."""
        found = re.findall(rf"((?:\\.|[^\\{separator}])*+)(?:{separator}|\\?\Z)", self.value, re.DOTALL)
        return [self._unescaped(part) for part in found]

    def parameter(self, name: str) -> str:
        """Return the first value of a parameter. It is empty if there is none."""
        return next(iter(self.parameters.get(name, ())), "")

    def _unescaped(self, value: str) -> str:
        def letter(match: re.Match[str]) -> str:
            if match[1] in "nN" and not self.is_old:
                return "\n"
            return match[1] if match[1] in '\\;,:"' else match[0]

        return _ESCAPE.sub(letter, value).strip()


@dataclass(slots=True)
class Component:
    """Properties between BEGIN and END, the components in it, and its name in capitals.

    ``is_whole`` is False if the file ends before its END.
    """

    name: str
    properties: list[Property] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    is_whole: bool = False

    def all(self, *names: str) -> Iterator[Property]:
        """Yield the properties with one of these ``names`` that have a value."""
        return (one for one in self.properties if one.name in names and one.value.strip())

    def text(self, name: str) -> str:
        """Return the text of the first property with this ``name``. It is empty if there is none."""
        return next((one.text for one in self.all(name)), "")


def components_of(data: bytes, named: str = "") -> tuple[list[Component], list[str]]:
    """Return the components of ``data`` that lie in no other one, and phrases of what is left out.

    Args:
        data: the lines.
        named: the encoding that is said of them, which may be wrong.
    """
    found = _unfolded(data, named)
    top: list[Component] = []
    inside: list[Component] = []
    words = deep = 0
    is_old = False
    for one in _properties(found.text):
        name = one.value.strip().upper()
        if one.name == "BEGIN":
            inside.append(Component(name))
            if len(inside) > _MOST_DEPTH:
                deep += 1
            else:
                (inside[-2].components if len(inside) > 1 else top).append(inside[-1])
        elif one.name == "END":
            if any(open_one.name == name for open_one in inside[-_MOST_DEPTH:]):
                while inside[-1].name != name:
                    inside.pop()
                inside.pop().is_whole = True
        elif inside:
            is_old = name == "2.1" if one.name == "VERSION" else is_old
            one.is_old = is_old
            inside[-1].properties.append(one)
        else:
            words += len(one.value.split())
    left_out = list(found.left_out)
    left_out += [f"{number(words, 'word')} outside of all entries"] * bool(words)
    left_out += [f"{number(deep, 'entry')} too deep in others"] * bool(deep)
    return top, left_out


def _unfolded(data: bytes, named: str) -> Decoded:
    """Return the text of ``data`` with a line for each property. A line may be folded inside of a character."""
    if data.startswith(_WIDE):
        data = decode_part(data, named).text.encode()
    is_old = _OLD in data.upper() and not _NEWER.search(data)
    return decode_part((_OLD_FOLD if is_old else _FOLD).sub(b"", data), named)


def _properties(text: str) -> Iterator[Property]:
    """Yield the properties of unfolded lines. A line that begins as none belongs to the one before."""
    lines = iter(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    last = Property("", "")
    values: list[str] = []
    for line in lines:
        head = _HEAD.match(line)
        if head is None:
            values += [line] if line.strip() else []
            continue
        yield from _finished(last, values)
        group, name, written = head.groups()
        last = Property(name.upper(), "", group or "", _parameters(written))
        values = [line[head.end() :]]
        if _is_quoted(last) and values[0].endswith("="):
            values = ["".join(_soft_lines(values[0], lines))]
    yield from _finished(last, values)


def _soft_lines(line: str, lines: Iterator[str]) -> Iterator[str]:
    """Yield the parts of a value in quoted-printable: a line that ends with ``=`` goes on."""
    while line.endswith("="):
        yield line[:-1]
        line = next(lines, "")
    yield line


def _finished(last: Property, values: Sequence[str]) -> Iterator[Property]:
    if not values:
        return
    last.value = "\n".join(values)
    if _is_quoted(last):
        # A line that belongs to it may hold letters that are not ASCII, against the rule.
        encoded = quopri.decodestring(last.value.encode())
        last.value = decode_part(encoded, last.parameter("CHARSET")).text
    yield last


def _is_quoted(one: Property) -> bool:
    return one.parameter("ENCODING").upper() == "QUOTED-PRINTABLE"


def _parameters(written: str) -> dict[str, list[str]]:
    """Return the parameters of a property. In vCard 2.1, a parameter may have no name: it is a type or an encoding."""
    found: dict[str, list[str]] = {}
    for parameter in _PARAMETER.findall(written):
        name, has_name, value = parameter.partition("=")
        if not has_name:
            name, value = ("ENCODING" if name.upper() in _ENCODINGS else "TYPE"), name
        values = (
            _CARET.sub(lambda sign: _OF_CARET[sign[1]], one.replace('"', "").strip()) for one in _VALUE.findall(value)
        )
        found.setdefault(name.strip().upper(), []).extend(filter(None, values))
    return found
