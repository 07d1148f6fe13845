"""The README's code runs, and prints what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, re.DOTALL)
# `expression    # 'value'` at the end of a line says what the expression is.
VALUES = re.compile(r"^(index\..*?) +# ('.*'|\d+)$", re.MULTILINE)


def test_the_first_example_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, output = BLOCKS[0]
    exec(code, {})
    assert capsys.readouterr().out == output
    assert len(output.splitlines()) == 2


@pytest.mark.parametrize(("block", "values"), [(1, 3), (2, 1)])
def test_the_other_examples_are_true(tmp_path, monkeypatch, block, values):
    monkeypatch.chdir(tmp_path)
    code, _ = BLOCKS[block]
    assert len(VALUES.findall(code)) == values
    exec(VALUES.sub(r"assert \1 == \2, \1", code), {})


def test_every_path_exists():
    for path in re.findall(r"\]\((docs/[^)]+|[A-Z]+\.md)\)", README):
        assert (Path(__file__).parent.parent / path).is_file()
