"""Endpoints: each answers what the same call in Python returns."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.command_line import good
from helpers.five_texts import TEXTS
from helpers.served import Failing, problem_of, server
from helpers.tiny_models import bert
from helpers.word_encoder import TESTS, SeeingEncoder
from PIL import Image

from smart_rag import Document, SmartEncoder, SmartIndex
from smart_rag.json_shapes import hit_json

QUERY = "the cat in the night"


def test_a_search_returns_the_hits_of_python(client, index):
    options = {"where": {"length": {"$gt": 30}}, "weights": [1, 3], "first_stage": "terms"}
    response = client.post("/search", json={"query": QUERY, "top_k": 3, **options})
    assert response.status_code == 200
    found = index.search(QUERY, 3, **{**options, "weights": (1, 3)})
    assert response.json()["hits"] == json.loads(json.dumps([hit_json(hit) for hit in found]))
    assert set(response.json()["milliseconds"]) == {"encode", "candidates", "gather", "score", "texts"}
    assert response.headers["x-content-type-options"] == "nosniff"


def test_defaults_are_those_of_python(client, index):
    hits = client.post("/search", json={"query": QUERY}).json()["hits"]
    assert [(hit["id"], hit["score"]) for hit in hits] == [(hit.id, hit.score) for hit in index.search(QUERY)]


def test_several_queries_at_once(client, index):
    queries = [QUERY, "oil", "April"]
    results = client.post("/search_many", json={"queries": queries, "top_k": 2}).json()["results"]
    expected = index.search_many(queries, 2)
    assert [[hit["id"] for hit in one["hits"]] for one in results] == [[hit.id for hit in hits] for hits in expected]
    assert client.post("/search_many", json={"queries": []}).json() == {"results": []}


def test_the_command_line_prints_the_same_hits(tmp_path):
    with SmartIndex.create(tmp_path / "index", bert(tmp_path / "model")) as made:
        made.add([Document(name, text, {"source": f"/x/{name}.txt"}) for name, text in TEXTS.items()])
    printed = json.loads(good("search", QUERY, "--db", tmp_path / "index", "--json", "-k", 2))
    with SmartIndex.open(tmp_path / "index") as opened, server({"five": opened}) as client:
        hits = client.post("/search", json={"query": QUERY, "top_k": 2}).json()["hits"]
    assert hits == printed
    assert hits[0]["source"] == f"/x/{hits[0]['id']}.txt"


def test_the_relevance_is_known_as_soon_as_the_index_has_a_scale(tmp_path):
    with SmartIndex.create(tmp_path / "index", bert(tmp_path / "model")) as index:
        index.add_texts(list(TEXTS.values()))
        with server({"five": index}) as client:
            assert client.post("/search", json={"query": QUERY}).json()["hits"][0]["relevance"] is None
            index.calibrate()
            hits = client.post("/search", json={"query": QUERY}).json()["hits"]
            expected = index.search(QUERY)
            assert [hit["relevance"] for hit in hits] == [hit.relevance for hit in expected]
            some = client.post("/search", json={"query": QUERY, "min_relevance": hits[1]["relevance"]}).json()["hits"]
            assert [hit["id"] for hit in some] == [hit.id for hit in expected[:2]]
            results = client.post("/v1/rerank", json={"query": QUERY, "documents": list(TEXTS.values())}).json()
            ranked = index.rerank(QUERY, list(TEXTS.values()))
            assert [(one["index"], one["relevance_score"]) for one in results["results"]] == [
                (int(hit.id), hit.relevance) for hit in ranked
            ]


def test_texts_are_ranked(client, index):
    texts = ["rain", *TEXTS.values()]
    hits = client.post("/rerank", json={"query": QUERY, "documents": texts, "top_k": 4}).json()["hits"]
    expected = index.rerank(QUERY, texts, 4)
    assert [(hit["id"], hit["score"], hit["text"]) for hit in hits] == [
        (hit.id, hit.score, hit.text) for hit in expected
    ]
    assert client.post("/rerank", json={"query": QUERY, "documents": []}).json() == {"hits": []}


def test_documents_of_the_index_are_ranked_by_their_ids(client, index):
    hits = client.post("/rerank", json={"query": QUERY, "ids": ["tax", "dog", "cat"]}).json()["hits"]
    scores = {hit.id: hit.score for hit in index.search(QUERY)}
    assert sorted(hit["id"] for hit in hits) == ["cat", "dog", "tax"]
    assert [hit["score"] for hit in hits] == pytest.approx([scores[hit["id"]] for hit in hits], abs=1e-5)
    assert "'absent'" in problem_of(client.post("/rerank", json={"query": QUERY, "ids": ["cat", "absent"]}))["detail"]
    assert client.post("/rerank", json={"query": QUERY}).status_code == 422


def test_a_rerank_request_of_open_webui_is_answered(client, index):
    """It sends a model's name, and reads the scores by their index."""
    texts = list(TEXTS.values())
    body = {"model": "BAAI/bge-reranker-v2-m3", "query": QUERY, "documents": texts, "top_n": len(texts)}
    results = client.post("/v1/rerank", json=body).json()["results"]
    ranked = index.rerank(QUERY, texts)
    assert [one["index"] for one in results] == [int(hit.id) for hit in ranked]
    assert [one["relevance_score"] for one in results] == [hit.relevance for hit in ranked]
    assert all(0 <= one["relevance_score"] <= 1 for one in results)
    assert "document" not in results[0]


def test_a_rerank_request_of_dify_is_answered(client):
    body = {"query": QUERY, "documents": [{"text": "rain"}, "the cat"], "top_n": 1, "return_documents": True}
    assert client.post("/v1/rerank", json={**body, "max_chunks_per_doc": 3}).json()["results"][0]["document"] == {
        "text": "the cat"
    }


def test_an_empty_index_ranks_texts_all_the_same(tmp_path):
    with SmartIndex.create(tmp_path / "index", Failing()) as index, server({"empty": index}) as client:
        body = {"query": "the cat", "documents": ["rain and snow", "the cat"]}
        results = client.post("/v1/rerank", json=body).json()["results"]
        assert [one["index"] for one in results] == [1, 0]
        assert results[0]["relevance_score"] == pytest.approx(1)
        assert client.post("/search", json={"query": "the cat"}).json()["hits"] == []


@pytest.mark.parametrize("input_type", ["query", "document"])
def test_embeddings_in_the_shape_of_openai(client, index, input_type):
    texts = [QUERY, "oil"]
    body = {"model": "any", "input": texts, "input_type": input_type}
    plain = client.post("/v1/embeddings", json=body).json()
    coded = client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    expected = index.encode_queries(texts).pooled
    assert plain["object"] == "list"
    assert [one["index"] for one in plain["data"]] == [0, 1]
    np.testing.assert_allclose([one["embedding"] for one in plain["data"]], expected, atol=1e-7)
    rows = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in coded["data"]]
    np.testing.assert_array_equal(rows, expected)
    assert plain["usage"]["total_tokens"] == 6
    one = client.post("/v1/embeddings", json={"input": "oil", "input_type": input_type}).json()["data"]
    np.testing.assert_allclose(one[0]["embedding"], expected[1], atol=1e-7)


def test_documents_and_queries_have_their_own_prompts(tmp_path):
    encoder = SmartEncoder(bert(tmp_path, prompts={"query": "ask: ", "document": "say: "}), device="cpu")
    with SmartIndex.create(tmp_path / "index", encoder) as index, server({"tiny": index}) as client:
        for kind, function in (("query", encoder.encode_query), ("document", encoder.encode_document)):
            found = client.post("/v1/embeddings", json={"input": "cats", "input_type": kind}).json()["data"]
            np.testing.assert_allclose(found[0]["embedding"], function(["cats"]).pooled[0], atol=1e-5)
        by_default = client.post("/v1/embeddings", json={"input": "cats"}).json()["data"]
        assert by_default == found


@pytest.mark.parametrize(
    ("input", "words"),
    [
        ([[1, 2], [3]], "check_embedding_ctx_length=False"),
        ([], "not empty"),
        (7, "a text"),
        (["a", " "], "text 1 is empty"),
        (["a", None], "something else"),
    ],
)
def test_other_inputs_of_embeddings_are_refused(client, input, words):
    assert words in problem_of(client.post("/v1/embeddings", json={"input": input}))["detail"]
    too_wide = client.post("/v1/embeddings", json={"input": "a", "dimensions": 7})
    assert "dimensions must be 24" in problem_of(too_wide)["detail"]


def test_documents_are_written_read_and_removed(client, index):
    documents = [{"id": "new/one #1?", "text": "quince jelly", "metadata": {"year": 2020}}, {"text": "quince tart"}]
    added = client.post("/documents", json={"documents": documents}).json()
    assert (added["added"], added["ids"][0]) == (2, "new/one #1?")
    assert client.post("/search", json={"query": "quince jelly", "top_k": 1}).json()["hits"][0]["id"] == "new/one #1?"
    read = client.get("/documents/new%2Fone%20%231%3F")
    assert read.json() == {
        **{"id": "new/one #1?", "text": "quince jelly", "metadata": {"year": 2020}},
        **{"image": None, "video": None},
    }
    again = client.post("/documents", json={"documents": documents}).json()
    assert (again["added"], again["unchanged"]) == (0, 2)
    assert index.count() == 7
    removed = client.request("DELETE", "/documents", json={"ids": [*added["ids"], "absent"]})
    assert removed.json() == {"removed": 2}
    assert index.count() == 5
    assert client.get("/documents/new%2Fone%20%231%3F").status_code == 404


def test_other_programs_can_write_while_the_server_runs(client, folder):
    """The server holds the right to write only while it writes."""
    code = (
        "import sys; sys.path += sys.argv[2:]; from helpers.served import Failing; from smart_rag import SmartIndex\n"
        "with SmartIndex.open(sys.argv[1], Failing()) as index: print(index.delete(['other']))"
    )
    client.post("/documents", json={"documents": [{"id": "other", "text": "plum"}]})
    ran = subprocess.run([sys.executable, "-c", code, folder, TESTS], capture_output=True, text=True)
    assert ran.stdout.strip() == "1", ran.stderr
    assert client.get("/documents/other").status_code == 404
    assert client.post("/documents", json={"documents": [{"id": "other", "text": "plum"}]}).json()["added"] == 1
    client.request("DELETE", "/documents", json={"ids": ["other"]})


def test_the_image_of_a_document(tmp_path):
    picture = tmp_path / "blue.png"
    Image.new("RGB", (60, 40), "blue").save(picture)
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as index:
        index.add([Document("blue", "sea", image=picture), Document("text", "no picture")])
        with server({"seen": index}) as client:
            response = client.get("/images/blue")
            assert response.headers["content-type"] == "image/jpeg"
            image = Image.open(io.BytesIO(response.content))
            assert (image.size, image.getpixel((9, 9))[2] > 200) == ((60, 40), True)
            small = Image.open(io.BytesIO(client.get("/images/blue", params={"max_pixels": 600}).content))
            assert small.width * small.height <= 600
            assert "no image" in problem_of(client.get("/images/text"))["detail"]
            assert client.get("/images/absent").status_code == 404
            assert client.get("/images/blue?max_pixels=999999999").status_code == 422
            picture.unlink()
            assert problem_of(client.get("/images/blue"))["error"] == "DocumentError"


def test_what_is_known_of_the_index(client, index, folder):
    found = client.get("/info").json()
    assert (found["name"], found["documents"], found["manifest"]["dimension"]) == ("five", 5, 24)
    assert "path" not in found
    assert str(folder.parent) not in client.get("/info").text
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/indexes").json() == {"indexes": ["five"]}
    assert client.get("/indexes/five/info").json() == found


def test_the_requests_are_described(client):
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) >= {
        *("/search", "/search_many", "/rerank", "/v1/rerank", "/v1/embeddings", "/documents"),
        *("/documents/{id}", "/images/{id}", "/info", "/health", "/metrics", "/indexes", "/indexes/five/search"),
    }
    assert "first_stage" in described["components"]["schemas"]["SearchBody"]["properties"]
    assert client.get("/docs").status_code == 404  # it would take its scripts from another host


def test_counts_for_prometheus(index, tmp_path):
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as other, server({"other": other}) as client:
        for query in ("a", "b"):
            client.post("/search", json={"query": query})
        client.post("/search", json={})
        client.get("/indexes/other/documents/x")
        client.get("/anything")
        response = client.get("/metrics")
        lines = response.text.splitlines()
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'smart_rag_requests_total{route="/search",status="200"} 2' in lines
    assert 'smart_rag_requests_total{route="/search",status="422"} 1' in lines
    assert 'smart_rag_requests_total{route="/documents/{id}",status="404"} 1' in lines
    assert 'smart_rag_requests_total{route="other",status="404"} 1' in lines
    assert 'smart_rag_request_seconds_bucket{route="/search",le="+Inf"} 3' in lines
    assert 'smart_rag_request_seconds_count{route="/search"} 3' in lines
    assert "smart_rag_encoded_total 2" in lines
    assert 'smart_rag_documents{index="other"} 0' in lines


def test_several_indexes(tmp_path):
    with (
        SmartIndex.create(tmp_path / "a", Failing()) as first,
        SmartIndex.create(tmp_path / "b", Failing()) as second,
    ):
        first.add([Document("1", "apple pie")])
        second.add([Document("2", "apple pie")])
        with server({"a": first, "b": second}) as client:
            found = [
                client.post(f"{prefix}/search", json={"query": "apple"}).json()["hits"][0]["id"]
                for prefix in ("", "/indexes/a", "/indexes/b")
            ]
            assert found == ["1", "1", "2"]
            assert client.post("/indexes/c/search", json={"query": "apple"}).status_code == 404
            assert client.get("/indexes").json() == {"indexes": ["a", "b"]}
