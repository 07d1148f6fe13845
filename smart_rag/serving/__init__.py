"""An HTTP server over indexes, for programs in any language. It needs the extra ``serve``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smart_rag.serving.server import serve
    from smart_rag.serving.settings import ServerSettings

# Module of each public name. It is imported when the name is first used, as in `smart_rag`.
_HOMES = {
    "ServerSettings": "settings",
    "serve": "server",
}

__all__ = ["ServerSettings", "serve"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
