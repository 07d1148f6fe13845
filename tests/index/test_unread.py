# ruff: noqa: RUF001
"""Texts and questions that the model of an index cannot read: warnings and `Hit.unread`."""

import logging
import re

import pytest
from helpers.five_texts import documents
from helpers.word_encoder import WordEncoder

from smart_rag import CachedEncoder, Content, Document, SmartEncoder, SmartIndex, rerank
from smart_rag.encoders import protocol

CHINESE = [
    Document("c1", "猫坐在垫子上。狗在晚上叫。"),
    Document("c2", "船的钥匙挂在大厅的气压计后面。"),
]
QUESTION = "船的钥匙在哪里？"


@pytest.fixture(scope="module")
def encoder():
    return SmartEncoder("minilm", device="cpu")


@pytest.fixture(autouse=True)
def again():
    """What is said once in a process is said again in each test."""
    protocol.warn_once.cache_clear()


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_indexing_warns_once_with_counts(encoder, tmp_path, caplog):
    """The message has the model, both counts and a model that reads more. Later calls count their own texts."""
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add([*documents(), *CHINESE])
        (warning,) = warnings(caplog)
        assert re.search(r"minilm cannot read 2 of 7 new texts, because its tokenizer .* such as BAAI/bge-m3", warning)
        caplog.clear()
        index.add([*documents(), *CHINESE])  # nothing new
        index.add([Document("new", "A new text in English.")])
        assert warnings(caplog) == []


def test_a_report_names_the_files_that_the_model_cannot_read(encoder, tmp_path, caplog):
    (tmp_path / "english.txt").write_text("The key of the house is on the table.")
    (tmp_path / "digits.txt").write_text("5feceb66ffc86f38d952786c6d696c79" * 9)
    (tmp_path / "joined.txt").write_text("The\u200bkey\u200bof\u200bthe\u200bhouse" * 9, encoding="utf-8")
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        report = index.add_files([tmp_path], exclude=["index"])
    lost = {file.path.name: file.left_out for file in report.read}
    assert lost.pop("english.txt") == ()
    assert {name: [phrase.split(" of ")[1] for phrase in phrases] for name, phrases in lost.items()} == {
        "digits.txt": ["1 passage cannot be read by the model"],
        "joined.txt": ["1 passage cannot be read by the model"],
    }
    assert any("cannot read 2 of 3 new texts" in warning for warning in warnings(caplog))


def test_hits_say_what_is_not_read(encoder, tmp_path, caplog):
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add([*documents(), *CHINESE])
        caplog.clear()
        found = {hit.id: hit.unread for hit in index.search(QUESTION, 10)}
        assert found == {
            **{document.id: ("query",) for document in documents()},
            **{document.id: ("query", "text") for document in CHINESE},
        }
        assert {hit.unread for hit in index.search(Content(QUESTION), 10)} == {("query",), ("query", "text")}
        (warning,) = warnings(caplog)  # of two searches
        assert re.search(r"minilm cannot read a question.*say little.*BAAI/bge-m3", warning)
        english = index.search("Where is the cat?", 10)
        assert {hit.id for hit in english if hit.unread} == {"c1", "c2"}
        assert {hit.unread for hit in index.rerank(QUESTION, english)} == {("query",), ("query", "text")}
        vectors = index.encode_queries([QUESTION])
        assert {hit.unread for hit in index.search(vectors, 10)} == {(), ("text",)}


def test_encoding_questions_says_nothing(encoder, tmp_path, caplog):
    """The calibration encodes questions in many scripts, which the user has not asked."""
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.encode_queries([QUESTION])
    assert warnings(caplog) == []


def test_reranking_without_an_index(encoder):
    texts = [document.text for document in (*documents(), *CHINESE)]
    for one in (encoder, CachedEncoder(encoder)):
        assert [hit.unread for hit in rerank("the cat", texts, one) if hit.unread] == [("text",)] * 2
        assert all("query" in hit.unread for hit in rerank(QUESTION, texts, one))


def test_an_encoder_that_does_not_tell(tmp_path, caplog):
    """An encoder of the user's own needs no `unread`."""
    for name, one in (("own", WordEncoder()), ("cached", CachedEncoder(WordEncoder()))):
        with SmartIndex.create(tmp_path / name, one) as index:
            index.add(CHINESE)
            assert {hit.unread for hit in index.search(QUESTION)} == {()}
    assert not any("cannot read" in warning for warning in warnings(caplog))


def test_no_hit_is_relevant_for_a_question_that_is_not_read(encoder, tmp_path):
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add([*documents(), *CHINESE])
        assert {hit.relevance for hit in index.search(QUESTION, 10)} == {0.0}
        assert index.search(QUESTION, 10, min_relevance=0.1) == []
        assert index.search("Where is the cat?", 1)[0].relevance > 0


def test_converting_warns_and_later_texts_do_not_count_twice(encoder, tmp_path, caplog):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        index.add([*documents(), *CHINESE])
        index.convert(encoder)
        (warning,) = [warning for warning in warnings(caplog) if "cannot read" in warning]
        assert "minilm cannot read 2 of 7 new texts" in warning
        caplog.clear()
        index.add([Document("new", "A new text in English.")])
        assert warnings(caplog) == []
