"""The page's search and its explanations: all that was scored, with the scores of the Python API."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from helpers.served import problem_of, server
from helpers.word_encoder import WordEncoder

from smart_rag import Document, SmartIndex
from smart_rag.serving.inspector.queries import Recent

WORDS = ("boat", "keys", "harbour", "engine", "seal", "lamp", "battery", "pump", "winch", "mast")


def documents(count):
    random = np.random.default_rng(7)
    return [
        Document(f"d{i:03}", " ".join(random.choice(WORDS, random.integers(3, 9))), {"part": i % 3})
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finding") / "words.index"
    with SmartIndex.create(folder, WordEncoder()) as index:
        index.add(documents(60))
    return folder


@pytest.fixture(scope="module")
def index(folder):
    with SmartIndex.open(folder, WordEncoder()) as index:
        yield index


@pytest.fixture(scope="module")
def client(folder):
    # At most 20 hits: then an exhaustive search of 60 passages sends only the best.
    with server({"words": SmartIndex.open(folder, WordEncoder())}, max_hits=20) as client:
        yield client


def found(client, **body):
    answer = client.post("/indexes/words/inspector/search", json={"query": "boat keys", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def order(hits, weights):
    """Rank as the page does."""
    return [
        hit["id"]
        for hit in sorted(
            hits, key=lambda hit: (-round(weights[0] * hit["pooled"] + weights[1] * hit["late"], 6), hit["id"])
        )
    ]


def test_all_documents(folder, index):
    with server({"words": SmartIndex.open(folder, WordEncoder())}) as client:
        answer = found(client)
    assert (answer["mode"], len(answer["hits"]), answer["last"]) == ("all", 60, None)
    assert [hit["id"] for hit in answer["hits"]] == sorted(hit["id"] for hit in answer["hits"])
    for weights in ((1, 0), (0, 1), (1, 2), (0.3, 0.7)):
        expected = index.search("boat keys", 60, weights=weights)
        assert order(answer["hits"], weights) == [hit.id for hit in expected]


@pytest.mark.parametrize("stage", ["pooled", "terms"])
def test_all_candidates(client, index, stage):
    """The candidates do not depend on the weights, so one answer has the hits for any weights."""
    answer = found(client, first_stage=stage, candidates=12)
    assert (answer["mode"], len(answer["hits"])) == ("candidates", 12)
    assert len(found(client, first_stage=stage, candidates=99)["hits"]) == answer["limit"] == 20
    for weights in ((1, 0), (0, 1), (1, 2)):
        expected = index.search("boat keys", 12, candidates=12, first_stage=stage, weights=weights)
        assert order(answer["hits"], weights) == [hit.id for hit in expected]


def test_the_best_of_many(client, index):
    """What is not in the answer scores at most what the last ones of both rankings would score together."""
    answer = found(client, first_stage="exhaustive", candidates=10)
    assert answer["mode"] == "best"
    assert 10 <= len(answer["hits"]) <= 30
    for weights in ((1, 0), (0, 1), (1, 2), (0.5, 0.5)):
        bound = np.dot(weights, answer["last"])
        expected = index.search("boat keys", 60, weights=weights)
        certain = [hit.id for hit in expected if hit.score > bound + 1e-6]
        assert order(answer["hits"], weights)[: len(certain)] == certain
    assert order(answer["hits"], (1, 2))[:10] == [hit.id for hit in index.search("boat keys", 10)]


def test_filters(client, folder):
    answer = found(client, first_stage="pooled", where={"part": {"$eq": 1}}, where_document={"$contains": "pump"})
    assert answer["hits"]
    by_id = {document.id: document for document in documents(60)}
    assert all(by_id[hit["id"]].metadata["part"] == 1 and "pump" in hit["text"] for hit in answer["hits"])
    answer = found(
        client, first_stage="exhaustive", candidates=5, where={"part": 2}, where_document={"$contains": "pump"}
    )
    assert {by_id[hit["id"]].metadata["part"] for hit in answer["hits"]} == {2}
    assert found(client, where={"part": 99})["hits"] == []


def test_refusals(client):
    for body in (
        {"query": ""},
        {"candidates": 0},
        {"first_stage": "none"},
        {"image": "../x"},
        {"x": 1},
    ):
        answer = client.post("/indexes/words/inspector/search", json={"query": "boat", **body})
        assert problem_of(answer)["status"] == 422
    answer = client.post("/indexes/words/inspector/search", json={"query": "boat", "image": "0" * 64})
    assert problem_of(answer)["status"] == 409
    answer = client.post("/indexes/words/inspector/images", content=b"no image")
    assert "no JPEG, PNG, GIF or WebP" in problem_of(answer)["detail"]
    answer = client.post("/indexes/words/inspector/images", content=b"\x89PNG\r\n\x1a\nnothing")
    assert "smart_rag_question" not in problem_of(answer)["detail"]
    answer = client.post("/indexes/words/inspector/matches", json={"query": "boat", "id": "gone"})
    assert problem_of(answer)["status"] == 404
    assert client.get("/inspector/examples").status_code == 404  # only under the name of the index


def test_matches(tmp_path, minilm):
    """The bytes hold the similarities of `Explanation`, and the places count as JavaScript does."""
    text = "🚤 Boats 🚤 need a pump. The seawater pump has new bearings."
    index = SmartIndex.create(tmp_path / "one.index", minilm)
    index.add([Document("one", text, {"source": "a.md"})])
    explanation = index.search("Which pump has bearings?")[0].explain()
    with server({"one": index}) as client:
        data = client.post(
            "/indexes/one/inspector/matches", json={"query": "Which pump has bearings?", "id": "one"}
        ).content
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    q, n = explanation.similarities.shape
    assert (header["kind"], header["text"], header["count"], len(header["tokens"])) == ("text", text, n, q)
    spans = np.frombuffer(data, "<i4", 2 * n, 4 + length).reshape(n, 2)
    cells = np.frombuffer(data, np.uint8, q * n, 4 + length + 8 * n).reshape(q, n)
    assert len(data) == 4 + length + 8 * n + q * n
    values = header["minimum"] + cells / 255 * (header["maximum"] - header["minimum"])
    assert values == pytest.approx(explanation.similarities, abs=0.004)
    wide = text.encode("utf-16-le")
    for (start, stop), origin in zip(spans.tolist(), explanation.origins, strict=True):
        assert wide[2 * start : 2 * stop].decode("utf-16-le") == text[slice(*origin.span)]
    for token, match in zip(header["tokens"], explanation.matches, strict=True):
        assert (token["weight"], token["similarity"]) == pytest.approx((match.weight, match.similarity))
        assert explanation.origins[token["best"]] == match.document
    assert [token["text"] for token in header["tokens"]] == ["Which", "pump", "has", "bearings", "?"]
    assert sum(token["weight"] * token["similarity"] for token in header["tokens"]) == pytest.approx(
        header["late"], abs=1e-3
    )


def test_a_model_without_places(client):
    """It says so in a sentence, and the scores stay."""
    data = client.post("/indexes/words/inspector/matches", json={"query": "boat", "id": "d001"}).content
    header = json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])
    assert header["kind"] == "none"
    assert "token_origins" in header["reason"]
    assert header["late"] > 0


def test_weights_are_saved(tmp_path):
    with SmartIndex.create(tmp_path / "weights.index", WordEncoder()) as made:
        made.add(documents(3))
    with server({"words": SmartIndex.open(tmp_path / "weights.index", WordEncoder())}) as client:
        answer = client.put("/indexes/words/inspector/weights", json={"weights": [3, 1.5]})
        assert answer.json() == {"weights": [3.0, 1.5]}
        assert found(client)["weights"] == [3.0, 1.5]
        refused = client.put("/indexes/words/inspector/weights", json={"weights": [0, 0]})
        assert problem_of(refused)["status"] == 422
        assert len(client.get("/indexes/words/inspector/examples").json()["examples"]) == 3


def test_only_the_last_queries_are_kept():
    recent = Recent(2)
    for key in "abac":
        recent.put(key, key.upper())
    assert [recent.get(key) for key in "abc"] == ["A", None, "C"]
