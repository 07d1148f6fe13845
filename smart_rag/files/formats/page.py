"""Page of a file. Files of every format are read as one or more pages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from smart_rag.types import ImageSource

# A character that a person can see: no white space, no control, no joiner, no filler of zero width.
_VISIBLE = re.compile(
    r"[^\s\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f"
    r"\u205f-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


# Controls, which would reach terminals and language models. Tabs and ends of lines stay. Logs colour their lines by
# sequences that begin with ESC, and a page of a manual prints a letter, goes back and prints it again.
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_TYPED_OVER = re.compile(r"[^\n]\x08")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_ODD = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Ends of lines, and the letters and quotes of Windows where a program took them for Latin-1. HTML says the same.
_MEANT = {0x0B: "\n", 0x0C: "\n"}
_MEANT |= {i: bytes([i]).decode("cp1252") for i in range(0x80, 0xA0) if i not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}


def without_controls(text: str) -> tuple[str, int]:
    r"""Return ``text`` without control characters and lone surrogates, and the number of controls.

    >>> without_controls("a\x00b \x1b[31mred\x1b[0m N\x08NA\tME\x0c 5 \x80")
    ('a b red NA\tME\n 5 €', 4)
    """
    text = text.encode("utf-8", "replace").decode()
    if not _ODD.search(text):
        return text, 0
    text = text.translate(_MEANT)
    count = len(_CONTROL.findall(text))
    if count:
        text = _CONTROL.sub(" ", _TYPED_OVER.sub("", _COLOUR.sub("", text)))
    return text, count


def is_visible(text: str) -> bool:
    r"""Return whether a person sees anything of ``text``. Spaces and characters of zero width cannot be seen.

    >>> is_visible("\u200b.\n"), is_visible("\u200b\ufeff\xad \n")
    (True, False)
    """
    return _VISIBLE.search(text) is not None


@dataclass(frozen=True, slots=True)
class Page:
    """A text, and what belongs to it.

    Attributes:
        text: the text of the page, as a person sees it.
        number: the page's number, from 1 on, if the format has pages. Slides and sheets are pages.
        image: the page's image, if the format has one.
        metadata: what the file says of the page, such as the subject of a mail. It becomes metadata of the documents.
        header: a text that each chunk of the page begins with, such as the first row of a sheet.
        left_out: what the page has and ``text`` lacks, each a phrase without a full stop, such as ``"3 characters
            could not be decoded"``. The report names the file and the page with it.
    """

    text: str
    number: int | None = None
    image: ImageSource | None = None
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    header: str = ""
    left_out: tuple[str, ...] = ()
