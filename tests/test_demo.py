"""The sample documents hold the answer to each question, and SMART finds more answers than pooling."""

from __future__ import annotations

from pathlib import Path

import pytest

from smart_rag import SmartIndex
from smart_rag.demo import sample_folder, sample_questions
from smart_rag.files.finder import find

QUESTIONS = sample_questions()
DEMO = [question for question in QUESTIONS if question.demo]


@pytest.fixture(scope="module")
def path(minilm, tmp_path_factory):
    """The path of an index of the samples, with default settings."""
    path = tmp_path_factory.mktemp("demo") / "index"
    with SmartIndex.create(path, minilm) as index:
        assert index.add_files([sample_folder()]).failed == ()
    return path


@pytest.fixture(scope="module")
def index(minilm, path):
    with SmartIndex.open(path, minilm) as index:
        yield index


def answers(document, question) -> bool:
    """Whether a document or hit answers the question."""
    return (
        Path(document.metadata["source"]).name == question.source
        and document.metadata.get("page") == question.page
        and question.answer in " ".join(document.text.split())
    )


def ranks(index, weights) -> list[int]:
    """The rank of each question's first answer among all passages."""
    found = index.search_many([q.question for q in QUESTIONS], index.count(), weights=weights, first_stage="exhaustive")
    return [
        next(hit.rank for hit in hits if answers(hit, question))
        for question, hits in zip(QUESTIONS, found, strict=True)
    ]


def mean_reciprocal(ranks: list[int]) -> float:
    return sum(1 / rank for rank in ranks) / len(ranks)


def test_the_samples_are_of_several_formats_and_one_has_pages():
    assert {path.suffix for path in find([sample_folder()]).files} >= {".pdf", ".md", ".txt", ".html"}
    assert {question.page for question in QUESTIONS} > {None, 1, 5}
    assert 3 <= len(DEMO) <= 5
    assert len({question.question for question in QUESTIONS}) == len(QUESTIONS) >= 20


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.question)
def test_every_answer_is_in_a_passage_of_its_source(index, question):
    documents = list(index.documents({"source": str((sample_folder() / question.source).resolve())}))
    assert any(answers(document, question) for document in documents)


def test_smart_ranks_answers_higher_than_the_pooled_vector(index):
    pooled, smart = ranks(index, (1.0, 0.0)), ranks(index, (1.0, 1.0))
    assert mean_reciprocal(smart) > mean_reciprocal(pooled) + 0.1
    assert sum(rank == 1 for rank in smart) > sum(rank == 1 for rank in pooled)


def test_the_questions_of_the_demo_show_the_difference(index):
    """SMART ranks each answer first, and the pooled vector misses some."""
    for question in DEMO:
        assert answers(index.search(question.question)[0], question), question.question
    assert sum(not answers(index.search(q.question, weights=(1.0, 0.0))[0], q) for q in DEMO) >= 2
