"""What searches have read, in memory: one state, a bound on memory."""

from __future__ import annotations

import sys

import pytest

from smart_rag.store.chroma.known import Known, KnownRow


def row(number, text="text"):
    return KnownRow(bytes([number] * 16), text, {"n": number})


def rows(most_bytes=1 << 20):
    return Known(lambda row: row.size, most_bytes)


@pytest.fixture
def known():
    known = rows()
    known.add((3, 5), {"a": row(1), "b": row(2)})
    return known


def test_rows_are_known_in_their_state_alone(known):
    found = known.get((3, 5), ["b", "c"])
    assert list(found) == ["b"]
    assert found["b"].key == bytes([2] * 16)
    for other in [(3, 6), (4, 5), (3, 4)]:
        assert known.get(other, ["a", "b"]) == {}


@pytest.mark.parametrize("later", [(3, 6), (4, 5)])
def test_a_later_state_forgets_all(known, later):
    known.add(later, {"b": row(3)})
    assert list(known.get(later, ["a", "b"])) == ["b"]
    assert known.get(later, ["b"])["b"].key == bytes([3] * 16)
    assert known.get((3, 5), ["a"]) == {}


def test_a_thread_that_is_late_changes_nothing(known):
    known.add((3, 4), {"a": row(7), "c": row(8)})
    assert list(known.get((3, 5), ["a", "c"])) == ["a"]
    assert known.get((3, 5), ["a"])["a"].key == bytes([1] * 16)
    assert known.get((3, 4), ["c"]) == {}


def test_memory_is_bounded_and_what_came_first_goes_first():
    text = "x" * 3000
    size = row(0, text).size
    assert size > 3000 + sys.getsizeof("")
    known = rows(most_bytes=10 * (size + 100 + sys.getsizeof("24")))
    for i in range(25):
        known.add((0, 0), {f"{i}": row(i, text), f"{i - 1}": row(i - 1 if i else 0, text)})
    assert list(known.get((0, 0), map(str, range(-1, 25)))) == [str(i) for i in range(15, 25)]
    known.add((0, 0), {"large": row(1, 20 * text)})
    assert known.get((0, 0), ["large", "24"]) == {}
