"""The code of the README and of docs/models.md runs, and prints what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from smart_rag import Encoder

ROOT = Path(__file__).parent.parent
README, MODELS = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/models.md"))
CODE_AND_OUTPUT = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
BLOCKS = CODE_AND_OUTPUT.findall(README)
# `expression    # 'value'` at the end of a line says what the expression is.
VALUES = re.compile(r"^(index\..*?) +# ('.*'|\d+)$", re.MULTILINE)


def test_the_first_example_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, output = BLOCKS[0]
    for _ in range(2):  # as a cell of a notebook
        exec(code, {})
        assert capsys.readouterr().out == output
    assert len(output.splitlines()) == 2


@pytest.mark.parametrize(("block", "values", "times"), [(1, 3, 2), (2, 1, 1)])
def test_the_other_examples_are_true(tmp_path, monkeypatch, block, values, times):
    monkeypatch.chdir(tmp_path)
    code, _ = BLOCKS[block]
    assert len(VALUES.findall(code)) == values
    for _ in range(times):
        exec(VALUES.sub(r"assert \1 == \2, \1", code), {})


def test_the_encoder_of_docs_models_is_an_encoder(tmp_path, monkeypatch, capsys):
    """It prints what the page says, and has vocabulary ids."""
    monkeypatch.chdir(tmp_path)
    ((code, output),) = CODE_AND_OUTPUT.findall(MODELS)
    names = {}
    exec(code, names)
    assert capsys.readouterr().out == output
    encoder = names["MyEncoder"]()
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode_document(["Keys, please!"])
    assert [id == -1 for id in vectors.tokens.ids] == [False, True, False, True]
    assert encoder.count_tokens(["Keys, please!"]) == [4]


def test_every_path_exists():
    for path in re.findall(r"\]\((docs/[^)]+|[A-Z]+\.md)\)", README):
        assert (ROOT / path).is_file()
