"""Hard negatives: the best hits of a search that do not answer the query."""

from helpers.word_encoder import WordEncoder

from smart_rag.training import TrainingData
from smart_rag.training.data import TrainingQuery
from smart_rag.training.hard_negatives import mine_negatives
from smart_rag.types import Document


def test_hard_negatives_are_the_best_hits_without_positives_and_their_copies():
    documents = [Document(name, text) for name, text in [
        ("a", "the cat sat on the mat"), ("same", "the cat sat on the mat"), ("b", "the cat sat"),
        ("c", "a cat"), ("d", "taxes are due"), ("e", "rain falls")]]  # fmt: skip
    queries = [TrainingQuery("the cat sat", (0,)), TrainingQuery("taxes are due", (4,), (5,))]
    mined = mine_negatives(TrainingData("x", documents, queries), WordEncoder(), 2)
    names = [[documents[i].id for i in query.negatives] for query in mined.queries]
    assert names[0] == ["b", "c"]  # neither the positive nor its copy
    assert names[1][0] == "e"  # negatives of the data come first
    assert len(names[1]) == 2
    assert "d" not in names[1]
    assert [query.positives for query in mined.queries] == [(0,), (4,)]
