"""The conventions of BEIR, against mteb's own evaluator: the same run and qrels give the same measures.

To run these tests: pip install 'smart-rag[mteb]', then pytest -m slow tests/evaluation/test_beir_conventions.py
"""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("mteb", reason="mteb's evaluator needs it: pip install 'smart-rag[mteb]'")

from mteb._evaluators.retrieval_evaluator import RetrievalEvaluator

from smart_rag.evaluation import evaluate_runs, load_dataset, read_run

pytestmark = [
    pytest.mark.slow,  # the import of mteb takes long
    pytest.mark.filterwarnings("ignore"),  # of mteb and its dependencies
]

DEPTHS = (1, 3, 5, 10, 100)
# Our names of the measures, and the names of mteb's measures of a query and of their means.
MEASURES = {
    **{f"nDCG@{k}": (f"ndcg_cut_{k}", "ndcg", f"NDCG@{k}") for k in DEPTHS},
    **{f"AP@{k}": (f"map_cut_{k}", "map", f"MAP@{k}") for k in DEPTHS},
    **{f"R@{k}": (f"recall_{k}", "recall", f"Recall@{k}") for k in DEPTHS},
    **{f"P@{k}": (f"P_{k}", "precision", f"P@{k}") for k in DEPTHS},
    **{f"RR@{k}": (None, "mrr", f"MRR@{k}") for k in DEPTHS},
}
QUERIES, DOCUMENTS = 300, 400


@pytest.fixture(scope="module")
def generator():
    return np.random.default_rng(21)


def beir_folder(folder, generator, are_documents: bool):
    """Write a BEIR folder with judgements of documents that are missing, and queries that are judged 0 alone.

    If ``are_documents``, each query is the document with its id, and is not judged, as in ArguAna. Otherwise, queries
    and documents are both counted from 0, as in Cranfield. Return the qrels and a run with scores.
    """
    texts = [" ".join(map(str, generator.integers(0, 1000, 8))) for _ in range(DOCUMENTS)]
    folder.mkdir()
    rows = [json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    queries = {str(i): texts[i] if are_documents else f"question {i}" for i in range(QUERIES)}
    (folder / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": id, "text": text}) for id, text in queries.items())
    )
    qrels, results = {}, {}
    for i, query in enumerate(queries):
        documents = [str(j) for j in generator.permutation(DOCUMENTS + 30)[:12].tolist()]  # 30 are not in the corpus
        documents = [id for id in documents if not are_documents or id != query]
        highest = 0 if i % 25 == 0 else 3
        qrels[query] = {id: int(generator.integers(0, highest + 1)) for id in documents}
        ranked = [str(j) for j in generator.permutation(DOCUMENTS)[:120].tolist()]
        known = [id for id in documents if int(id) < DOCUMENTS][: int(generator.integers(0, 9))]
        best = [query, *known]  # a query finds itself first, and then some of its judged documents
        ranked = [*best, *(id for id in ranked if id not in best)][: int(generator.integers(1, 120))]
        scores = np.sort(generator.random(len(ranked)))[::-1]
        moved = np.clip(scores + 0.05 * generator.standard_normal(len(ranked)), 0, None)  # so that not all are on top
        results[query] = dict(zip(ranked, moved.tolist(), strict=True))
    lines = [f"{query}\t{id}\t{grade}" for query, grades in qrels.items() for id, grade in grades.items()]
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n")
    return qrels, results


@pytest.mark.parametrize("are_documents", [True, False])
def test_the_measures_are_those_of_mteb(tmp_path, generator, are_documents):
    qrels, results = beir_folder(tmp_path / "set", generator, are_documents)
    lines = [f"{q} Q0 {id} 0 {score!r} x" for q, scores in results.items() for id, score in scores.items()]
    (tmp_path / "x.run").write_text("\n".join(lines))
    dataset = load_dataset(tmp_path / "set")
    assert len(dataset.own_documents) == (QUERIES if are_documents else 0)
    run = read_run(tmp_path / "x.run")
    found = evaluate_runs(dataset, {"x": run}, measures=list(MEASURES), top_k=100)
    own = {query: dict(scores) for query, scores in results.items()}
    expected = RetrievalEvaluator.evaluate(
        None, qrels, own, DEPTHS, ignore_identical_ids=are_documents, skip_first_result=False
    )
    for name, (of_query, group, mean) in MEASURES.items():
        assert found["runs"]["x"][name] == pytest.approx(getattr(expected, group)[mean], abs=1.1e-5), name
        assert 0 < found["runs"]["x"][name] < 1, name
        if of_query is not None:
            by_query = {query: values[of_query] for query, values in expected.all_scores.items()}
            assert found["by_query"]["x"][name] == pytest.approx(by_query, abs=1e-9), name
    if are_documents:  # without this convention, the figures are others
        with_own = evaluate_runs(qrels, {"x": run}, measures=["nDCG@10"])
        assert with_own["runs"]["x"]["nDCG@10"] < found["runs"]["x"]["nDCG@10"] - 0.03
    assert any("judgements of documents that the corpus lacks" in note for note in found["notes"])
    assert any("12 queries without a relevant document" in note for note in found["notes"])
