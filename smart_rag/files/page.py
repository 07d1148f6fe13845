"""Page of a file. Files of every format are read as one or more pages."""

from __future__ import annotations

from dataclasses import dataclass

from smart_rag.types import ImageSource


@dataclass(frozen=True, slots=True)
class Page:
    """A text. If the format has pages, a `Page` also has the page's number, from 1 on, and its image."""

    text: str
    number: int | None = None
    image: ImageSource | None = None
