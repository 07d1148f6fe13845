"""Files to text, pages, images and frames.

`FORMATS` lists the suffixes that can be read as text. `jpeg` returns an image as the bytes of a JPEG file. `limits`
changes how much time and memory the reading of a file may take.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smart_rag.files.content import jpeg
    from smart_rag.files.formats.known import FORMATS
    from smart_rag.files.worker import limits

# Loaded when first asked for, as in `smart_rag`.
_HOMES = {"FORMATS": "formats.known", "jpeg": "content", "limits": "worker"}

__all__ = ["FORMATS", "jpeg", "limits"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"smart_rag.files.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
