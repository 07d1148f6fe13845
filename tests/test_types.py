"""The records that pass between modules: what they show, and that reports add up."""

import pytest

from smart_rag.types import AddReport, FailedFile, Hit


def hit(**metadata):
    return Hit("a", "text", metadata, score=1.0, pooled_score=0.5, late_score=0.5, rank=1)


def test_hit_shows_source_and_page():
    """A hit shows where it is from, as far as its metadata say."""
    assert (hit(source="a.pdf", page=3).source, hit(source="a.pdf", page=3).page) == ("a.pdf", 3)
    assert (hit().source, hit().page) == (None, None)
    assert hit(source=7).source == "7"
    assert hit(source="").source == ""


@pytest.mark.parametrize("page", ["3", 3.0, None, [3]])
def test_hit_page_is_a_whole_number(page):
    """What is not a whole number is no page."""
    assert hit(page=page).page is None


def test_hit_page_is_no_truth_value():
    """True is no page."""
    assert hit(page=True).page is None


def test_reports_add_up():
    """Reports are added field by field."""
    one, two = FailedFile("a", "empty"), FailedFile("b", "broken")  # type: ignore[arg-type]
    total = AddReport(1, 2, 3, 4, (one,)) + AddReport(10, 20, 30, 40, (two,))
    assert total == AddReport(11, 22, 33, 44, (one, two))
