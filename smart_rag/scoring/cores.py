"""The threads that score blocks of documents, one on each core."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache


def core_count() -> int:
    """Return the number of cores that this process may use. A smaller ``OMP_NUM_THREADS`` limits it, as in torch."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(allowed, max(1, int(asked))) if asked.isdecimal() else allowed


@lru_cache(maxsize=1)
def cores() -> ThreadPoolExecutor:
    """Return a thread pool with a thread for each core. The threads sleep while they have nothing to do."""
    return ThreadPoolExecutor(core_count(), "smart_rag")


def _forget_threads() -> None:
    """Forget the parent's threads in a forked process, because they do not exist in this process."""
    cores.cache_clear()
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
