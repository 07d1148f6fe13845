"""`Pickled` and `Lock`: how the classes of this package are pickled and copied."""

from __future__ import annotations

import logging
import pickle
import threading
from types import TracebackType
from typing import Any

from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseComponent

logger = logging.getLogger(__name__)


class Pickled(BaseComponent):
    """A component whose pickle holds all its fields, its encoder and its index.

    LlamaIndex's own components leave out what cannot be pickled. When the pickle is read, they use a default instead,
    such as another model. This class raises an error instead.
    """

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = BaseModel.__getstate__(self)
        return {**state, "__dict__": with_callbacks_that_pickle(state["__dict__"])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        BaseModel.__setstate__(self, state)


def with_callbacks_that_pickle(fields: dict[str, Any]) -> dict[str, Any]:
    """Return ``fields``. If their callback manager does not pickle, put in an empty one, as LlamaIndex does."""
    try:
        pickle.dumps(fields.get("callback_manager"))
    except Exception as error:
        logger.warning("the pickle has no callback handlers, because they cannot be pickled (%s)", error)
        return {**fields, "callback_manager": CallbackManager([])}
    return fields


class Lock:
    """A lock that a thread can take twice. Each copy and each pickle has a lock of its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return type(self), ()
