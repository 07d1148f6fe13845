"""Weights from labelled queries: they are found where they matter, and a difference by chance is called noise."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from helpers.word_encoder import WordEncoder

from smart_rag import Document, IndexConfig, Representation, SmartIndex
from smart_rag.config import DEFAULT_WEIGHTS
from smart_rag.errors import InvalidInput
from smart_rag.evaluation import tune
from smart_rag.evaluation.tuner import RATIOS, Setting, relevant_scores
from smart_rag.index.smart_index import scan_scores

COUNT = 60


class Planted(WordEncoder):
    """Tokens find the one word that a query shares with its document. The pooled embedding is strong noise."""

    fingerprint = "planted"

    def encode_query(self, texts):
        tokens = super().encode_query(texts).tokens
        pooled = np.stack([np.random.default_rng(zlib.crc32(t.encode())).choice([-1.0, 1.0], 8) for t in texts])
        return Representation.from_embeddings(np.pad(pooled, ((0, 0), (0, self.dimension - 8))), list(tokens))

    encode_document = encode_query


def planted(folder, encoder, config=None):
    """Return an index of documents of five words, queries that share words with one of them, and the qrels."""
    random = np.random.default_rng(7)
    words = [f"word{i}" for i in range(300)]
    texts = [" ".join(random.choice(words, 5, replace=False)) for _ in range(COUNT)]
    index = SmartIndex.create(folder, encoder, config=config)
    index.add([Document(f"d{i}", text) for i, text in enumerate(texts)])
    queries = {f"q{i}": f"{text.split()[0]} {text.split()[3]} any{i}" for i, text in enumerate(texts)}
    return index, queries, {f"q{i}": {f"d{i}": 1} for i in range(COUNT)}


@pytest.fixture
def late_only(tmp_path):
    index, queries, qrels = planted(tmp_path / "index", Planted(), IndexConfig(weights=(2, 1), chunk_tokens=77))
    with index:
        yield index, queries, qrels


def plain_ndcg(index, queries, qrels, weights):
    """Return nDCG@10 of each query by loops over the scores; each query has one relevant document, of grade 1."""
    values = []
    for id, text in queries.items():
        scores = {}
        for block in scan_scores(index, index.encode_queries([text]), weighting="none"):
            for name, pooled, late in zip(block.ids, block.pooled[0], block.late[0], strict=True):
                scores[name] = weights[0] * float(pooled) + weights[1] * float(late)
        ranked = sorted(scores, key=lambda name: (-round(scores[name], 6), name))[:10]
        [relevant] = qrels[id]
        values.append(1 / np.log2(2 + ranked.index(relevant)) if relevant in ranked else 0.0)
    return values


def test_a_low_pooled_weight_is_chosen_where_the_pooled_embedding_is_noise(late_only):
    index, queries, qrels = late_only
    found = tune(index, queries, qrels)
    assert (found.current, found.queries) == (Setting((2, 1), "idf"), COUNT)
    assert found.choice.weights[0] / sum(found.choice.weights) <= 0.2
    assert found.held_out.verdict == "better"
    assert found.is_worth_it
    assert 0.1 < found.held_out.low < found.held_out.mean < found.held_out.high
    assert found.held_out.mean < found.in_sample == found.scores[found.choice] - found.scores[found.current]
    assert index.manifest.config.weights == (2, 1)  # the index does not change


def test_the_score_of_each_setting_is_that_of_plain_loops(late_only):
    index, queries, qrels = late_only
    found = tune(index, queries, qrels)
    assert {setting.weights for setting in found.scores} == {*RATIOS}
    for weights in [(0, 1), (1, 1), (2, 1), (1, 0)]:
        plain = sum(plain_ndcg(index, queries, qrels, weights)) / COUNT
        # WordEncoder's tokens have no vocabulary ids, so these two weightings rank the same.
        plainly = {setting: score for setting, score in found.scores.items() if setting.weighting != "contrast"}
        of_ratio = [score for setting, score in plainly.items() if setting.weights == weights]
        assert of_ratio == pytest.approx([plain] * len(of_ratio), abs=1e-6), weights
        assert len(of_ratio) == (1 if weights == (1, 0) else 2)


def test_equal_settings_keep_the_current_one(tmp_path):
    """A text of one word: its pooled embedding is its token embedding, so every setting ranks the same."""
    with SmartIndex.create(tmp_path / "index", WordEncoder(), config=IndexConfig(codec="exact")) as index:
        index.add([Document(f"d{i:02}", f"word{i}") for i in range(40)])
        labels = {f"q{i}": {f"d{(i + i % 3) % 40:02}": 1} for i in range(40)}
        found = tune(index, {f"q{i}": f"word{i}" for i in range(40)}, labels)
    assert len({round(score, 9) for score in found.scores.values()}) == 1
    assert found.choice == found.current == Setting(DEFAULT_WEIGHTS, "idf")
    assert (found.held_out.low, found.held_out.high, found.held_out.p, found.verdict) == (0, 0, 1, "noise")
    assert not found.is_worth_it


@pytest.mark.parametrize("seed", range(3))
def test_random_labels_are_noise(late_only, seed):
    index, queries, _ = late_only
    others = np.random.default_rng(seed).permutation(COUNT).tolist()
    found = tune(index, queries, {id: {f"d{i}": 1} for id, i in zip(queries, others, strict=True)}, seed=seed)
    assert found.verdict == "noise"
    assert not found.is_worth_it


def test_fewer_than_30_queries_are_refused(late_only):
    index, queries, qrels = late_only
    some = dict(list(queries.items())[:30])
    assert tune(index, some, qrels).queries == 30
    with pytest.raises(InvalidInput, match="at least 30 queries with a relevant document in the index, got 29"):
        tune(index, some, {**qrels, "q3": {"d3": 0}})


def test_folds_and_repeats_are_checked(late_only):
    index, queries, qrels = late_only
    with pytest.raises(InvalidInput, match=r"folds must be between 2 and the number of queries \(60\), got 61"):
        tune(index, queries, qrels, folds=61)
    with pytest.raises(InvalidInput, match="repeats"):
        tune(index, queries, qrels, repeats=0)


def test_qrels_of_other_documents_are_refused(late_only):
    index, queries, _ = late_only
    with pytest.raises(
        InvalidInput, match=r"no judged document of the 60 queries is in the index; the qrels must use the document"
    ):
        tune(index, queries, {id: {"elsewhere": 1} for id in queries})


def test_grades_of_0_and_below_are_not_taken_for_other_documents(late_only):
    index, queries, qrels = late_only
    with pytest.raises(InvalidInput, match=r"in the index, got 0 \(60 queries without a relevant document, such as"):
        tune(index, queries, {id: dict.fromkeys(grades, -2) for id, grades in qrels.items()})


def test_an_empty_index_is_refused(tmp_path):
    with (
        SmartIndex.create(tmp_path / "index", WordEncoder()) as index,
        pytest.raises(InvalidInput, match="holds no documents; add those that the queries ask for"),
    ):
        tune(index, {"q": "word1"}, {"q": {"d": 1}})


def test_settings_are_sorted_by_their_distance_to_the_defaults(late_only):
    """Of equal settings, the first one is chosen. The current one comes before all others."""
    index, queries, qrels = late_only

    def distance(setting):
        return abs(math.atan2(*setting.weights) - math.atan2(1, 2))

    found = tune(index, queries, qrels)
    order = [distance(setting) for setting in list(found.scores)[1:]]
    assert order == sorted(order)
    assert next(iter(found.scores)) == found.current


def test_judgements_of_documents_that_the_index_lacks_are_left_out_and_counted(late_only):
    index, queries, qrels = late_only
    known = tune(index, dict(list(queries.items())[:45]), qrels)
    assert known.notes == ()
    moved = {id: {f"gone-{id}": 2} for id in qrels}
    moved |= {id: {**qrels[id], "gone": 1} for id in list(qrels)[:45]}
    found = tune(index, queries, moved)
    assert (found.queries, found.scores, found.choice) == (45, known.scores, known.choice)
    assert found.notes == (
        "60 judgements of documents that the index lacks, such as 'gone'; they are left out",
        "15 queries without a relevant document, such as 'q45'; left out",
    )
    few = {id: grades if i < 29 else {"gone": 1} for i, (id, grades) in enumerate(qrels.items())}
    with pytest.raises(InvalidInput, match=r"in the index, got 29 \(31 judgements of documents that the index lacks"):
        tune(index, queries, few)


def test_a_query_that_is_a_document_does_not_find_itself(tmp_path):
    """Itself would be the best hit of each query, whatever the weights."""
    index, queries, qrels = planted(tmp_path / "index", Planted(), IndexConfig(weights=(2, 1), chunk_tokens=77))
    with index:
        index.add([Document(id, text) for id, text in queries.items()])
        found = tune(index, queries, qrels)
        assert found.notes == (
            "60 queries with the id and the text of a document, such as 'q0'; their rankings leave it out",
        )
        assert max(found.scores.values()) > 0.9
        index.set_weights((0, 1), "none")
        assert len(relevant_scores(index, queries, qrels)) == COUNT
