"""Records: keys and values without the signs of JSON; what is no JSON is given as it is."""

from __future__ import annotations

import json

import pytest
from helpers.text_files import write
from hypothesis import given
from hypothesis import strategies as st

from smart_rag.files.formats.plain.records import read_json, read_jsonl


def json_of(path, data):
    (page,) = read_json(write(path, data))
    return page.text


def test_json_becomes_lines_of_keys_and_values(tmp_path):
    text = (
        '{"pump": {"type": "6205-2RS", "price": 1.50, "spares": [1e3, null, true]}, "n\\u00e4me": [], "pump": "again"}'
    )
    assert json_of(tmp_path / "a.json", text).splitlines() == [
        "pump:",
        "  type: 6205-2RS",
        "  price: 1.50",
        "  spares:",
        "    - 1e3",
        "    - null",
        "    - true",
        "näme:",
        "pump: again",
    ]


def test_lists_of_objects_and_of_lists(tmp_path):
    assert json_of(tmp_path / "a.json", '[{"a": "x", "b": 2}, [1, 2], "y", {}]').splitlines() == [
        "- a: x",
        "  b: 2",
        "-",
        "  - 1",
        "  - 2",
        "- y",
        "-",
    ]


@pytest.mark.parametrize("text", ['{"a": 1,}', "// a comment\n{}", "[" * 100_000, "9" * 10_000 + "x"])
def test_what_is_no_sound_json_is_given_as_it_is(tmp_path, text):
    assert json_of(tmp_path / "a.json", text) == text


def test_records_follow_each_other(tmp_path):
    data = '{"id": 1, "text": "a\u2028b"}\r\n\n{"id": 2, "text": "c"}\nnot json\n'
    (page,) = read_jsonl(write(tmp_path / "a.jsonl", data))
    assert page.text == "id: 1\ntext: a\u2028b\n\nid: 2\ntext: c\n\nnot json"


words = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=5)
leaves = words | st.integers() | st.none()
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=8)


@given(values)
def test_all_words_of_any_json_are_there(tmp_path_factory, value):
    text = json_of(tmp_path_factory.mktemp("json") / "a.json", json.dumps(value))

    def check(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                assert key in text
                check(inner)
        elif isinstance(value, list):
            for inner in value:
                check(inner)
        else:
            assert ("null" if value is None else str(value)) in text

    check(value)


def test_far_inside_lines_are_not_set_in(tmp_path):
    """Otherwise the blanks would be a thousand times the file."""
    data = b'{"a":' * 240 + b"[" + b",".join([b"1"] * 5000) + b"]" + b"}" * 240
    path = tmp_path / "a.json"
    path.write_bytes(data)
    (page,) = read_json(path)
    assert page.text.count("- 1") == 5000
    assert len(page.text) < 20 * len(data)


def test_a_damaged_record_is_named(tmp_path):
    lines = ['{"a": 1}', '{"b": bad', '{"c": 2}', "[" * 100_000]
    (page,) = read_jsonl(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert page.text.split("\n\n") == ["a: 1", lines[1], "c: 2", lines[3]]
    assert page.left_out == ("2 damaged records given as plain text: line 2, 4",)
