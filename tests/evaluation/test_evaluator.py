"""Evaluation of an index: every ranking against plain loops, and the figures beside the rankings."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from helpers.word_encoder import WordEncoder

from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.config import EXHAUSTIVE_DOCUMENTS
from smart_rag.errors import InvalidInput
from smart_rag.evaluation import Dataset, evaluate, evaluate_runs, read_run
from smart_rag.evaluation.evaluator import exhaustive_rankings
from smart_rag.evaluation.metrics import Metrics
from smart_rag.index.smart_index import scan_scores

EXACT = IndexConfig(codec="exact")  # float16, like the plain implementation
WORDS = [f"word{i}" for i in range(400)]
QUERY_IDS = [f"q{i}" for i in range(10)]


def plain_runs(dataset, encoder, top_k, candidates, weights=(1, 2)) -> dict[str, dict[str, list[str]]]:
    """Return the rankings by plain loops over the encoder's outputs, with tokens in float16 as they are stored."""
    runs = {"pooled": {}, "late": {}, "hybrid": {}, "paper": {}, "search_pooled": {}}
    documents = {d.id: encoder.encode_document([d.text]) for d in dataset.documents}
    for query_id, text in dataset.queries.items():
        query = encoder.encode_query([text])
        grades = dataset.qrels[query_id]
        scores = {kind: {} for kind in runs}
        for id, document in documents.items():
            pooled = float(np.dot(query.pooled[0].astype(float), document.pooled[0].astype(float)))
            best = []
            for token in query.tokens[0]:
                cosines = [float(np.dot(token.astype(float), other)) for other in document.tokens[0].astype(np.float16)]
                best.append(max(cosines))
            late = sum(best) / len(best)
            scores["pooled"][id], scores["late"][id], scores["paper"][id] = pooled, late, pooled + late
            scores["hybrid"][id] = weights[0] * pooled + weights[1] * late
        first = sorted(scores["pooled"], key=scores["pooled"].get, reverse=True)[: max(candidates, top_k)]
        scores["search_pooled"] = {id: scores["hybrid"][id] for id in first}
        for kind, of_kind in scores.items():
            ranked = sorted(of_kind, key=lambda name: (-round(of_kind[name], 6), name))
            for a, b in pairwise(ranked[: top_k + 1]):
                # Documents of different grades are either equal, or further apart than float32 rounds.
                same = grades.get(a, 0) == grades.get(b, 0)
                assert same or not 1e-9 < abs(of_kind[a] - of_kind[b]) < 2e-6, (kind, query_id, a, b)
            runs[kind][query_id] = ranked[:top_k]
    return runs


@pytest.fixture(scope="module")
def graded():
    """150 documents of random words. The better its grade, the more words of the query a document contains."""
    random = np.random.default_rng(3)
    corpus = [[str(word) for word in random.choice(WORDS, 12)] for _ in range(150)]
    queries, qrels = {}, {}
    for i in range(10):
        words = [str(word) for word in random.choice(WORDS, 4, replace=False)]
        queries[f"q{i}"] = " ".join(words)
        grades = qrels.setdefault(f"q{i}", {})
        for document in random.choice(150, 14, replace=False).tolist():
            grade = int(random.integers(0, 4)) if i else 0  # no document is relevant for the first query
            corpus[document][:grade] = words[:grade]
            grades[f"d{document:03}"] = grade
    documents = [Document(f"d{i:03}", " ".join(words)) for i, words in enumerate(corpus)]
    return Dataset("random words", documents, queries, qrels)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with SmartIndex.create(tmp_path_factory.mktemp("evaluation") / "index", WordEncoder(), config=EXACT) as index:
        yield index


@pytest.fixture(scope="module")
def result(graded, index):
    return evaluate(graded, index)


def test_every_run_ranks_like_the_plain_loops(graded, result):
    runs = plain_runs(graded, WordEncoder(), 100, 100)
    for kind, run in runs.items():
        assert result["runs"][kind] == pytest.approx(Metrics(graded.qrels).mean(run), abs=1e-6), kind
    # The data can tell the runs and the measures apart.
    values = [tuple(result["runs"][kind].values()) for kind in runs]
    assert len(set(values)) == 5
    assert all(0 < value < 1 for of_run in values for value in of_run)


def test_depth_candidates_and_weights_are_used(graded, index):
    result = evaluate(graded, index, top_k=5, candidates=8, weights=(0.0, 1.0))
    runs = plain_runs(graded, WordEncoder(), 5, 8, (0, 1))
    for kind, run in runs.items():
        expected = Metrics(graded.qrels, ("ndcg@5", "recall@5", "mrr@5")).mean(run)
        assert result["runs"][kind] == pytest.approx(expected, abs=1e-6)
    assert set(result["differences"]["hybrid - pooled"]) == {"ndcg@5", "low", "high", "p", "verdict"}
    assert result["runs"]["hybrid"] == result["runs"]["late"]
    assert result["runs"]["search_pooled"] != result["runs"]["late"]
    assert result["settings"]["top_k"] == 5
    assert result["settings"]["candidates"] == 8
    assert result["settings"]["weights"] == [0.0, 1.0]


def test_measures_are_chosen_and_the_rankings_written_as_run_files(graded, index, result, tmp_path):
    """Figures that are computed from the run files are the same."""
    chosen = evaluate(graded, index, measures=["AP", "R@120", "P@5"], save_runs=tmp_path / "runs")
    assert chosen["settings"]["top_k"] == 120
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {f"{name}.run" for name in chosen["runs"]}
    assert list(chosen["runs"]["hybrid"]) == ["AP", "R@120", "P@5"]
    assert set(chosen["differences"]["hybrid - pooled"]) == {"AP", "low", "high", "p", "verdict"}
    runs = {name: read_run(tmp_path / "runs" / f"{name}.run") for name in chosen["runs"]}
    read = evaluate_runs(graded, runs, measures=["AP", "R@120", "P@5"])
    for key in ("runs", "intervals", "by_query", "judgements", "corpus"):
        assert read[key] == chosen[key]
    assert result["corpus"] == chosen["corpus"]
    for name, of_run in result["by_query"].items():
        for measure, values in of_run.items():
            assert sum(values.values()) / 10 == pytest.approx(result["runs"][name][measure])


def test_ids_that_a_run_file_cannot_hold_are_found_before_the_work(tmp_path):
    odd = Dataset("odd", [Document("a b", "word1")], {"q": "word1"}, {"q": {"a b": 1}})
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        with pytest.raises(InvalidInput, match="the document id 'a b' is empty or has a blank"):
            evaluate(odd, index, save_runs=tmp_path / "runs")
        with pytest.raises(InvalidInput, match="unknown measure 'nDGC@10': did you mean nDCG"):
            evaluate(odd, index, measures=["nDGC@10"])
        assert index.count() == 0


def test_recall_is_the_share_of_the_exhaustive_best_among_the_candidates(graded, index):
    found = evaluate(graded, index, candidates=20, top_k=3)["first_stages"]
    runs = plain_runs(graded, WordEncoder(), 20, 20)
    recalls = []
    for query, ranked in runs["hybrid"].items():
        recalls.append(sum(id in runs["search_pooled"][query] for id in ranked[:10]) / 10)
    assert found["pooled"]["recall_of_best"] == pytest.approx(sum(recalls) / len(recalls))
    assert 0 < found["pooled"]["recall_of_best"] < 1
    assert found["exhaustive"]["recall_of_best"] == 1
    assert [figures["documents_scored"] for figures in found.values()] == [20, 20, 150]


def test_the_weights_of_the_index_are_the_default(graded, tmp_path):
    config = IndexConfig(codec="exact", weights=(1, 1), weighting="none")
    with SmartIndex.create(tmp_path / "index", WordEncoder(), config=config) as index:
        own = evaluate(graded, index)
        assert own["runs"]["hybrid"] == own["runs"]["paper"]
        assert (own["settings"]["weights"], own["settings"]["weighting"]) == ([1, 1], "none")
        given = evaluate(graded, index, weights=(1, 0), weighting="idf")
        assert given["runs"]["hybrid"] == given["runs"]["pooled"] == given["runs"]["search_pooled"]
        assert (given["settings"]["weights"], given["settings"]["weighting"]) == ([1, 0], "idf")


def test_a_large_index_is_not_searched_whole_for_each_query(tmp_path):
    documents = [Document(f"d{i}", f"word{i}") for i in range(EXHAUSTIVE_DOCUMENTS + 1)]
    large = Dataset("large", documents, {"q": "word7"}, {"q": {"d7": 1}})
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        result = evaluate(large, index, top_k=5)
    assert result["auto"] == "terms"
    assert list(result["first_stages"]) == ["terms", "pooled"]
    assert result["runs"]["hybrid"] == {"ndcg@5": 1, "recall@5": 1, "mrr@5": 1}


def test_hybrid_weights_query_tokens_by_idf_and_paper_does_not(tmp_path, minilm):
    """With the tokens of a real model, the two weightings rank differently."""
    names = ["Anna", "Boris", "Chen", "Dana", "Emil", "Fatou", "Gita", "Hugo", "Ines", "Jon"]
    judged = dict(zip(names, names[2:] + names[:2], strict=True))  # not the best document, so that its rank can vary
    things = ["boat", "report", "visit", "lamp", "winter"]
    documents = [
        Document(name, f"The {things[i % 5]} and the {things[i * i % 5]} of {name}, {names[i - 4]} and the station.")
        for i, name in enumerate(names)
    ]
    queries = {
        name: f"what did {name} say of the {things[i * 3 % 5]} and the {things[i % 3]} of the station?"
        for i, name in enumerate(names)
    }
    dataset = Dataset("names", documents, queries, {query: {document: 1} for query, document in judged.items()})
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add(dataset.documents)
        encoded = index.encode_queries(list(dataset.queries.values()))
        plain = {}
        for weighting in ("idf", "none"):
            [block] = scan_scores(index, encoded, weighting=weighting)
            gains = []
            for row, name in zip(block.pooled + block.late, names, strict=True):
                ranked = [id for _, id in sorted(zip(-row, block.ids, strict=True))]
                gains.append(1 / math.log2(2 + ranked.index(judged[name])))
            plain[weighting] = pytest.approx(sum(gains) / len(gains))
        found = evaluate(dataset, index, weights=(1, 1))
    assert found["runs"]["hybrid"]["ndcg@10"] == plain["idf"]
    assert found["runs"]["paper"]["ndcg@10"] == plain["none"]
    assert found["runs"]["hybrid"]["ndcg@10"] != plain["none"]
    assert found["differences"]["hybrid - paper"]["verdict"] == "too few queries"


def test_queries_in_several_scans_are_ranked_as_in_one(graded, index, result):
    options = (graded, index, 100, (1.0, 2.0), "idf")
    in_one, in_four = exhaustive_rankings(*options), exhaustive_rankings(*options, queries_per_scan=3)
    assert in_four == in_one
    assert Metrics(graded.qrels).mean(in_one["hybrid"]) == result["runs"]["hybrid"]


def test_an_index_with_other_documents_is_refused(graded, tmp_path):
    with SmartIndex.create(tmp_path / "own", WordEncoder()) as own:
        own.add([Document("mine", "notes of my own")])
        with pytest.raises(
            InvalidInput, match="documents that are not in random words, such as 'mine', which would be ranked"
        ):
            evaluate(graded, own)
        assert own.count() == 1


def test_the_keys_are_the_documented_ones(result):
    def keys(value):
        return {name: keys(inner) for name, inner in value.items()} if isinstance(value, dict) else None

    metrics = dict.fromkeys(["ndcg@10", "recall@10", "recall@100", "mrr@10"])
    percentiles = dict.fromkeys(["p50", "p95"])
    opened = {name: None if name in ("settings", "versions", "machine") else keys(result[name]) for name in result}
    searches = [f"search_{stage}" for stage in ("terms", "pooled", "exhaustive")]
    figures = dict.fromkeys(["recall_of_best", "documents_scored"])
    latency = dict.fromkeys(["encode", "candidates", "gather", "score", "total"], percentiles)
    assert opened == {
        **dict.fromkeys(
            ["dataset", "model", "settings", "versions", "machine", "documents", "queries", "notes", "auto", "corpus"]
        ),
        "judgements": dict.fromkeys(QUERY_IDS),
        "by_query": dict.fromkeys(
            ["pooled", "late", "hybrid", "paper", *searches], dict.fromkeys(metrics, dict.fromkeys(QUERY_IDS))
        ),
        "runs": dict.fromkeys(["pooled", "late", "hybrid", "paper", *searches], metrics),
        "differences": dict.fromkeys(
            ["hybrid - pooled", "hybrid - paper", *(f"{name} - hybrid" for name in searches)],
            dict.fromkeys(["ndcg@10", "low", "high", "p", "verdict"]),
        ),
        "intervals": dict.fromkeys(
            ["pooled", "late", "hybrid", "paper", *searches], dict.fromkeys(metrics, dict.fromkeys(["low", "high"]))
        ),
        "first_stages": {stage: {**figures, "latency_ms": latency} for stage in ("terms", "pooled", "exhaustive")},
        "storage": dict.fromkeys(["bytes_per_token", "bytes_per_document", "tokens", "total_bytes"]),
        "ingest": dict.fromkeys(["documents_per_s", "tokens_per_s"]),
    }
    assert json.loads(json.dumps(result)) == result


def test_sizes_and_counts_are_those_of_the_index(graded, index, result):
    assert (result["dataset"], result["model"]) == ("random words", "words")
    assert (result["documents"], result["queries"]) == (150, 10)
    info, storage = index.info(), result["storage"]
    assert storage["tokens"] == sum(len(document.text.split()) for document in graded.documents)
    assert storage["total_bytes"] == pytest.approx(info.token_bytes + info.pooled_bytes, rel=0.2)
    assert storage["bytes_per_document"] == pytest.approx(storage["total_bytes"] / 150)
    assert storage["bytes_per_token"] == pytest.approx(info.token_bytes / storage["tokens"], rel=0.2)
    assert storage["bytes_per_token"] > 2 * WordEncoder.dimension
    assert result["ingest"]["tokens_per_s"] == pytest.approx(12 * result["ingest"]["documents_per_s"])
    assert {"smart-rag", "torch", "chromadb", "lmdb", "numpy", "sentence-transformers"} <= set(result["versions"])
    assert result["machine"]["cores"] >= 1


def test_each_step_takes_less_time_than_the_whole(result):
    for figures in result["first_stages"].values():
        latency = figures["latency_ms"]
        for percentiles in latency.values():
            assert 0 < percentiles["p50"] <= percentiles["p95"] < 60_000
        for step in set(latency) - {"total"}:
            for percentile in ("p50", "p95"):
                assert latency[step][percentile] < latency["total"][percentile]


def test_no_speed_of_documents_that_were_already_in_the_index(graded, index, result):
    again = evaluate(graded, index)
    assert again["ingest"] == {"documents_per_s": None, "tokens_per_s": None}
    assert again["runs"] == result["runs"]
    assert again["documents"] == 150


def test_documents_that_the_model_cannot_read_are_named(tmp_path, caplog):
    documents = [Document("a", "word1"), Document("page", image="page.png"), Document("b", "word2")]
    dataset = Dataset("scans", documents, {"q": "word1"}, {"q": {"a": 1, "page": 1}})
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        found = evaluate(dataset, index)
    assert found["runs"]["hybrid"]["recall@10"] == 0.5
    [note] = found["notes"]
    assert note == "1 document left out, because the model reads only text, such as 'page'; they count as not found"
    assert f"scans: {note}" in caplog.messages


def test_documents_of_which_the_model_reads_none_are_an_error(tmp_path):
    pages = Dataset("scans", [Document("page", image="page.png")], {"q": "word1"}, {"q": {"page": 1}})
    with (
        SmartIndex.create(tmp_path / "index", WordEncoder()) as index,
        pytest.raises(InvalidInput, match="scans: the model reads only text, which no document has; use another model"),
    ):
        evaluate(pages, index)


@pytest.mark.parametrize("others", [[], [Document("other", "word2")]])
def test_a_query_that_is_the_only_document_finds_nothing(tmp_path, others):
    """No ranking has a document for it. Another query is measured as usual."""
    queries, qrels = {"d": "word1"}, {"d": {"gone": 1}}
    if others:
        queries["q"], qrels["q"] = "word2", {"other": 1}
    dataset = Dataset("itself", [Document("d", "word1"), *others], queries, qrels, own_documents={"d": "d"})
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        found = evaluate(dataset, index)
    assert found["runs"]["hybrid"]["ndcg@10"] == (0.5 if others else 0)
    assert found["first_stages"]["pooled"]["recall_of_best"] == 1
    json.dumps(found, allow_nan=False)


def test_a_depth_beyond_the_index_and_beyond_64_bits(tmp_path):
    dataset = Dataset("two", [Document(f"d{i}", f"word{i}") for i in range(2)], {"q": "word1"}, {"q": {"d1": 1}})
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        found = evaluate(dataset, index, top_k=10**20)
    assert found["runs"]["search_pooled"] == {"ndcg@10": 1, "recall@10": 1, "recall@100": 1, "mrr@10": 1}


def test_a_query_does_not_find_itself(graded, tmp_path):
    """As in ArguAna: queries are documents. Each ranking leaves out the document itself, and has the full depth."""
    texts = {document.id: document.text for document in graded.documents}
    queries = {f"d{i:03}": texts[f"d{i:03}"] for i in range(5)}
    qrels = {id: {f"d{140 + i:03}": 1, f"d{120 + i:03}": 2} for i, id in enumerate(queries)}
    plain = Dataset("itself", graded.documents, queries, qrels)
    own = Dataset("itself", graded.documents, queries, qrels, own_documents={id: id for id in queries})
    with SmartIndex.create(tmp_path / "index", WordEncoder(), config=EXACT) as index:
        before, found = evaluate(plain, index, top_k=10), evaluate(own, index, top_k=10)
        rankings = exhaustive_rankings(plain, index, 11, (1, 2), "idf")
        assert all(ids[0] == id for id, ids in rankings["hybrid"].items())
        left = {name: {id: ids[1:] for id, ids in run.items()} for name, run in rankings.items()}
        assert exhaustive_rankings(own, index, 10, (1, 2), "idf") == left
    assert before["notes"] == []
    [note] = found["notes"]
    assert note == "5 queries with the id and the text of a document, such as 'd000'; their rankings leave it out"
    expected = Metrics(qrels, tuple(found["runs"]["hybrid"])).mean(left["hybrid"])
    assert found["runs"]["hybrid"] == pytest.approx(expected)
    for name in ("search_terms", "search_pooled", "search_exhaustive"):
        assert found["runs"][name] == pytest.approx(expected)
