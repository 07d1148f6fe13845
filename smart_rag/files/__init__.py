"""Files into texts, pages, images and frames. `FORMATS` lists the suffixes that can be read as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smart_rag.files.reader import FORMATS

__all__ = ["FORMATS"]


def __getattr__(name: str) -> Any:
    if name == "FORMATS":  # loaded when first asked for, as in `smart_rag`
        from smart_rag.files.reader import FORMATS

        return FORMATS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
