"""`Pattern`: a line of ``.gitignore``, compared with names as Git does it (``wildmatch.c``): as bytes.

pathspec compares a pattern with all that is below a folder, too, so that ``!/docs`` takes ``docs/secrets`` in again.
Git compares with one file or folder at a time.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

_SPECIAL = re.compile(rb"[*?\[\\]")
_CLASSES = {
    b"alnum": string.ascii_letters + string.digits,
    b"alpha": string.ascii_letters,
    b"blank": " \t",
    b"cntrl": "".join(map(chr, (*range(32), 127))),
    b"digit": string.digits,
    b"graph": "".join(map(chr, range(33, 127))),
    b"lower": string.ascii_lowercase,
    b"print": "".join(map(chr, range(32, 127))),
    b"punct": string.punctuation,
    b"space": " \t\n\r",
    b"upper": string.ascii_uppercase,
    b"xdigit": string.hexdigits,
}


@dataclass(frozen=True, slots=True)
class Pattern:
    """A line of a file of patterns.

    Attributes:
        expression: what a path, or a name, is compared with. These are bytes if the line has no wildcards.
        takes: whether the line begins with ``!``, which takes in again what an earlier line leaves out.
        only_folders: whether the line ends with a slash.
        of_path: whether the path below the file's folder is compared. Otherwise, the name alone is.
    """

    expression: bytes | re.Pattern[bytes]
    takes: bool
    only_folders: bool
    of_path: bool

    @classmethod
    def of(cls, line: bytes) -> Pattern | None:
        """Return the pattern in a line. Return None if it has none, or one that matches nothing."""
        if line.startswith(b"#"):
            return None
        text = line.rstrip(b" ")
        if text != line and (len(text) - len(text.rstrip(b"\\"))) % 2:
            text += b" "  # a backslash keeps it
        takes = text.startswith(b"!")
        text = text[takes:]
        only_folders = text.endswith(b"/")
        text = text.removesuffix(b"/")
        of_path = b"/" in text
        try:
            expression = _expression(text.removeprefix(b"/"), of_path)
        except ValueError:
            return None
        return cls(expression, takes, only_folders, of_path) if text else None

    def matches(self, below: bytes, name: bytes, is_folder: bool) -> bool:
        """Return whether the line speaks of the file or folder with this path below the file's folder."""
        if self.only_folders and not is_folder:
            return False
        subject = below if self.of_path else name
        if isinstance(self.expression, bytes):
            return self.expression == subject
        return self.expression.fullmatch(subject) is not None


def _expression(pattern: bytes, of_path: bool) -> bytes | re.Pattern[bytes]:
    """Return a regular expression for a pattern with wildcards, and a pattern without wildcards as it is.

    Each wildcard but the last takes the first place that fits, which is enough. So no name takes long to compare.

    Raises:
        ValueError: the pattern matches nothing.
    """
    special = _SPECIAL.search(pattern)
    if special is None:
        return pattern
    literal = special.start()  # Git compares so much first, and the rest on its own
    parts: list[bytes] = []
    star = stars = -1  # the places in `parts` of the last wildcards: in this name, and for any number of folders
    i = 0
    while i < len(pattern):
        one = pattern[i : i + 1]
        if one == b"*":
            start = i
            while pattern[i : i + 1] == b"*":
                i += 1
            is_name = of_path and i - start > 1 and (start == literal or pattern[start - 1 : start] == b"/")
            slash = re.compile(rb"\\?/").match(pattern, i)
            if is_name and i == len(pattern):
                parts.append(b".*")
            elif is_name and slash:
                i = slash.end()
                if stars >= 0:
                    parts[stars:] = [b"(?>", *parts[stars:], b")"]
                star, stars = -1, len(parts)
                parts.append(b"(?:.*?/)??" if slash.group() == b"/" else b".*?/")
            else:
                if star >= 0:
                    parts[star:] = [b"(?>", *parts[star:], b")"]
                star = len(parts)
                parts.append(b"[^/]*?")
        elif one == b"[":
            members, i = _members(pattern, i + 1)
            parts.append(b"[" + b"".join(b"\\x%02x" % byte for byte in members) + b"]" if members else b"(?!)")
        elif one == b"?":
            i += 1
            parts.append(b"[^/]")
        else:
            i += one == b"\\"
            if i == len(pattern):
                raise ValueError("nothing behind a backslash")
            star = -1 if pattern[i : i + 1] == b"/" else star
            parts.append(re.escape(pattern[i : i + 1]))
            i += 1
    return re.compile(b"".join(parts), re.DOTALL)


def _members(pattern: bytes, i: int) -> tuple[list[int], int]:
    """Return the bytes in the brackets that open before ``i``, and the place behind the brackets.

    Raises:
        ValueError: the brackets do not end, or name a class that there is not.
    """
    excludes = pattern[i : i + 1] in (b"!", b"^")
    i += excludes
    members: set[int] = set()
    previous: int | None = None
    is_first = True
    while is_first or pattern[i : i + 1] != b"]":
        is_first = False
        if (
            pattern[i : i + 2] == b"[:"
            and (end := pattern.index(b"]", i + 2)) > i + 2
            and pattern[end - 1 : end] == b":"
        ):
            name = pattern[i + 2 : end - 1]
            if name not in _CLASSES:
                raise ValueError("no such class")
            members.update(_CLASSES[name].encode())
            previous, i = None, end + 1
            continue
        is_range = pattern[i : i + 1] == b"-" and previous is not None and pattern[i + 1 : i + 2] not in (b"", b"]")
        i += is_range
        i += pattern[i : i + 1] == b"\\"
        if i >= len(pattern):
            raise ValueError("the brackets do not end")
        byte = pattern[i]
        members.update(range(previous, byte + 1) if is_range and previous is not None else (byte,))
        previous = None if is_range else byte
        i += 1
    if excludes:
        members = set(range(256)) - members
    return sorted(members - {ord("/")}), i + 1
