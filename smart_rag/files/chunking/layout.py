"""What belongs together in Markdown and in source code: a table, a block of code, a heading and its text, a function.

A splitter cuts a text at line breaks. `joined` hides the line breaks at which it must not cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# A line break that the splitter does not take for one. It is a break between sentences, so it is the next best place.
HIDDEN = "\u2028"
MARKDOWN = frozenset({".md", ".markdown"})
CODE = frozenset(
    {
        *(".c", ".cc", ".cpp", ".h", ".hpp", ".cs", ".go", ".java", ".kt", ".rs", ".scala", ".swift"),
        *(
            ".js",
            ".jsx",
            ".ts",
            ".tsx",
            ".vue",
            ".css",
            ".php",
            ".py",
            ".pyi",
            ".rb",
            ".lua",
            ".pl",
            ".r",
            ".sh",
            ".sql",
        ),
    }
)

_HEADING = re.compile(r" {0,3}#{1,6}(?:\s|$)")
_UNDERLINE = re.compile(r"=+|-+")  # below a heading
_DASHES = re.compile("-{4,}")  # below the names of a table's columns. For some models, each is a token
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
# A line that ends what a line of the same indentation began.
_CLOSING = re.compile(r"\s*(?:[})\]]|end\b|fi\b|done\b|esac\b)")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a text.

    Attributes:
        text: the part.
        joined: the same text, of the same length, in which line breaks are hidden.
        header: a text that each chunk of the part begins with, such as the names of a table's columns.
    """

    text: str
    joined: str
    header: str = ""


def parts_of(text: str, suffix: str, fits: Callable[[str], bool]) -> Iterator[Part]:
    """Yield the parts of a text, in order. A text that is neither Markdown nor source code is one part.

    Args:
        text: the text.
        suffix: the suffix of the file, such as ``".md"``.
        fits: returns whether a text is short enough for one chunk.
    """
    if suffix in MARKDOWN:
        yield from _markdown(text, fits)
    elif suffix in CODE:
        yield Part(text, _code(text, fits))
    else:
        yield Part(text, text)


def _hide(text: str) -> str:
    return text.replace("\n", HIDDEN).replace("\r", HIDDEN)


def _join(text: str) -> str:
    """Return ``text`` with the line breaks in it hidden. The last one stays."""
    body = text.rstrip("\r\n")
    return _hide(body) + text[len(body) :]


def _markdown(text: str, fits: Callable[[str], bool]) -> Iterator[Part]:
    """Yield the parts of a Markdown text. A table that is too long for one chunk is a part of its own.

    The header of this part is the first row, with the headings just before the table.
    """
    kept: list[str] = []
    joined: list[str] = []
    headings = 0  # the number of the last blocks that are headings, or blank lines after headings
    for kind, block in _blocks(text.splitlines(keepends=True)):
        whole = kind in ("table", "fence") and fits(block)
        first, rule, *rows = block.splitlines(keepends=True) if kind == "table" else ("", "")
        if rows and not whole:
            before = len(kept) - headings
            yield Part("".join(kept[:before]), "".join(joined[:before]))
            yield Part("".join(rows), "".join(rows), "".join([*kept[before:], first, _DASHES.sub("---", rule)]))
            kept, joined, headings = [], [], 0
            continue
        if kind == "heading" or (headings and not block.strip()):
            headings += 1
        elif headings:
            heading = kept[-headings:]
            if not whole or fits("".join([*heading, block])):
                joined[-headings:] = map(_hide, heading)
            headings = 0
        kept.append(block)
        joined.append(_join(block) if whole else block)
    yield Part("".join(kept), "".join(joined))


def _blocks(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each block: a heading, a table, a fenced block of code, or a line."""
    i = 0
    while i < len(lines):
        begin, kind = i, "line"
        i += 1
        following = lines[i].strip() if i < len(lines) else ""
        if fence := _FENCE.match(lines[begin]):
            kind = "fence"
            while i < len(lines) and not lines[i].strip().startswith(fence[1]):
                i += 1
            i += 1
        elif _HEADING.match(lines[begin]):
            kind = "heading"
        elif "|" in lines[begin] and "|" in following and "-" in following and not following.strip("|:- \t"):
            kind = "table"
            i += 1
            while i < len(lines) and "|" in lines[i]:
                i += 1
        elif lines[begin].strip() and _UNDERLINE.fullmatch(following):
            kind = "heading"
            i += 1
        yield kind, "".join(lines[begin:i])


def _code(text: str, fits: Callable[[str], bool]) -> str:
    """Return source code in which the line breaks in functions and classes that fit into one chunk are hidden.

    A line and the deeper lines below it belong together, with comments and decorators above it. If they do not fit,
    the same is done for the lines below, once. No grammar is needed for this.
    """
    lines = text.splitlines(keepends=True)
    joined: list[str] = []
    for group in _groups(lines):
        block = "".join(group)
        if fits(block):
            joined.append(_join(block))
            continue
        joined.append(group[0])
        for inner in _groups(group[1:]):
            inner_block = "".join(inner)
            joined.append(_join(inner_block) if fits(inner_block) else inner_block)
    return "".join(joined)


def _groups(lines: list[str]) -> Iterator[list[str]]:
    """Yield the groups of ``lines``: each line with the least indentation of all, and the deeper lines below it."""
    least = min((_indentation(line) for line in lines if line.strip()), default=0)
    group: list[str] = []
    attached = True  # the lines of the group so far are comments or decorators of what comes
    for line in lines:
        is_outer = line.strip() != "" and _indentation(line) <= least
        if is_outer and not attached and not _CLOSING.match(line):
            yield group
            group = []
            attached = True
        group.append(line)
        if line.strip():
            attached = attached and is_outer and line.lstrip().startswith(("@", "#", "//", "/*", "*"))
    if group:
        yield group


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())
