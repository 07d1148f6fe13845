"""The server as a process: its addresses, its workers, its end."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time

import httpx
import pytest
from helpers.command_line import error_of, usage_error_of
from helpers.five_texts import TEXTS
from helpers.served import Failing, inspector, problem_of, program, wait_for, words_program

from smart_rag import Document, Representation, SmartIndex

TOKEN = "a token of many letters"


@pytest.fixture
def folder(tmp_path):
    with SmartIndex.create(tmp_path / "words.index", Failing()) as index:
        index.add_texts(list(TEXTS.values()), list(TEXTS))
    return tmp_path / "words.index"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """An index without a model, which takes a while to load."""
    vectors = Representation.from_embeddings([[1.0, 2.0]])
    folder = tmp_path_factory.mktemp("own") / "own.index"
    SmartIndex.from_embeddings(folder, [Document("a", "One text.")], vectors).close()
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="the browser of this test is a shell script")
def test_inspect_opens_the_page(own, tmp_path):
    """Another user could read the token in the command that starts the browser, so it is not in the address."""
    browser, opened = tmp_path / "browser.sh", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{opened}"\n')
    browser.chmod(0o755)
    with inspector("--db", own, BROWSER=f"{browser} %s", SMART_RAG_TOKEN=TOKEN) as (_, client):
        assert wait_for(lambda: opened.exists() and opened.read_text()) == f"{client.base_url}/\n"
        assert "<title>smart_rag</title>" in client.get("/").text
        assert client.get("/info").status_code == 401
    opened.unlink()
    with inspector("--db", own, "--no-browser", BROWSER=f"{browser} %s") as (_, client):
        assert client.get("/info").json()["documents"] == 1
        assert not opened.exists()


def test_the_command_serves_several_indexes_with_a_token(own):
    arguments = ["--db", f"one={own}", "--db", f"two={own}", "--host", "0.0.0.0", "--allowed-hosts", "x.example"]
    with program(*arguments, SMART_RAG_TOKEN=TOKEN) as (process, client):
        address = f"http://127.0.0.1:{client.base_url.port}"
        assert httpx.get(f"{address}/info", trust_env=False).status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}", "Host": "x.example"}
        found = [
            httpx.get(f"{address}{path}/documents/a", headers=headers, trust_env=False).json()["text"]
            for path in ("", "/indexes/one", "/indexes/two")
        ]
        assert found == ["One text."] * 3
        searched = httpx.post(f"{address}/search", json={"query": "a"}, headers=headers, trust_env=False)
        assert "has no encoder" in problem_of(searched)["detail"]
        assert str(own) not in searched.text
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert TOKEN not in process.stdout.read() + process.stderr.read()


def test_running_requests_end_before_the_server_does(folder):
    """The request is a write, which waits because this process has the right to write."""
    with words_program(folder, 1) as (process, client):
        with SmartIndex.open(folder, Failing()) as index:
            index.delete(["tax"])
            answers = []

            def write():
                body = {"documents": [{"id": "late", "text": "a quince"}]}
                answers.append(httpx.post(f"{client.base_url}/documents", json=body, timeout=30, trust_env=False))

            writing = threading.Thread(target=write)
            writing.start()
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(httpx.TransportError):  # no new clients
                httpx.get(f"{client.base_url}/health", timeout=1, trust_env=False)
            assert (process.poll(), answers) == (None, [])
        writing.join()
        assert (answers[0].status_code, answers[0].json()["added"]) == (200, 1)
        assert process.wait(15) == 0
    with SmartIndex.open(folder, Failing()) as index:
        assert index.get(["late"])[0].text == "a quince"


def test_two_workers_answer_write_and_count_together(folder):
    with words_program(folder, 2) as (process, client):

        def one(i):
            # A connection of its own may go to either worker.
            body = {"documents": [{"id": f"new {i}", "text": f"quince {i}"}]}
            added = httpx.post(f"{client.base_url}/documents", json=body, timeout=60, trust_env=False)
            found = httpx.post(f"{client.base_url}/search", json={"query": f"quince {i}"}, timeout=60, trust_env=False)
            results.append((added.status_code, found.status_code, found.json()["hits"][0]["id"]))

        results = []
        threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [(200, 200, f"new {i}") for i in range(8)]
        text = httpx.get(f"{client.base_url}/metrics", trust_env=False).text
        assert 'smart_rag_requests_total{route="/search",status="200"} 8' in text
        assert 'smart_rag_documents{index="words"} 13' in text
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_what_cannot_be_served_is_one_line(own, tmp_path, monkeypatch):
    monkeypatch.delenv("SMART_RAG_TOKEN", raising=False)
    assert "no index" in error_of("serve", "--db", tmp_path / "absent", "--port", 0)
    assert "SMART_RAG_TOKEN" in error_of("serve", "--db", own, "--host", "0.0.0.0")
    assert "cannot be part of an address" in error_of("serve", "--db", f"a b={own}", "--port", 0)
    assert "two indexes have the name 'default'" in error_of("serve", "--db", own, "--db", own)
    assert "single index" in usage_error_of("serve", "--db", f"a={own}", "--db", f"b={own}", "--model", "minilm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fastapi", None)
        assert "pip install 'smart-rag[serve]'" in error_of("serve", "--db", own, "--port", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen on 127.0.0.1" in error_of("serve", "--db", own, "--port", taken.getsockname()[1])
