"""Page of a file: every format is read as one or more pages."""

from __future__ import annotations

from dataclasses import dataclass

from smart_rag.types import ImageSource


@dataclass(frozen=True, slots=True)
class Page:
    """A text. If the format has pages, also the 1-based number of the page and its image."""

    text: str
    number: int | None = None
    image: ImageSource | None = None
