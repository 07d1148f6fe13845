"""Page of a file. Files of every format are read as one or more pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from smart_rag.types import ImageSource


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
