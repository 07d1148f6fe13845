"""What the tests of pickles and copies of both integrations share."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading

from helpers.word_encoder import WordEncoder
from hypothesis import settings
from hypothesis import strategies as st

from smart_rag.errors import SmartRagError

some = settings(max_examples=25, deadline=None)


class LockedEncoder(WordEncoder):
    """An encoder that cannot be pickled."""

    def __init__(self):
        self.lock = threading.Lock()


def names_of(call):
    """The names of the arguments of a function or a class, without ``self`` and ``**options``."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(call).parameters
    return {name for name, parameter in parameters.items() if parameter.kind not in kinds} - {"self"}


def values(strategies):
    """All arguments, or some of them."""
    return st.fixed_dictionaries(strategies) | st.fixed_dictionaries({}, optional=strategies)


def outcome(call):
    """What a call returns, or the error that it raises."""
    try:
        return call()
    except SmartRagError as error:
        return type(error), str(error)


def holds(given, arguments):
    """Whether an object has the arguments that are plain values."""
    plain = {name: value for name, value in arguments.items() if isinstance(value, int | float | str | tuple | dict)}
    return all(getattr(given, name, value) == value for name, value in plain.items())


def copies(given):
    return [pickle.loads(pickle.dumps(given)), copy.copy(given), copy.deepcopy(given)]
