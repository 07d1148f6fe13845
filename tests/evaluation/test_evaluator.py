"""BEIR folders in, figures out: metrics and rankings as a plain implementation has them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers.word_encoder import WordEncoder

from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.errors import InvalidInput, SmartRagError
from smart_rag.evaluation.datasets import load_dataset, load_labels
from smart_rag.evaluation.evaluator import evaluate
from smart_rag.index.smart_index import scan_scores

EXACT = IndexConfig(codec="exact")  # as the plain implementation has the tokens
WORDS = [f"word{i}" for i in range(400)]


def write_dataset(folder: Path, corpus, queries, qrels, place="qrels.tsv", header=True) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    if not isinstance(qrels, str):
        lines = ["query-id\tcorpus-id\tscore"] if header else []
        qrels = "".join(line + "\n" for line in [*lines, *("\t".join(map(str, row)) for row in qrels)])
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text(qrels, encoding="utf-8")
    return folder


CORPUS = [
    {"_id": "d1", "title": "Cats", "text": "They purr when they are content."},
    {"_id": "d2", "title": "", "text": "Dogs bark at strangers."},
    {"_id": "d3", "text": "No title here, only taxes."},
    {"_id": "d4", "title": "A title alone", "text": ""},
    {"_id": "d5", "title": None, "text": " "},
]
QUERIES = [
    {"_id": "q1", "text": "what purrs?"},
    {"_id": "q2", "text": "nobody has judged this"},
    {"_id": "q3", "text": "who barks?"},
]
QRELS = [("q1", "d1", 2), ("q1", "d2", 0), ("q3", "d2", 1), ("q9", "d1", 1)]


@pytest.fixture
def small(tmp_path):
    return write_dataset(tmp_path / "small", CORPUS, QUERIES, QRELS)


# --- loading --------------------------------------------------------------------------------


def test_titles_are_joined_and_what_has_no_text_is_left_out(small, caplog):
    dataset = load_dataset(small)
    assert dataset.name == "small"
    assert dataset.documents == [
        Document("d1", "Cats They purr when they are content."),
        Document("d2", "Dogs bark at strangers."),
        Document("d3", "No title here, only taxes."),
        Document("d4", "A title alone"),
    ]
    assert caplog.messages == [f"{small}: 1 documents without text are left out"]


def test_queries_without_a_judgement_are_left_out(small):
    dataset = load_dataset(small)
    assert dataset.queries == {"q1": "what purrs?", "q3": "who barks?"}
    assert dataset.qrels == {"q1": {"d1": 2, "d2": 0}, "q3": {"d2": 1}}


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("place", ["qrels.tsv", "qrels/test.tsv"])
def test_qrels_may_lie_in_either_place_and_have_a_header_or_not(tmp_path, place, header):
    folder = write_dataset(tmp_path / "it", CORPUS, QUERIES, QRELS, place, header)
    assert load_dataset(folder).qrels == {"q1": {"d1": 2, "d2": 0}, "q3": {"d2": 1}}


def test_ids_may_be_numbers(tmp_path):
    folder = write_dataset(tmp_path / "it", [{"_id": 7, "text": "x"}], [{"_id": 1, "text": "y"}], [(1, 7, 1)])
    dataset = load_dataset(folder)
    assert (dataset.documents[0].id, dataset.queries, dataset.qrels) == ("7", {"1": "y"}, {"1": {"7": 1}})


def test_blank_lines_in_jsonl_are_nothing(small):
    corpus = small / "corpus.jsonl"
    corpus.write_text("\n" + corpus.read_text().replace("\n", "\n\n"))
    assert len(load_dataset(small).documents) == 4


def test_queries_are_limited_to_the_first_judged(small):
    assert list(load_dataset(small, 1).queries) == ["q1"]
    assert list(load_dataset(small, 2).queries) == ["q1", "q3"]
    assert list(load_dataset(small, 99).qrels) == ["q1", "q3"]


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(small, name):
    (small / name).unlink()
    with pytest.raises(InvalidInput, match=rf"small/{name} is missing: a BEIR folder holds corpus\.jsonl"):
        load_dataset(small)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"nowhere/qrels\.tsv is missing"):
        load_dataset(tmp_path / "nowhere")


def test_labels_lie_anywhere_and_are_limited_to_the_first_judged(small, tmp_path):
    moved = (small / "qrels.tsv").rename(tmp_path / "labels.tsv")
    assert load_labels(small / "queries.jsonl", moved, 1) == ({"q1": "what purrs?"}, {"q1": {"d1": 2, "d2": 0}})
    moved.write_text("q9\td1\t1\n")
    with pytest.raises(InvalidInput, match=r"no query of queries\.jsonl has a judgement in .*labels\.tsv"):
        load_labels(small / "queries.jsonl", moved)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize("line", ["{not json", "[1, 2]", "3", '"text"', '{"_id": "x"}', '{"text": "x"}', "null"])
def test_a_bad_line_is_named_with_its_number(small, name, line):
    lines = (small / name).read_text().splitlines()
    (small / name).write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(InvalidInput, match=rf"{name}, line 3: expected a JSON object with '_id' and 'text'"):
        load_dataset(small)


@pytest.mark.parametrize("line", ["q1\td1", "q1\td1\thigh", "q1\td1\t0.5", "q1 d1 1", "q1\t0\td1\t1"])
def test_a_bad_line_of_the_qrels_is_named_with_its_number(small, line):
    (small / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\nq1\td1\t1\n{line}\n")
    with pytest.raises(InvalidInput, match=r"qrels\.tsv, line 3: expected query id, document id and a whole grade"):
        load_dataset(small)


def test_a_dataset_without_a_judged_query_is_refused(small):
    (small / "qrels.tsv").write_text("q9\td1\t1\n")
    with pytest.raises(InvalidInput, match=r"small: no query of queries\.jsonl has a judgement"):
        load_dataset(small)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_line_that_is_not_utf_8_is_refused(small, name):
    with (small / name).open("ab") as file:
        file.write('{"_id": "x", "text": "café"}\n'.encode("latin-1"))
    with pytest.raises(InvalidInput, match=name):
        load_dataset(small)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_text_that_is_no_text_is_refused_or_left_out(small, name):
    with (small / name).open("a") as file:
        file.write('{"_id": "q9", "text": null}\n')
    try:
        dataset = load_dataset(small)
    except InvalidInput:
        return
    assert all(document.text != "None" for document in dataset.documents)
    assert None not in dataset.queries.values()


@pytest.mark.parametrize("qrels", ["\nq1\td1\t1\n", "q1\td1\t1\n\n"])
def test_blank_lines_in_qrels_are_nothing(small, qrels):
    (small / "qrels.tsv").write_text(qrels)
    assert load_dataset(small).qrels == {"q1": {"d1": 1}}


def test_a_dataset_without_documents_is_refused(small, tmp_path):
    (small / "corpus.jsonl").write_text('{"_id": "d1", "text": ""}\n')
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index, pytest.raises(SmartRagError):
        evaluate(load_dataset(small), index)


def test_an_empty_query_is_refused_before_the_work(small, tmp_path):
    with (small / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q9", "text": " "}\n')
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        with pytest.raises(InvalidInput):
            evaluate(load_dataset(small), index)
        assert index.count() == 0


# --- evaluating -----------------------------------------------------------------------------


def plain_metrics(qrels, run) -> dict[str, float]:
    """trec_eval's measures, written out: the mean over the judged queries."""
    totals = {"ndcg@10": 0.0, "recall@10": 0.0, "recall@100": 0.0, "mrr@10": 0.0}
    for query, grades in qrels.items():
        ranked = run[query]
        gain = sum(max(grades.get(id, 0), 0) / math.log2(i + 2) for i, id in enumerate(ranked[:10]))
        best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
        ideal = sum(grade / math.log2(i + 2) for i, grade in enumerate(best[:10]))
        relevant = {id for id, grade in grades.items() if grade > 0}
        if relevant:
            totals["ndcg@10"] += gain / ideal
            totals["recall@10"] += len(relevant & set(ranked[:10])) / len(relevant)
            totals["recall@100"] += len(relevant & set(ranked[:100])) / len(relevant)
        for i, id in enumerate(ranked[:10]):
            if id in relevant:
                totals["mrr@10"] += 1 / (i + 1)
                break
    return {name: total / len(qrels) for name, total in totals.items()}


def plain_runs(dataset, encoder, top_k, candidates, weights=(1, 2)) -> dict[str, dict[str, list[str]]]:
    """The rankings by plain loops over the encoder's outputs, tokens as float16 as they are stored."""
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
                # No two of different grades are so close that float32 could not tell them apart.
                same = grades.get(a, 0) == grades.get(b, 0)
                assert same or not 1e-9 < abs(of_kind[a] - of_kind[b]) < 2e-6, (kind, query_id, a, b)
            runs[kind][query_id] = ranked[:top_k]
    return runs


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """150 documents of random words; a query's words are in its relevant documents, the more the better the grade."""
    random = np.random.default_rng(3)
    corpus = [[str(word) for word in random.choice(WORDS, 12)] for _ in range(150)]
    queries, qrels = [], []
    for i in range(10):
        words = [str(word) for word in random.choice(WORDS, 4, replace=False)]
        queries.append({"_id": f"q{i}", "text": " ".join(words)})
        for document in random.choice(150, 14, replace=False).tolist():
            grade = int(random.integers(0, 4)) if i else 0  # no document is relevant for the first query
            corpus[document][:grade] = words[:grade]
            qrels.append((f"q{i}", f"d{document:03}", grade))
    documents = [{"_id": f"d{i:03}", "title": words[0], "text": " ".join(words[1:])} for i, words in enumerate(corpus)]
    return load_dataset(write_dataset(tmp_path_factory.mktemp("graded") / "random words", documents, queries, qrels))


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with SmartIndex.create(tmp_path_factory.mktemp("evaluation") / "index", WordEncoder(), config=EXACT) as index:
        yield index


@pytest.fixture(scope="module")
def result(graded, index):
    return evaluate(graded, index)


def test_every_metric_of_every_run_is_as_a_plain_implementation_has_it(graded, result):
    runs = plain_runs(graded, WordEncoder(), 100, 100)
    for kind, run in runs.items():
        assert result["runs"][kind] == pytest.approx(plain_metrics(graded.qrels, run), abs=1e-6), kind
    # The data can tell the runs, the cut-offs and the grades from one another.
    values = [tuple(result["runs"][kind].values()) for kind in runs]
    assert len(set(values)) == 5
    assert all(0 < value < 1 for of_run in values for value in of_run)
    binary = {query: {id: min(grade, 1) for id, grade in grades.items()} for query, grades in graded.qrels.items()}
    assert plain_metrics(binary, runs["hybrid"])["ndcg@10"] != pytest.approx(result["runs"]["hybrid"]["ndcg@10"])


def test_depth_candidates_and_weights_are_used(graded, index):
    result = evaluate(graded, index, top_k=5, candidates=8, weights=(0.0, 1.0))
    runs = plain_runs(graded, WordEncoder(), 5, 8, (0, 1))
    for kind, run in runs.items():
        assert result["runs"][kind] == pytest.approx(plain_metrics(graded.qrels, run), abs=1e-6)
    assert result["runs"]["hybrid"] == result["runs"]["late"]
    assert result["runs"]["search_pooled"] != result["runs"]["late"]
    assert result["settings"]["top_k"] == 5
    assert result["settings"]["candidates"] == 8
    assert result["settings"]["weights"] == [0.0, 1.0]


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


def test_the_setting_of_the_index_is_measured_unless_another_is_given(graded, tmp_path):
    config = IndexConfig(codec="exact", weights=(1, 1), weighting="none")
    with SmartIndex.create(tmp_path / "index", WordEncoder(), config=config) as index:
        own = evaluate(graded, index)
        assert own["runs"]["hybrid"] == own["runs"]["paper"]
        assert (own["settings"]["weights"], own["settings"]["weighting"]) == ([1, 1], "none")
        given = evaluate(graded, index, weights=(1, 0), weighting="idf")
        assert given["runs"]["hybrid"] == given["runs"]["pooled"] == given["runs"]["search_pooled"]
        assert (given["settings"]["weights"], given["settings"]["weighting"]) == ([1, 0], "idf")


def test_a_large_index_is_not_searched_whole_for_each_query(graded, index, monkeypatch):
    monkeypatch.setattr("smart_rag.index.search.EXHAUSTIVE_DOCUMENTS", 149)
    result = evaluate(graded, index)
    assert result["auto"] == "terms"
    assert list(result["first_stages"]) == ["terms", "pooled"]


def test_rare_words_count_by_the_index_and_not_in_the_paper(tmp_path, minilm):
    """With a model's own tokens, idf and none differ; each run is a ranking by the public scores."""
    names = ["Anna", "Boris", "Chen", "Dana", "Emil", "Fatou", "Gita", "Hugo", "Ines", "Jon"]
    judged = dict(zip(names, names[2:] + names[:2], strict=True))  # not the best document, so that its rank can vary
    things = ["boat", "report", "visit", "lamp", "winter"]
    corpus = [
        {
            "_id": name,
            "text": f"The {things[i % 5]} and the {things[i * i % 5]} of {name}, {names[i - 4]} and the station.",
        }
        for i, name in enumerate(names)
    ]
    queries = [
        {"_id": name, "text": f"what did {name} say of the {things[i * 3 % 5]} and the {things[i % 3]} of the station?"}
        for i, name in enumerate(names)
    ]
    qrels = [(query, document, 1) for query, document in judged.items()]
    dataset = load_dataset(write_dataset(tmp_path / "names", corpus, queries, qrels))
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


def test_queries_in_several_scans_are_ranked_as_in_one(graded, index, result, monkeypatch):
    monkeypatch.setattr("smart_rag.evaluation.evaluator._QUERIES_PER_SCAN", 3)
    assert evaluate(graded, index)["runs"] == result["runs"]


def test_an_index_of_other_documents_is_left_alone(graded, tmp_path):
    with SmartIndex.create(tmp_path / "own", WordEncoder()) as own:
        own.add([Document("mine", "notes of my own")])
        with pytest.raises(InvalidInput, match="not of random words, such as 'mine'"):
            evaluate(graded, own)
        assert own.count() == 1


def test_the_keys_are_those_that_were_promised(result):
    def keys(value):
        return {name: keys(inner) for name, inner in value.items()} if isinstance(value, dict) else None

    metrics = dict.fromkeys(["ndcg@10", "recall@10", "recall@100", "mrr@10"])
    percentiles = dict.fromkeys(["p50", "p95"])
    opened = {name: None if name in ("settings", "versions", "machine") else keys(result[name]) for name in result}
    searches = [f"search_{stage}" for stage in ("terms", "pooled", "exhaustive")]
    figures = dict.fromkeys(["recall_of_best", "documents_scored"])
    latency = dict.fromkeys(["encode", "candidates", "gather", "score", "total"], percentiles)
    assert opened == {
        **dict.fromkeys(["dataset", "model", "settings", "versions", "machine", "documents", "queries", "auto"]),
        "runs": dict.fromkeys(["pooled", "late", "hybrid", "paper", *searches], metrics),
        "differences": dict.fromkeys(
            ["hybrid - pooled", "hybrid - paper", *(f"{name} - hybrid" for name in searches)],
            dict.fromkeys(["ndcg@10", "low", "high", "verdict"]),
        ),
        "first_stages": {stage: {**figures, "latency_ms": latency} for stage in ("terms", "pooled", "exhaustive")},
        "storage": dict.fromkeys(["bytes_per_token", "bytes_per_document", "tokens", "total_bytes"]),
        "ingest": dict.fromkeys(["documents_per_s", "tokens_per_s"]),
    }
    assert json.loads(json.dumps(result)) == result


def test_the_figures_fit_the_index(graded, index, result):
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


def test_latencies_are_of_each_stage_and_of_the_whole(result):
    for figures in result["first_stages"].values():
        latency = figures["latency_ms"]
        for percentiles in latency.values():
            assert 0 < percentiles["p50"] <= percentiles["p95"] < 60_000
        for step in set(latency) - {"total"}:
            for percentile in ("p50", "p95"):
                assert latency[step][percentile] < latency["total"][percentile]


def test_the_speed_of_documents_that_were_there_is_unknown(graded, index, result):
    again = evaluate(graded, index)
    assert again["ingest"] == {"documents_per_s": None, "tokens_per_s": None}
    assert again["runs"] == result["runs"]
    assert again["documents"] == 150


def test_the_command_prints_json_and_nothing_else(small):
    """In a process of its own: what libraries write to the standard output would show."""
    command = [Path(sys.executable).with_name("smart-rag"), "eval", small, "--json", "-", "--limit-queries", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["dataset"], result["model"], result["documents"], result["queries"]) == ("small", "minilm", 4, 1)
    assert result["runs"]["hybrid"]["mrr@10"] == 1.0
    assert "Traceback" not in done.stderr
