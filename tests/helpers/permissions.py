"""The rights of another user, because root may read everything."""

from __future__ import annotations

import os
from contextlib import contextmanager


@contextmanager
def as_nobody():
    """Run with the rights of a user who owns nothing, if the tests are run by root."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield
