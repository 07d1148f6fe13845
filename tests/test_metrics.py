"""The measures of rankings, against plain loops. This file needs no torch: `make test-python` runs it."""

import math
import random

import pytest

from smart_rag.metrics import MEASURES, Metrics


def ndcg(grades, ranked, depth):
    gain = sum(grades.get(id, 0) / math.log2(i + 2) for i, id in enumerate(ranked[:depth]))
    best = sorted(grades.values(), reverse=True)[:depth]
    return gain / sum(grade / math.log2(i + 2) for i, grade in enumerate(best))


def recall(grades, ranked, depth):
    relevant = {id for id, grade in grades.items() if grade > 0}
    return len(relevant & set(ranked[:depth])) / len(relevant)


def reciprocal_rank(grades, ranked, depth):
    return next((1 / i for i, id in enumerate(ranked[:depth], start=1) if grades.get(id, 0) > 0), 0)


PLAIN = {"ndcg@10": (ndcg, 10), "recall@10": (recall, 10), "recall@100": (recall, 100), "mrr@10": (reciprocal_rank, 10)}


@pytest.fixture(scope="module")
def judged():
    """Judgements of 20 queries, and rankings of 150 documents, of which some are judged."""
    dice = random.Random(0)
    ids = [f"d{i}" for i in range(200)]
    qrels = {f"q{i}": {id: dice.choice([0, 1, 1, 2, 3]) for id in dice.sample(ids, 30)} for i in range(20)}
    return qrels, {query: dice.sample(ids, 150) for query in qrels}


def test_each_measure_of_each_query(judged):
    qrels, run = judged
    found = Metrics(qrels).by_query(run)
    assert set(found) == set(MEASURES) == set(PLAIN)
    for name, (measure, depth) in PLAIN.items():
        expected = [measure(grades, run[query], depth) for query, grades in qrels.items()]
        assert len(set(expected)) > 3  # they differ
        assert found[name] == pytest.approx(expected)


def test_the_mean_is_over_all_judged_queries(judged):
    """A query without a ranking counts as 0."""
    qrels, run = judged
    kept = {query: run[query] for query in list(run)[:5]}
    mean = Metrics(qrels, ("ndcg@10",)).mean(kept)
    assert mean == {"ndcg@10": pytest.approx(sum(ndcg(qrels[query], run[query], 10) for query in kept) / len(qrels))}
