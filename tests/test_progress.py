"""`Progress`: a bar on a terminal, and a line in the log without one."""

import contextlib
import io
import logging
import re

import pytest

from smart_rag.progress import Progress


def shown(steps, **options):
    with (
        contextlib.redirect_stderr(io.StringIO()) as found,
        Progress(8, "indexing", "document", True, **options) as bar,
    ):
        for units, tokens in steps:
            bar.encoded(tokens)
            bar.update(units)
    return found.getvalue()


def test_a_bar_has_documents_tokens_megabytes_and_the_time_left():
    found = shown([(3, 30_000), (5, 50_000)], bytes_per_token=96.0)
    assert "8/8" in found
    assert re.search(
        r"indexing: 100%.*\[\d\d:\d\d<\d\d:\d\d, +[\d.]+k? documents/s, [\d,]+ tokens/s, [\d.]+ MB/s\]", found
    )
    assert "MB" not in shown([(8, 10)])


def test_without_a_bar_the_log_has_a_line_from_time_to_time(caplog, capsys, monkeypatch):
    times = iter([0.0, 5.0, 8.0, 20.0, 21.0, 40.0])
    monkeypatch.setattr("smart_rag.progress.time.monotonic", lambda: next(times))
    with caplog.at_level(logging.INFO, "smart_rag"), Progress(100, "indexing", "file", False, 100.0) as progress:
        progress.update(10)  # at 5 s
        progress.encoded(1000)  # at 8 s
        progress.update(30)  # at 20 s
        progress.update(1)  # at 21 s
        progress.reached(100)  # at 40 s
    assert caplog.messages == [
        "40 of 100 files done, 2.0 a second, 50 tokens/s, 0.01 MB/s, 30 s left",
        "100 of 100 files done, 2.5 a second, 25 tokens/s, 0.00 MB/s, 0 s left",
    ]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("total", [None, 3])
def test_an_unknown_total_has_no_time_left(caplog, monkeypatch, total):
    monkeypatch.setattr("smart_rag.progress._LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "smart_rag"), Progress(total, "writing", "document", False) as progress:
        progress.update(2)
    assert ("left" in caplog.text) == (total is not None)
