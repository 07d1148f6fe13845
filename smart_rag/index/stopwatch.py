"""`Stopwatch`: the time that each stage of a call takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Milliseconds of each stage: one number for each run of the stage."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Measure the block, and add its time to ``stage``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.milliseconds[stage].append(1e3 * (time.perf_counter() - started))

    def each(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Yield ``items``, and add the time to get each item to ``stage``."""
        started = time.perf_counter()
        for item in items:
            self.milliseconds[stage].append(1e3 * (time.perf_counter() - started))
            yield item
            started = time.perf_counter()
