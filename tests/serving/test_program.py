"""``smart-rag serve`` as a process: its addresses, its workers, its end."""

from __future__ import annotations

import signal
import threading
import time

import httpx
import pytest
from helpers.command_line import error_of, usage_error_of
from helpers.five_texts import TEXTS
from helpers.served import program
from helpers.tiny_models import bert

from smart_rag import SmartIndex

TOKEN = "a token of many letters"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    with SmartIndex.create(folder / "tiny.index", bert(folder / "model")) as index:
        index.add_texts(list(TEXTS.values()), list(TEXTS))
    return folder / "tiny.index"


def test_it_serves_with_a_token_and_ends_after_the_running_requests(folder):
    """The request is a write, which waits because this process has the right to write."""
    with program("--db", f"tiny={folder}", "--host", "0.0.0.0", SMART_RAG_TOKEN=TOKEN) as (process, client):
        assert client.get("/info").status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with SmartIndex.open(folder) as index:
            expected = index.search("the cat", 2)
            hits = client.post("/indexes/tiny/search", json={"query": "the cat", "top_k": 2}, headers=headers).json()
            assert [hit["id"] for hit in hits["hits"]] == [hit.id for hit in expected]
            index.add_texts(["a plum"], ["plum"])
            answers = []

            def write():
                body = {"documents": [{"id": "late", "text": "a quince"}]}
                answers.append(httpx.post(f"{client.base_url}/documents", json=body, headers=headers, trust_env=False))

            writing = threading.Thread(target=write)
            writing.start()
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(httpx.ConnectError):  # no new clients
                httpx.get(f"{client.base_url}/health", trust_env=False)
            assert (process.poll(), answers) == (None, [])
        writing.join()
        assert (answers[0].status_code, answers[0].json()["added"]) == (200, 1)
        assert process.wait(15) == 0
        assert TOKEN not in process.stdout.read() + process.stderr.read()
    with SmartIndex.open(folder) as index:
        assert index.delete(["late", "plum"]) == 2


def test_two_workers_answer_write_and_count_together(folder):
    with program("--db", folder, "--workers", "2") as (process, client):

        def one(i):
            # A connection of its own may go to either worker.
            body = {"documents": [{"id": f"new {i}", "text": f"quince {i}"}]}
            added = httpx.post(f"{client.base_url}/documents", json=body, timeout=60, trust_env=False)
            body = {"query": f"quince {i}", "where_document": {"$contains": f"quince {i}"}}
            found = httpx.post(f"{client.base_url}/search", json=body, timeout=60, trust_env=False)
            results.append((added.status_code, found.status_code, [hit["id"] for hit in found.json()["hits"]]))

        results = []
        threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [(200, 200, [f"new {i}"]) for i in range(8)]
        text = httpx.get(f"{client.base_url}/metrics", trust_env=False).text
        assert 'smart_rag_requests_total{route="/search",status="200"} 8' in text
        assert 'smart_rag_documents{index="default"} 13' in text
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    with SmartIndex.open(folder) as index:
        assert index.delete([f"new {i}" for i in range(8)]) == 8


def test_what_cannot_be_served_is_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("SMART_RAG_TOKEN", raising=False)
    assert "no index" in error_of("serve", "--db", tmp_path / "absent", "--port", 0)
    assert "SMART_RAG_TOKEN" in error_of("serve", "--db", folder, "--host", "0.0.0.0")
    assert "cannot be part of an address" in error_of("serve", "--db", f"a b={folder}", "--port", 0)
    assert "two indexes have the name 'default'" in error_of("serve", "--db", folder, "--db", folder)
    assert "single index" in usage_error_of("serve", "--db", f"a={folder}", "--db", f"b={folder}", "--model", "minilm")
    with program("--db", folder) as (_, client):
        assert "cannot listen on 127.0.0.1" in error_of("serve", "--db", folder, "--port", client.base_url.port)
