"""Requests at the same time: what is encoded together, whose errors are whose, and that nothing else differs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from helpers.five_texts import TEXTS
from helpers.served import Failing, problem_of, server, wait_for
from helpers.tiny_models import bert

from smart_rag import SmartIndex
from smart_rag.serving.batcher import Batcher


@pytest.fixture
def encoder():
    return Failing()


@pytest.fixture
def served(tmp_path, encoder):
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add_texts(list(TEXTS.values()), list(TEXTS))
        with server({"served": index}, max_batch=64) as client:
            encoder.calls.clear()
            yield client


def ask(client, query):
    return httpx.post(f"{client.base_url}/search", json={"query": query}, timeout=30, trust_env=False)


def while_the_encoder_works(client, encoder, queries):
    """Send ``queries`` while the encoder is busy with another one, and return their answers."""
    encoder.gate.clear()
    with ThreadPoolExecutor(len(queries) + 1) as pool:
        first = pool.submit(ask, client, "zzslow")
        assert encoder.entered.wait(10)
        others = [pool.submit(ask, client, query) for query in queries]
        wait_for(lambda: count_in_progress(client) == len(queries) + 2)
        encoder.gate.set()
        assert first.result().status_code == 200
        return [other.result() for other in others]


def count_in_progress(client):
    lines = client.get("/metrics").text.splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("smart_rag_requests_in_progress")))


def test_queries_that_arrive_together_are_encoded_in_one_call(served, encoder):
    queries = [f"cat {i}" for i in range(9)]
    answers = while_the_encoder_works(served, encoder, queries)
    assert [answer.status_code for answer in answers] == [200] * 9
    assert encoder.calls[0] == ["zzslow"]
    assert sorted(encoder.calls[1]) == queries
    assert len(encoder.calls) == 2


def test_a_query_that_fails_does_not_harm_the_others(served, encoder):
    queries = ["cat 1", "zzcrash", "cat 2", "cat 3"]
    answers = while_the_encoder_works(served, encoder, queries)
    assert [answer.status_code for answer in answers] == [200, 500, 200, 200]
    for query, answer in zip(queries, answers, strict=True):
        if answer.status_code == 200:
            assert answer.json()["hits"] == ask(served, query).json()["hits"]


def test_an_encoder_that_fails_becomes_a_problem_without_its_words(served, caplog):
    response = ask(served, "zzcrash")
    assert response.status_code == 500
    assert "the log of the server" in problem_of(response)["detail"]
    assert "/secret/model" not in response.text
    wait_for(lambda: "/secret/model broke" in caplog.text)  # it is logged after the answer
    assert response.headers["x-request-id"] in caplog.text
    assert problem_of(served.post("/v1/embeddings", json={"input": "zzcrash"}))["status"] == 500
    assert problem_of(served.post("/documents", json={"documents": [{"text": "zzcrash"}]}))["status"] == 500
    assert ask(served, "cat").status_code == 200
    assert served.post("/documents", json={"documents": [{"text": "a plum"}]}).json()["added"] == 1


def test_an_error_of_the_index_does_not_show_where_it_is(served, tmp_path):
    (tmp_path / "index" / "manifest.json").rename(tmp_path / "moved.json")
    response = ask(served, "cat")
    assert (response.status_code, problem_of(response)["error"]) == (503, "IndexNotFound")
    assert "the index 'served'" in response.json()["detail"]
    assert str(tmp_path) not in response.text
    (tmp_path / "moved.json").rename(tmp_path / "index" / "manifest.json")
    assert ask(served, "cat").status_code == 200


def test_clients_at_the_same_time_get_what_they_get_alone(tmp_path):
    queries = [f"{word} {other}" for word in ("cat", "dogs", "oil", "pond") for other in TEXTS.values()]
    with SmartIndex.create(tmp_path / "index", bert(tmp_path / "model")) as index:
        index.add_texts(list(TEXTS.values()), list(TEXTS))
        with server({"tiny": index}) as client:
            alone = [ask(client, query).json()["hits"] for query in queries]
            with ThreadPoolExecutor(16) as pool:
                together = [answer.json()["hits"] for answer in pool.map(lambda query: ask(client, query), queries)]
            encoded, calls = counts(client)
            assert (encoded, calls < 2 * len(queries)) == (2 * len(queries), True)
    for one, other in zip(alone, together, strict=True):
        assert [hit["id"] for hit in one] == [hit["id"] for hit in other]
        np.testing.assert_allclose([hit["score"] for hit in one], [hit["score"] for hit in other], atol=1e-5)


def counts(client):
    values = dict(line.split() for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    return int(values["smart_rag_encoded_total"]), int(values["smart_rag_encoder_calls_total"])


def test_texts_of_one_request_stay_together_and_a_call_has_texts_of_one_length():
    calls = []

    def encode(items):
        calls.append(list(items))
        return Failing().encode_query(items)

    async def run():
        batcher = Batcher(encode, 0.01, 4, lambda count: None)
        given = [["a"], ["b", "c"], ["long", "d", "e"], ["f"], ["longer"] * 6, ["g"]]
        found = await asyncio.gather(*map(batcher.encode, given))
        for items, vectors in zip(given, found, strict=True):
            np.testing.assert_array_equal(vectors.pooled, Failing().encode_query(items).pooled)

    asyncio.run(run())
    assert calls == [["a", "b", "c", "f"], ["g", "long", "d", "e"], ["longer"] * 6]


def test_a_client_that_has_gone_away_is_left_out():
    calls = []

    def encode(items):
        calls.append(list(items))
        return Failing().encode_query(items)

    async def run():
        batcher = Batcher(encode, 0.01, 4, lambda count: None)
        first, second = (asyncio.ensure_future(batcher.encode([name])) for name in "ab")
        await asyncio.sleep(0)
        first.cancel()
        assert len(await second) == 1

    asyncio.run(run())
    assert calls == [["b"]]
