"""`Progress`: how far long work has come, and how fast it goes. It is a bar, or a line in the log from time to time."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

_LOG_SECONDS = 10.0


class Progress:
    """The progress of work on ``total`` units, such as documents. Without a bar, it is logged as information.

    Args:
        total: the number of units. None if it is not known. Then no time left is shown.
        title: what is done, such as ``"indexing on cpu"``.
        unit: the name of one unit, such as ``"document"``.
        show_progress_bar: whether to show a bar on standard error.
        bytes_per_token: the size of a stored token embedding. With it, `encoded` also shows megabytes.
        log_seconds: the seconds between two lines in the log, by default 10.
        done: the number of units that were done before, such as by a work that was interrupted.
    """

    def __init__(
        self,
        total: int | None,
        title: str,
        unit: str,
        show_progress_bar: bool,
        bytes_per_token: float = 0.0,
        *,
        log_seconds: float | None = None,
        done: int = 0,
    ) -> None:
        from tqdm.auto import tqdm

        self._total, self._unit = total, unit
        self._bar: Any = tqdm(total=total, desc=title, unit=f" {unit}s", initial=done, disable=not show_progress_bar)
        self._is_logged = not show_progress_bar
        self._bytes_per_token = bytes_per_token
        self._start = time.monotonic()
        self._log_seconds = _LOG_SECONDS if log_seconds is None else log_seconds
        self._next = self._start + self._log_seconds
        self._done = self._before = done
        self._tokens = 0
        self._state = ""

    def update(self, units: int) -> None:
        """Show that ``units`` more are done."""
        self._bar.update(units)
        self._done += units
        now = time.monotonic()
        if self._is_logged and now >= self._next:
            self._next = now + self._log_seconds
            logger.info(self._line(now - self._start))

    def reached(self, units: int) -> None:
        """Show that ``units`` are done in all."""
        self.update(units - self._done)

    def encoded(self, tokens: int) -> None:
        """Show that ``tokens`` more token embeddings are stored."""
        self._tokens += tokens
        self._bar.set_postfix_str(self._rates(time.monotonic() - self._start), refresh=False)

    def show(self, state: str) -> None:
        """Show the state of the work, such as ``"epoch 2 of 5"``, from the next update on."""
        self._state = state
        self._bar.set_postfix_str(state, refresh=False)

    def _line(self, seconds: float) -> str:
        of = "" if self._total is None else f" of {self._total:,}"
        done = self._done - self._before
        parts = [self._state] if self._state else []
        parts.append(f"{done / seconds:,.1f} a second")
        if self._tokens:
            parts.append(self._rates(seconds))
        if self._total is not None and done:
            parts.append(f"{max(0, self._total - self._done) * seconds / done:,.0f} s left")
        return f"{self._done:,}{of} {self._unit}s done, {', '.join(parts)}"

    def _rates(self, seconds: float) -> str:
        rate = self._tokens / max(seconds, 1e-9)
        size = f", {rate * self._bytes_per_token / 1e6:.2f} MB/s" if self._bytes_per_token else ""
        return f"{rate:,.0f} tokens/s{size}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
