"""Errors are also those of the standard library, and carry what a program needs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from smart_rag import errors


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (errors.InvalidInput, ValueError),
        (errors.IndexNotFound, FileNotFoundError),
        (errors.IndexExists, FileExistsError),
        (errors.MissingExtra, ImportError),
        (errors.DimensionMismatch, errors.InvalidInput),
        (errors.MissingTokens, errors.CorruptStore),
    ],
)
def test_an_error_has_its_base(error, base):
    assert issubclass(error, base)


def test_an_error_carries_its_details():
    document = errors.DocumentError("a.pdf", "no pages in it")
    assert (document.path, document.reason, str(document)) == (Path("a.pdf"), "no pages in it", "a.pdf: no pages in it")
    assert errors.MissingTokens("gone", ["a", "b"]).ids == ("a", "b")
    extra = errors.MissingExtra("av", "video", "reading a.mp4")
    assert (extra.package, extra.extra) == ("av", "video")
    assert str(extra) == (
        "reading a.mp4 needs the package 'av', which is not installed; install it with: pip install 'smart-rag[video]'"
    )


@pytest.mark.parametrize(
    "error",
    [
        errors.DocumentError("a.pdf", "no pages in it"),
        errors.MissingTokens("gone", ["a", "b"]),
        errors.MissingExtra("av", "video", "reading a.mp4"),
        errors.UseAfterFork.of("my.index: the index"),
        errors.IndexNotFound("my.index: no index"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_back_from_another_process(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_the_tree_is_that_of_the_classes():
    """Each line of the docstring names a class, and the lines are aligned."""
    lines = [line for line in errors.__doc__.splitlines() if "──" in line]
    assert {line.split("── ")[1].split()[0] for line in lines} == set(errors.__all__) - {"SmartRagError"}
    columns = {len(line) - len(line.split("  ")[-1].lstrip()) for line in lines}
    assert len(columns) == 1
