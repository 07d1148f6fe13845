"""Refusals: foreign sites and names, missing tokens, hostile bodies and limits. The server lives on after each."""

from __future__ import annotations

import json
import socket
import threading

import httpx
import pytest
from helpers.served import Failing, problem_of, server, wait_for

from smart_rag import SmartIndex
from smart_rag.errors import InvalidInput
from smart_rag.serving.guard import Guard
from smart_rag.serving.problems import Refused
from smart_rag.serving.settings import ServerSettings

TOKEN = "a token of many letters"


@pytest.fixture(autouse=True)
def _lives(client):
    yield
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.nip.io"]
)
def test_a_name_that_is_not_ours_is_refused(client, host):
    response = client.get("/health", headers={"Host": host})
    assert response.status_code == 421
    assert "not known as" in problem_of(response)["detail"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:80", "192.168.1.5:9000", "localhost."]
)
def test_a_name_that_is_ours_is_not(client, host):
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_names_can_be_allowed(index, tmp_path):
    guard = Guard(ServerSettings(allowed_hosts=("Search.Example",), token=None))
    guard.check(scope({"host": "search.example", "origin": "https://search.example"}))
    with pytest.raises(Refused, match="421"):
        guard.check(scope({"host": "other.example"}))


def scope(headers, path="/search", server=("127.0.0.1", 8000)):
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "path": path, "server": server, "headers": pairs}


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://127.0.0.1:3000",  # another program of this machine
        "http://localhost",
        "https://evil.example:8000",
        "null",
        "file://",
        "http://127.0.0.1:8000.evil.example",
        "http://192.168.1.5:8000",
        "http://[::1",
        "",
    ],
)
def test_a_page_of_another_site_is_refused(client, origin):
    response = client.post("/search", json={"query": "cat"}, headers={"Origin": origin})
    assert response.status_code == 403
    # Whatever it says is its own name.
    with pytest.raises(Refused):
        Guard(ServerSettings(token=None)).check(scope({"host": "127.0.0.1:8000", "origin": origin}))


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_browser_says_that_it_is_another_site(client, site):
    assert client.get("/info", headers={"Sec-Fetch-Site": site}).status_code == 403


def test_our_own_pages_may_ask(client):
    for origin in (f"http://127.0.0.1:{client.base_url.port}", f"http://localhost:{client.base_url.port}"):
        response = client.post("/search", json={"query": "cat"}, headers={"Origin": origin})
        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers
    assert client.get("/info", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_form_of_another_site_can_write_nothing(client, index):
    """A browser sends it without asking first. It cannot send JSON."""
    body = json.dumps({"documents": [{"text": "spam"}]})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert client.post("/documents", content=body, headers={"Content-Type": kind}).status_code == 422
    assert index.count() == 5


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    with (
        SmartIndex.create(tmp_path_factory.mktemp("locked") / "index", Failing()) as index,
        server({"locked": index}, token=TOKEN) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "given",
    [
        *(None, "", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN),
        "Bearer \xe9",
    ],
)
@pytest.mark.parametrize("path", ["/info", "/openapi.json", "/metrics", "/anything", "//health"])
def test_nothing_is_answered_without_the_token(locked, given, path):
    headers = [] if given is None else [(b"Authorization", given.encode("latin-1"))]
    # As a whole address: the client would take the first name of "//health" for a host, and ask for "/".
    response = locked.get(f"{str(locked.base_url).rstrip('/')}{path}", headers=headers)
    assert response.request.url.raw_path == path.encode()
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in response.text


def test_the_token_opens(locked, caplog):
    caplog.set_level("DEBUG")
    assert locked.get("/info", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert locked.get("/info", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
    assert locked.get("/health").json() == {"status": "ok"}
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(ServerSettings(token=TOKEN))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "search.example"])
def test_another_address_than_loopback_needs_a_token(host):
    with pytest.raises(InvalidInput, match="SMART_RAG_TOKEN"):
        ServerSettings(host=host, token=None)
    ServerSettings(host=host, token=TOKEN)
    with pytest.raises(InvalidInput, match="can be guessed"):
        ServerSettings(host=host, token="short")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_needs_none(host):
    ServerSettings(host=host, token=None)


HOSTILE = {
    "deep": "[" * 200_000,
    "deep in a filter": '{"query": "a", "where": ' + '{"$and": [' * 5_000 + "]}" * 5_000 + "}",
    "deep metadata": '{"documents": [{"text": "a", "metadata": {"x": ' + "[" * 900 + "]" * 900 + "}}]}",
    "NaN": '{"query": "a", "min_relevance": NaN}',
    "NaN as a weight": '{"query": "a", "weights": [NaN, 1]}',
    "infinite weight": '{"query": "a", "weights": [1e999, 1]}',
    "NaN in a filter": '{"query": "a", "where": {"length": NaN}}',
    "huge number": '{"query": "a", "top_k": 1' + "0" * 5_000 + "}",
    "large number": '{"query": "a", "top_k": 100000000000000000000000}',
    "no number": '{"query": "a", "top_k": "5"}',
    "a bool": '{"query": "a", "top_k": true}',
    "none": '{"query": "a", "top_k": 0}',
    "negative": '{"query": "a", "candidates": -1}',
    "list": '["a"]',
    "null": "null",
    "nothing": "",
    "no query": "{}",
    "query of a wrong type": '{"query": {"text": "a"}}',
    "empty query": '{"query": ""}',
    "blank query": '{"query": " \\u2003\\n"}',
    "surrogate": '{"query": "a \\ud800 b"}',
    "surrogate in a filter": '{"query": "a", "where": {"x\\ud800": "\\ud800"}}',
    "unknown name": '{"query": "a", "top_q": 3}',
    "unknown operator": '{"query": "a", "where": {"x": {"$where": "1"}}}',
    "broken pattern": '{"query": "a", "where_document": {"$regex": "("}}',
    "NUL in a pattern": '{"query": "a", "where_document": {"$regex": "\\u0000["}}',
    "three weights": '{"query": "a", "weights": [1, 2, 3]}',
    "other stage": '{"query": "a", "first_stage": "\\u0000"}',
    "not JSON": "{'query': 'a'}",
    "not UTF-8": b'{"query": "\xff\xfe"}',
    "UTF-16": '{"query": 1}'.encode("utf-16"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", ["/search", "/documents"])
def test_a_hostile_body_is_refused(client, index, name, path):
    body = HOSTILE[name]
    content = body if isinstance(body, bytes) else body.encode()
    response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), response.text
    assert problem_of(response)["detail"]
    assert index.count() == 5


@pytest.mark.parametrize("body", ['{"query": "a\\u0000b"}', '{"query": "\\u202e\\u0007"}', '{"query": "<script>"}'])
def test_odd_characters_are_a_query(client, body):
    response = client.post("/search", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/embeddings", "/rerank", "/search_many"])
@pytest.mark.parametrize(
    "body",
    [
        *("{}", "[]", '{"query": 1}', '{"query": "a", "documents": "b"}', '{"query": "a", "documents": [1]}'),
        *('{"query": "a", "documents": [{"x": 1}]}', '{"query": "a", "documents": ["b"], "top_n": 0, "top_k": 0}'),
        *('{"input": {"a": 1}}', '{"input": "\\ud800"}', '{"queries": ["a", ""]}', '{"queries": ["\\udfff"]}'),
        '{"query": "a", "documents": ["\\ud800"]}',
    ],
)
def test_hostile_bodies_of_the_other_endpoints_are_refused(client, path, body):
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), response.text
    assert problem_of(response)["detail"]


@pytest.mark.parametrize(
    "document",
    [
        '{"text": ""}',
        '{"text": "a", "id": ""}',
        '{"text": "a", "id": "\\ud800"}',
        '{"text": "\\ud800"}',
        '{"text": "a", "metadata": {"x": NaN}}',
        '{"text": "a", "metadata": {"\\ud800": 1}}',
        '{"text": "a", "metadata": {"x": {"y": 1}}, "id": 1}',
        '{"text": "a", "id": "1"}, {"text": "b", "id": "1"}',
        '{"text": "a", "image": "/etc/passwd"}',
    ],
)
def test_a_document_that_cannot_be_stored_is_refused(client, index, document):
    content = f'{{"documents": [{document}]}}'
    response = client.post("/documents", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422, response.text
    assert index.count() == 5


def test_what_is_stored_can_be_read(client, index):
    """JSON has no infinite numbers, and a NUL may be in a text."""
    content = '{"documents": [{"id": "\\u0000", "text": "a\\u0000b", "metadata": {"x": 1e999, "y": 1e-999}}]}'
    response = client.post("/documents", content=content, headers={"Content-Type": "application/json"})
    if response.status_code == 200:
        read = client.get("/documents/%00")
        assert read.status_code == 200
        assert (read.json()["text"], read.json()["metadata"]["x"]) == ("a\0b", None)
        assert client.request("DELETE", "/documents", json={"ids": ["\0"]}).json() == {"removed": 1}
    assert problem_of(client.get("/documents/%00"))["status"] in (404, 422)


@pytest.mark.parametrize("path", ["/documents/..%2f..%2fetc%2fpasswd", "/documents/%ff%fe", "/images/%2e%2e/x", "/%00"])
def test_odd_addresses_are_not_found(client, path):
    assert problem_of(client.get(path))["status"] == 404
    assert problem_of(client.get(f"/indexes/five{path}"))["status"] == 404


def test_another_method_is_refused(client):
    assert problem_of(client.get("/search"))["status"] == 405
    assert problem_of(client.options("/search"))["status"] == 405


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    limits = {"max_body": 0.001, "max_items": 3, "max_query_length": 20, "max_hits": 5, "max_concurrency": 2}
    encoder = Failing()
    with (
        SmartIndex.create(tmp_path_factory.mktemp("narrow") / "index", encoder) as index,
        server({"narrow": index}, **limits, body_seconds=0.5) as client,
    ):
        client.encoder = encoder
        yield client


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/search", {"query": "a" * 21, "top_k": 1, "candidates": 1}, "21 characters; at most 20"),
        ("/search", {"query": "a", "top_k": 6}, "top_k must be at most 5"),
        ("/search", {"query": "a", "top_k": 1, "candidates": 6}, "candidates must be at most 5"),
        ("/search_many", {"queries": list("abcd"), "top_k": 1, "candidates": 5}, "4 queries; at most 3"),
        ("/rerank", {"query": "a", "documents": list("abcd")}, "4 documents; at most 3"),
        ("/rerank", {"query": "a", "ids": list("abcd")}, "4 ids; at most 3"),
        ("/v1/rerank", {"query": "a", "documents": list("abcd")}, "4 documents; at most 3"),
        ("/v1/embeddings", {"input": list("abcd")}, "4 texts; at most 3"),
        ("/v1/embeddings", {"input": list("abcd"), "input_type": "query"}, "4 queries; at most 3"),
        ("/documents", {"documents": [{"text": "a"}] * 4}, "4 documents; at most 3"),
    ],
)
def test_a_request_has_limits(narrow, path, body, words):
    response = narrow.post(path, json=body)
    assert response.status_code == 422
    assert words in problem_of(response)["detail"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_has_a_limit(narrow, chunked):
    body = json.dumps({"query": "a" * 2000}).encode()
    content = iter([body[:500], body[500:]]) if chunked else body
    response = narrow.post("/search", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert "larger than 1.0 kB" in problem_of(response)["detail"]


def test_a_body_that_does_not_arrive_is_not_waited_for(narrow):
    with socket.create_connection(("127.0.0.1", narrow.base_url.port), 10) as slow:
        slow.sendall(
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_too_many_requests_at_a_time_are_asked_to_come_again(narrow):
    narrow.encoder.gate.clear()
    narrow.encoder.entered.clear()
    answers = []

    def ask():
        body = {"query": "zzslow", "top_k": 1, "candidates": 1}
        while True:
            response = httpx.post(f"{narrow.base_url}/search", json=body, timeout=30, trust_env=False)
            if response.status_code != 503:  # the requests of this test's own thread count, too
                break
        answers.append(response.status_code)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert narrow.encoder.entered.wait(10)
    wait_for(lambda: narrow.get("/info").status_code == 503)
    refused = narrow.get("/info")
    assert refused.headers["retry-after"] == "1"
    assert "2 requests run already" in problem_of(refused)["detail"]
    assert narrow.get("/health").status_code == 200
    assert narrow.get("/metrics").status_code == 200
    narrow.encoder.gate.set()
    for thread in threads:
        thread.join()
    assert answers == [200, 200]
    assert narrow.get("/info").status_code == 200
