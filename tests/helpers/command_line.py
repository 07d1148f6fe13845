"""Runs of ``smart-rag`` in this process, for the tests of what it prints."""

from __future__ import annotations

import contextlib
import io
import re
import sys

import pytest

from smart_rag.cli import app as cli


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(*arguments, stream=io.StringIO) -> tuple[int, str, str]:
    """Run ``smart-rag`` in this process; return its exit code, standard output and standard error."""
    output, errors = io.StringIO(), stream()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["smart-rag", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as end:
            cli.main()
    return end.value.code or 0, output.getvalue(), errors.getvalue()


def good(*arguments) -> str:
    """What a run that succeeds prints."""
    code, output, errors = run(*arguments)
    assert code == 0, errors
    return output


def error_of(*arguments) -> str:
    """The one line that a run which the user got wrong prints."""
    code, output, errors = run(*arguments)
    assert (code, output) == (1, "")
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1, errors
    return errors


def usage_error_of(*arguments) -> str:
    """What is wrong with the arguments, as typer says it."""
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert "Usage:" in errors
    assert "Traceback" not in errors
    return " ".join(re.sub("[│╭╮╰╯─]", " ", errors).split())
