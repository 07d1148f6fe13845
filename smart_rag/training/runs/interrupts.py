"""`uninterrupted`: a block of code that Ctrl-C does not cut in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from smart_rag.training.runs import processes


@contextmanager
def uninterrupted(*, in_all: bool = False) -> Iterator[None]:
    """Delay Ctrl-C until the ``with`` block ends. The block should be short.

    So a change of several things happens whole or not at all. If the program handles Ctrl-C itself, and in threads
    other than the main one, which Ctrl-C never reaches, this does nothing.

    With ``in_all``, all processes of a training run the block, and Ctrl-C in one of them ends it in all.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed during the block.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        if in_all and processes.any_of(False):
            raise KeyboardInterrupt
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    stop = False
    try:
        yield
        stop = in_all and processes.any_of(bool(pressed))
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if stop or pressed:
        raise KeyboardInterrupt
