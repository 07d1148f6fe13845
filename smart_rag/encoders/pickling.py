"""Pickles and copies of encoders, and of objects that hold one: they contain settings and paths, but no weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from smart_rag.encoders.protocol import Encoder
from smart_rag.errors import EncoderError, InvalidInput


class _Nowhere:
    """A file that drops what is written to it."""

    def write(self, data: bytes) -> int:
        return len(data)


def check_pickles(given: object, name: str, advice: str) -> None:
    """Raise `InvalidInput` if ``given``, an object that the caller made, cannot be pickled.

    Args:
        given: the object.
        name: what the message calls the object, such as ``"encoder"``.
        advice: what the caller can do instead.
    """
    try:
        pickle.Pickler(_Nowhere(), pickle.HIGHEST_PROTOCOL).dump(given)
    except Exception as error:
        kind = type(given)
        raise InvalidInput(
            f"the {name} of the class {kind.__module__}.{kind.__qualname__} cannot be pickled ({error}); {advice}, or "
            "give the class a __reduce__ that returns what makes it again"
        ) from error


def made_again(make: Callable[..., Encoder], arguments: Mapping[str, Any], fingerprint: str) -> Encoder:
    """Return the encoder that ``make`` makes with these ``arguments``, which come from a pickle.

    Raises:
        ModelNotFound: the model is not on this machine.
        EncoderError: the new encoder's fingerprint differs from ``fingerprint``, so it has another model than the
            pickled encoder.
    """
    encoder = make(**arguments)
    if encoder.fingerprint != fingerprint:
        raise EncoderError(
            f"the model {arguments['model']!r} here is not the one of the pickled encoder, because it was trained or "
            "replaced; save the pickled encoder's model with encoder.model.save(folder), and pickle "
            "SmartEncoder(folder)"
        )
    return encoder
