"""``smart-rag ask``: the prompt it sends, the answer it prints, and one clear line for each error."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from helpers.command_line import error_of, good, run
from helpers.endpoint import DOCUMENTS, QUESTION, breaks_off, endpoint, head, parts_of, piece, refuses, says, sends
from helpers.fenced_prompt import read, tag_of
from PIL import Image

from smart_rag import Document, SmartIndex
from smart_rag.answer import ask
from smart_rag.cli import app as cli
from smart_rag.cli.console import printable
from smart_rag.errors import InvalidInput, LanguageModelError


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "SMART_RAG_LLM_URL", "SMART_RAG_LLM_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def db(tmp_path_factory, minilm):
    path = tmp_path_factory.mktemp("answer") / "index"
    with SmartIndex.create(path, minilm) as index:
        index.add(DOCUMENTS)
    return path


@pytest.fixture(scope="module")
def index(db, minilm):
    with SmartIndex.open(db, minilm) as index:
        yield index


def options(server, *more):
    return ("--llm-url", server.url, "--llm-model", "tiny", *more)


# --- a real endpoint ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A random model of two layers. Its words mean nothing, but it streams them like any other model."""
    import torch
    from helpers.tiny_models import byte_bpe
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("chat")
    tokenizer = byte_bpe(
        chat_template="{% for message in messages %}<s>{{ message.role }} {{ message.content }}</s>{% endfor %}<s>"
    )
    tokenizer.model_max_length = 4096
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=4096,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(chat_model):
    """`transformers serve` behind a proxy that keeps what it is sent."""
    for package in ("accelerate", "fastapi", "uvicorn"):
        pytest.importorskip(package, reason="needs transformers[serving]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    log = chat_model / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [program, "serve", chat_model, "--port", str(port), "--device", "cpu"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()
            with contextlib.suppress(URLError), urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.1)

        def forward(handler, body):
            upstream = http.client.HTTPConnection("127.0.0.1", port)
            upstream.request("POST", handler.path, body, {"Content-Type": "application/json"})
            response = upstream.getresponse()
            head(handler, response.status, response.getheader("Content-Type"))
            while data := response.read1():
                handler.wfile.write(data)
            upstream.close()

        with endpoint(forward) as proxy:
            yield proxy
    finally:
        server.terminate()
        server.wait()


def test_a_served_model_answers_from_the_passages(served, chat_model, db, index, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "0123abcd")  # the same fence in both prompts
    answer = ask(index, QUESTION, llm_url=served.url, llm_model=str(chat_model), top_k=3, max_tokens=12)
    pieces = list(answer)
    assert len(pieces) > 3
    assert "".join(pieces) == answer.text
    assert answer.finish_reason == "length"

    output_of = ("ask", QUESTION, "--db", db, "--llm-url", served.url, "--llm-model", chat_model, "-k", 3)
    code, output, errors = run(*output_of, "--max-tokens", 12)
    assert code == 0
    assert errors.startswith("the answer was cut off")
    hits = index.search(QUESTION, 3)
    assert [hit.id for hit in hits] == ["p2", "stock", "p1"]
    assert answer.cited == answer.sources  # it begins with the prompt
    assert output == f"{printable(answer.text)}\n\n" + "".join(
        f"[{hit.rank}]  {hit.score:.3f}  {place}\n"
        for hit, place in zip(
            hits,
            ["/archive/reports/1998.pdf, page 2", "/archive/stock.txt", "/archive/reports/1998.pdf, page 1"],
            strict=True,
        )
    )

    assert served.requests[0][2] == served.requests[1][2]
    path, _, body = served.requests[0]
    assert (path, body["model"], body["stream"], body["max_tokens"]) == (
        "/v1/chat/completions",
        str(chat_model),
        True,
        12,
    )
    system, user = body["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    tag = tag_of(system["content"])
    assert user["content"] == (
        f"[1] <{tag}>\n'1998.pdf', page 2\nThe bearings of the seawater pump are of the type 6205-2RS.\n</{tag}>\n\n"
        f"[2] <{tag}>\n'stock.txt'\nBearings lie in the drawer.\nPumps stand below.\n</{tag}>\n\n"
        f"[3] <{tag}>\n'1998.pdf', page 1\nThe seawater pump was painted in May.\n</{tag}>\n\n"
        f"Question: {QUESTION}"
    )


# Enough for two passages, and too little for three. How many tokens the name of a tag has varies.
BUDGET = 94


# --- the prompt -----------------------------------------------------------------------------


def test_the_context_holds_as_many_passages_as_the_budget_in_the_tokens_of_the_index(db, minilm):
    with endpoint(says("Yes.")) as server:
        output = good("ask", QUESTION, "--db", db, *options(server, "--context-tokens", BUDGET))
    ((_, _, body),) = server.requests
    context = body["messages"][1]["content"].removesuffix(f"Question: {QUESTION}")
    passages, _ = read(body["messages"])
    assert [(number, source, page) for number, source, page, _ in passages] == [
        (1, "1998.pdf", 2),
        (2, "stock.txt", None),
    ]
    assert 70 < minilm.count_tokens(context)[0] <= BUDGET
    assert re.findall(r"^\[\d\]", output, re.MULTILINE) == ["[1]", "[2]"]
    assert "max_tokens" not in body


def test_a_budget_below_one_passage_is_an_error(db):
    with endpoint(says("Yes.")) as server:
        said = error_of("ask", QUESTION, "--db", db, *options(server, "--context-tokens", 5))
    expected = (
        "context_tokens must be enough for the beginning of a passage, its fence and its heading '1998.pdf', page 2"
    )
    assert expected in said
    assert server.requests == []


def test_images_on_the_command_line(tmp_path, minilm):
    """They can be sent even if the model of the index has no vision."""
    red = tmp_path / "red.png"
    Image.new("RGB", (300, 200), "red").save(red)
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add([Document("red", "A red image", image=red), *DOCUMENTS])
    with endpoint(says("Yes.")) as server:
        asks = ("ask", "Which image is red?", "--db", tmp_path / "index", *options(server, "-k", 2))
        good(*asks, "--images", 3)
        assert [part.size for part in parts_of(server) if not isinstance(part, str)] == [(300, 200)]
        good(*asks)
        assert all(isinstance(part, str) for part in parts_of(server))
        said = error_of(*asks, "--image", red)
        assert "the query has an image, but the index's model takes text" in said
        assert "images must be a whole number" in error_of(*asks, "--images", "-1")
    assert len(server.requests) == 2


def test_url_and_model_may_come_from_the_environment(db, monkeypatch):
    with endpoint(says("Yes.")) as server:
        monkeypatch.setenv("SMART_RAG_LLM_URL", server.url)
        monkeypatch.setenv("SMART_RAG_LLM_MODEL", "tiny")
        assert good("ask", QUESTION, "--db", db, "--where", '{"page": 1}').splitlines()[0] == "Yes."
        assert good("ask", QUESTION, "--db", db, "--where-document", '{"$contains": "no such"}') == "nothing found\n"
    assert server.requests[0][2]["model"] == "tiny"


# --- the answer -----------------------------------------------------------------------------


class Screen(io.StringIO):
    """Standard output that tells when the first piece is on it."""

    def __init__(self):
        super().__init__()
        self.shown = threading.Event()

    def flush(self):
        if "The bearings" in self.getvalue():
            self.shown.set()


def test_a_piece_is_shown_when_it_arrives(db, monkeypatch):
    screen = Screen()

    def respond(handler, body):
        head(handler)
        piece(handler, "The bearings")
        if screen.shown.wait(30):
            piece(handler, " are of the type 6205-2RS [1].", finish="stop")

    with endpoint(respond) as server:
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setattr(sys, "argv", ["smart-rag", "ask", QUESTION, "--db", str(db), *options(server, "-k", "1")])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    assert screen.getvalue().startswith("The bearings are of the type 6205-2RS [1].\n\n[1]  2.")


def test_the_answer_as_json(db, index):
    with endpoint(says("The ", "6205-2RS [1].")) as server:
        answer = json.loads(good("ask", QUESTION, "--db", db, *options(server, "-k", 2, "--json")))
    assert (answer["answer"], answer["finish_reason"]) == ("The 6205-2RS [1].", "stop")
    assert [(hit["rank"], hit["id"], hit["score"], hit["source"], hit["page"]) for hit in answer["sources"]] == [
        (hit.rank, hit.id, pytest.approx(hit.score), hit.source, hit.page) for hit in index.search(QUESTION, 2)
    ]


def test_one_passage_of_each_file_and_the_passages_around_it(tmp_path, minilm):
    path = tmp_path / "log.txt"
    texts = ["The keys hang in the office.", "The boat house is locked at night.", "The watch ends at six."]
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add([Document(f"{path}#{i}", text, {"source": str(path), "chunk": i}) for i, text in enumerate(texts)])
        index.add([Document("other", "The boat house is old."), Document("again", "The boat house is  OLD.")])
    with endpoint(says("Yes [1].")) as server:
        arguments = ("ask", "Is the boat house locked?", "--db", tmp_path / "index", *options(server, "--json"))
        both = json.loads(good(*arguments, "--per-source", "1", "--fold-duplicates"))["sources"]
        assert [hit["id"] for hit in both if hit["source"]] == [f"{path}#1"]
        assert {hit["id"] for hit in both if not hit["source"]} < {"other", "again"}
        near = json.loads(good(*arguments, "--neighbours", "1"))["sources"]
        assert [hit["text"] for hit in near if hit["source"]] == ["\n".join(texts)]
        assert "--neighbours" in run(*arguments, "--neighbours", "-1")[2]
    prompts = [read(body["messages"])[0] for _, _, body in server.requests]
    assert [text for _, name, _, text in prompts[1] if name == "log.txt"] == ["\n".join(texts)]


def test_sources_that_are_cited_come_first(db, index):
    """And a number that no source has is marked."""
    hits = index.search(QUESTION, 3)
    with endpoint(says("They are red [", "3", "] and new [1, ", "9].")) as server:
        code, output, errors = run("ask", QUESTION, "--db", db, *options(server, "-k", 3))
        answer = json.loads(good("ask", QUESTION, "--db", db, *options(server, "-k", 3, "--json")))
    assert code == 0
    text, cited, others = re.split(r"\n\n|found, but not cited:\n", output)
    assert text == answer["answer"] == "They are red [3] and new [1, 9?]."
    assert re.findall(r"^\[(\d)\]  ([\d.]+)  ", cited, re.MULTILINE) == [
        (number, f"{hits[int(number) - 1].score:.3f}") for number in "13"
    ]
    assert re.findall(r"^\[(\d)\]", others, re.MULTILINE) == ["2"]
    assert errors == (
        "the answer cites 9, but the language model got 3 sources; such citations have a question mark, like [9?]\n"
    )
    assert [(source["rank"], source["cited"]) for source in answer["sources"]] == [(1, True), (2, False), (3, True)]
    assert answer["unknown_citations"] == [9]


def test_nothing_that_is_printed_can_forge_lines(tmp_path, minilm):
    """No passage, name of a file, id or answer moves the cursor or begins a line."""
    hostile = "\x1b[2J\x1b]52;c;eA==\x07\x9b1A\r\u2028\u202eabc"
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add(
            [
                Document(f"id\n[8]  9.000  real.pdf{hostile}", f"The seawater pump {hostile} has bearings."),
                Document("b", f"Bearings {hostile}.", {"source": f"/x{hostile}\n[9]  9.000  real.pdf", "page": 1}),
            ]
        )
    with endpoint(says(f"They are new{hostile} [1].")) as server:
        shown = good("ask", QUESTION, "--db", tmp_path / "index", *options(server))
        as_json = good("ask", QUESTION, "--db", tmp_path / "index", *options(server, "--json"))
    found = good("search", QUESTION, "--db", tmp_path / "index")
    for output in (shown, as_json, found):
        assert all(line.isprintable() for line in output.split("\n"))
    assert not re.findall(r"^\[[89]\]", shown + found, re.MULTILINE)
    assert "real.pdf" in shown
    assert json.loads(as_json)["answer"] == f"They are new{hostile} [1]."
    (first, second) = json.loads(as_json)["sources"]
    assert {first["text"], second["text"]} == {f"The seawater pump {hostile} has bearings.", f"Bearings {hostile}."}
    said = error_of("search", "x", "--db", tmp_path / f"gone{hostile}")
    assert all(line.isprintable() for line in said.split("\n"))


def test_if_every_source_is_cited_none_is_left_over(db):
    with endpoint(says("They are red [1-2].")) as server:
        code, output, errors = run("ask", QUESTION, "--db", db, *options(server, "-k", 2))
    assert (code, errors) == (0, "")
    assert "not cited" not in output


def test_the_endpoint_is_not_called_if_nothing_is_found(db, index):
    with endpoint(says("I make it up.")) as server:
        arguments = ("ask", QUESTION, "--db", db, *options(server, "--where", '{"page": 7}'))
        assert good(*arguments) == "nothing found\n"
        assert json.loads(good(*arguments, "--json")) == {
            "answer": None,
            "finish_reason": None,
            "sources": [],
            "unknown_citations": [],
        }
        assert list(ask(index, QUESTION, llm_url=server.url, llm_model="tiny", where={"page": 7})) == []
    assert server.requests == []


def test_an_answer_without_a_finish_reason_gets_a_note(db):
    """Some endpoints send none; the answer and its sources are shown, and that it may not be whole."""
    with endpoint(sends({"choices": [{"delta": {"content": "The bearings"}}]})) as server:
        code, output, errors = run("ask", QUESTION, "--db", db, *options(server))
    assert code == 0
    assert output.startswith("The bearings\n")
    assert "[1]" in output
    assert errors == "the endpoint did not say whether the answer is complete\n"


def test_an_answer_that_breaks_off_is_an_error(db):
    with endpoint(breaks_off) as server:
        code, output, errors = run("ask", QUESTION, "--db", db, *options(server))
        assert (code, output) == (1, "The bearings\n")
        assert errors.startswith(f"error: {server.url} broke off before the end of the answer")
        assert len(errors.splitlines()) == 1
        assert "broke off" in error_of("ask", QUESTION, "--db", db, *options(server, "--json"))


# --- errors ---------------------------------------------------------------------------------


NO_MODEL = json.dumps({"error": {"message": "model 'tiny' not found,\ntry pulling it first", "code": None}})


@pytest.mark.parametrize(
    ("respond", "expected"),
    [
        (refuses(400, '{"error": {"message": "context too long"}}'), "400: the request was refused (context too long)"),
        (refuses(401, '{"error": "no"}'), "401: the key is missing or wrong; set the environment variable OPENAI_API_"),
        (refuses(403, '{"detail": "not you"}'), "403: the key does not allow this; set another in the environment "),
        (
            refuses(404, NO_MODEL),
            "404: the model 'tiny' is not known there, or the URL is not the endpoint's base ",
        ),
        (refuses(404, NO_MODEL), "usually ends in /v1 (model 'tiny' not found, try pulling it first)"),
        (refuses(404, "", "text/html"), "which usually ends in /v1\n"),
        (refuses(429, '{"error": {"message": "slow down"}}'), "429: too many requests, or no quota left; wait and "),
        (refuses(500, "<h1>Oh</h1>\n" * 99, "text/html"), "500: the server failed; see its log (<h1>Oh</h1> <h1>"),
        (
            refuses(200, "<h1>Welcome</h1>", "text/html"),
            "sent no OpenAI-compatible stream; give the endpoint's base",
        ),
        (refuses(200, '{"choices": []}'), "sent no OpenAI-compatible stream"),
        (sends("hello"), "did not send an OpenAI-compatible stream (Expecting value"),
        (sends([1]), "did not send an OpenAI-compatible stream"),
        (sends({"choices": 3}), "did not send an OpenAI-compatible stream"),
        (sends({"choices": [{"delta": {"content": 3}}]}), "did not send an OpenAI-compatible stream"),
        (sends({"error": {"message": "out of memory"}}), "broke off before the end of the answer (out of memory)"),
        (says(finish="length"), "the model 'tiny' gave an answer without text (finish_reason 'length')"),
        (lambda handler, body: None, "no connection to http://127.0.0.1:"),
    ],
)
def test_a_refusal_is_one_line(db, respond, expected):
    with endpoint(respond) as server:
        said = error_of("ask", QUESTION, "--db", db, *options(server))
    assert expected in said
    assert server.url in said
    assert len(said) < 500
    assert len(server.requests) == 1  # nothing is asked twice behind the user's back


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1/v1", "Connection refused"),
        ("http://localhost:port/v1", "Invalid port"),
    ],
)
def test_a_missing_endpoint_is_an_error(db, index, url, expected):
    with pytest.raises(LanguageModelError, match=expected):
        list(ask(index, QUESTION, llm_url=url, llm_model="tiny"))
    said = error_of("ask", QUESTION, "--db", db, "--llm-url", url, "--llm-model", "tiny")
    assert f"error: no connection to {url} (" in said
    assert "expected an OpenAI-compatible endpoint: is it running there?" in said


@pytest.mark.parametrize("package", ["httpx", "httpx2"])
def test_the_errors_of_either_client_are_understood(index, monkeypatch, package):
    """openai 2 raises errors of httpx, openai 3 those of httpx2, and neither package needs the other."""
    import openai

    errors = pytest.importorskip(package)
    raised = {
        "no connection to http://x/v1 .Invalid port": errors.InvalidURL("Invalid port: 'port'"),
        "broke off before the end of the answer": errors.ReadError("gone"),
        "sent nothing for 300 seconds": errors.ReadTimeout("late"),
        "did not send an OpenAI-compatible stream .odd": RuntimeError("odd"),
    }
    monkeypatch.setitem(sys.modules, {"httpx": "httpx2", "httpx2": "httpx"}[package], None)
    for expected, error in raised.items():

        def client(error=error, **arguments):
            raise error

        monkeypatch.setattr(openai, "OpenAI", client)
        with pytest.raises(LanguageModelError, match=expected) as found:
            list(ask(index, QUESTION, llm_url="http://x/v1", llm_model="tiny"))
        assert "\n" not in str(found.value)


def test_a_url_without_http_is_an_error(db, index):
    with pytest.raises(InvalidInput, match="llm_url must begin with http://"):
        ask(index, QUESTION, llm_url="localhost:11434/v1", llm_model="tiny")
    assert "localhost" in error_of("ask", QUESTION, "--db", db, "--llm-url", "localhost:1/v1", "--llm-model", "tiny")


@pytest.mark.parametrize("first", [(), ("The bearings",)])
def test_an_endpoint_that_stops_sending(db, first):
    done = threading.Event()

    def respond(handler, body):
        if first:
            head(handler)
            piece(handler, *first)
        done.wait(30)

    with endpoint(respond) as server:
        code, output, errors = run("ask", QUESTION, "--db", db, *options(server, "--timeout", 0.3))
        done.set()
    assert (code, output) == (1, "".join(f"{text}\n" for text in first))
    assert errors == f"error: {server.url} sent nothing for 0.3 seconds; raise timeout, or use a smaller model\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max-tokens", "0"], "max_tokens must be a whole number of at least 1, got 0"),
        (["--context-tokens", "-1"], "context_tokens must be a whole number of at least 1, got -1"),
        (["--timeout", "0"], "timeout must be a number of seconds above 0, got 0"),
        (["--timeout", "nan"], "timeout must be a number of seconds above 0, got nan"),
        (["-k", "0"], "top_k must be a whole number of at least 1, got 0"),
    ],
)
def test_numbers_out_of_range(db, arguments, expected):
    with endpoint(says("Yes.")) as server:
        assert expected in error_of("ask", QUESTION, "--db", db, *options(server, *arguments))
    assert server.requests == []


def test_the_missing_package_is_named(db, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    said = error_of("ask", QUESTION, "--db", db, "--llm-url", "http://127.0.0.1:1/v1", "--llm-model", "tiny")
    assert "pip install 'smart-rag[ask]'" in said
