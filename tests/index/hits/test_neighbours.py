"""The documents around a hit in its file."""

from __future__ import annotations

import copy
import pickle

import pytest
from helpers.word_encoder import VocabularyEncoder

from smart_rag import Document, IndexConfig, SmartIndex, rerank
from smart_rag.answer import ask
from smart_rag.errors import IndexClosed, InvalidInput
from smart_rag.files.reader import id_of

WORDS = ["boats", "keys", "rain", "pumps", "taxes", "cats", "dogs", "mats"]
SENTENCES = [f"This long sentence says a few things about {word} and nothing else." for word in WORDS]
CONFIG = IndexConfig(chunk_tokens=24, chunk_overlap=12)


@pytest.fixture
def index(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(SENTENCES), encoding="utf-8")
    (tmp_path / "b.txt").write_text("A file with one chunk.", encoding="utf-8")
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder(), config=CONFIG) as index:
        index.add_files([tmp_path / "a.txt", tmp_path / "b.txt"])
        yield index


def hits_of(index, name="a.txt"):
    """Return a hit for each chunk of a file, in the order of the file."""
    return sorted(
        (hit for hit in index.search("things", 99) if hit.source.endswith(name)), key=lambda hit: hit.metadata["chunk"]
    )


@pytest.mark.parametrize("count", [1, 2, 100])
def test_neighbours_come_before_and_after_in_the_file(index, count):
    hits = hits_of(index)
    assert len(hits) > 5
    for i, hit in enumerate(hits):
        expected = [*hits[max(0, i - count) : i], *hits[i + 1 : i + 1 + count]]
        found = hit.neighbours(count)
        assert [document.id for document in found] == [other.id for other in expected]
        assert [document.text for document in found] == [other.text for other in expected]
        assert [document.metadata for document in found] == [other.metadata for other in expected]
    (alone,) = hits_of(index, "b.txt")
    assert alone.neighbours() == []
    assert alone.window() == alone.text


def test_the_window_holds_what_chunks_share_once(index):
    hits = hits_of(index)
    assert hits[0].text[-20:] in hits[1].text  # they share a sentence
    assert hits[3].window(100) == " ".join(SENTENCES)
    assert hits[3].window() == " ".join(SENTENCES[3 - 1 : 3 + 3])


def test_chunks_that_share_nothing_are_on_lines_of_their_own(tmp_path):
    path = tmp_path / "a.txt"
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        texts = ["The data", "area is full", "of water"]
        index.add([Document(id_of(path, i), text, {"source": str(path), "chunk": i}) for i, text in enumerate(texts)])
        (hit,) = index.search("area", 1)
        assert hit.window() == "The data\narea is full\nof water"
        index.delete([id_of(path, 0)])
        assert [document.id for document in hit.neighbours(5)] == [id_of(path, 2)]


def test_pages_are_neighbours(tmp_path):
    """A chunk of the page before is a neighbour, too. A number above 9 comes after 9."""
    path = tmp_path / "a.pdf"
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add(
            Document(id_of(path, i), f"Page {i} of the report", {"source": str(path), "chunk": i, "page": 1 + i})
            for i in range(12)
        )
        hit = next(hit for hit in index.search("page", 12) if hit.page == 10)
        assert [document.metadata["page"] for document in hit.neighbours(2)] == [8, 9, 11, 12]
        assert hit.window().splitlines() == ["Page 8 of the report", "Page 9 of the report", "Page 10 of the report"]


def test_a_document_that_was_not_made_from_a_file_has_none(tmp_path):
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add(
            [
                Document("a", "rain", {"source": "a.txt", "chunk": 1}),
                Document("a.txt#0", "rain", {"source": "a.txt"}),
                Document("a.txt#1", "rain", {"source": "a.txt", "chunk": "1"}),
                Document("a.txt#2", "rain", {"source": "b.txt", "chunk": 2}),
            ]
        )
        for hit in index.search("rain", 4):
            assert hit.neighbours() == []
            assert hit.window() == "rain"


def test_a_hit_that_does_not_know_its_index_says_so(index):
    (hit,) = index.search("rain", 1)
    for copied in (pickle.loads(pickle.dumps(hit)), copy.copy(hit)):
        with pytest.raises(InvalidInput, match="is not from a SmartIndex, or it was copied"):
            copied.neighbours()
    with pytest.raises(InvalidInput, match="which knows no index"):
        rerank("rain", [hit], index.encoder)[0].neighbours()
    assert index.rerank("rain", [hit])[0].neighbours() == hit.neighbours()
    for bad in (0, -1, 1.5, True, 1001):
        with pytest.raises(InvalidInput, match="before_and_after must be"):
            hit.neighbours(bad)


def test_neighbours_are_those_of_now(index):
    hit = hits_of(index)[1]
    before, after = hit.neighbours()
    index.delete([before.id])
    assert hit.neighbours() == [after]
    index.compact()
    assert hit.neighbours() == [after]
    index.close()
    with pytest.raises(IndexClosed):
        hit.neighbours()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_language_model_gets_each_chunk_once(tmp_path, count):
    """Windows of hits that are near each other overlap."""
    parts = [f"Part {number} is about things." for number in range(12)]
    (tmp_path / "a.txt").write_text("\n\n".join(parts))
    config = IndexConfig(chunk_tokens=8, chunk_overlap=0)
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder(), config=config) as index:
        index.add_files([tmp_path / "a.txt"])
        assert index.count() == len(parts)
        for top_k in (2, 5, 12):
            answer = ask(index, "things", llm_url="http://localhost:1", llm_model="m", top_k=top_k, neighbours=count)
            prompt = str(answer.messages)
            hits = index.search("things", top_k)
            assert {part for part in parts if prompt.count(part) > 1} == set()
            assert all(hit.text in prompt for hit in hits)
            assert all(document.text in prompt for document in hits[0].neighbours(count))
