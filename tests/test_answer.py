"""Answers: what reaches the language model, what is shown while it speaks, and one clear line for each refusal."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from helpers.command_line import error_of, good, run
from helpers.tiny_models import byte_bpe
from helpers.word_encoder import SeeingEncoder
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2Config, Qwen2ForCausalLM

from smart_rag import Document, Hit, SmartIndex
from smart_rag.answer import ask, prompt
from smart_rag.cli import app as cli
from smart_rag.errors import DocumentError, InvalidInput, LanguageModelError
from smart_rag.types import Content, PdfPage

KEY = "sk-test-0123456789"
QUESTION = "Which bearings does the seawater pump need?"
DOCUMENTS = [
    Document("p1", "The seawater pump was painted in May.", {"source": "/archive/reports/1998.pdf", "page": 1}),
    Document(
        "p2",
        "The bearings of the seawater pump are of the type 6205-2RS.",
        {"source": "/archive/reports/1998.pdf", "page": 2},
    ),
    Document("stock", "Bearings lie in the drawer.\nPumps stand below.", {"source": "/archive/stock.txt"}),
    Document("cats", "The cat sat on the mat. It purred all day long."),
]


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


# --- endpoints ------------------------------------------------------------------------------


class Recorder(BaseHTTPRequestHandler):
    """Keeps each request, then answers as the server's ``respond`` does."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), json.loads(body)))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who has seen enough hangs up
            self.server.respond(self, body)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def endpoint(respond):
    """A server on loopback; ``url`` is what a user would give, ``requests`` what reached it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        server.respond, server.requests = respond, []
        server.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def head(handler, status=200, content_type="text/event-stream"):
    handler.send_response(status)
    handler.send_header("Content-Type", content_type)
    handler.end_headers()


def event(handler, data):
    handler.wfile.write(f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode())


def piece(handler, text=None, finish=None):
    delta = {} if text is None else {"content": text}
    event(handler, {"object": "chat.completion.chunk", "choices": [{"delta": delta, "finish_reason": finish}]})


def says(*texts, finish="stop"):
    """Respond with these pieces, in the protocol's own order."""

    def respond(handler, body):
        head(handler)
        for text in texts:
            piece(handler, text)
        piece(handler, finish=finish)
        event(handler, {"choices": [], "usage": {"total_tokens": 7}})
        event(handler, "[DONE]")

    return respond


def refuses(status, words, content_type="application/json"):
    def respond(handler, body):
        head(handler, status, content_type)
        handler.wfile.write(words.encode())

    return respond


def sends(*data):
    """Respond with these events, and an end of the connection that looks orderly."""

    def respond(handler, body):
        head(handler)
        for one in data:
            event(handler, one)

    return respond


def breaks_off(handler, body):
    """Promise more than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Content-Length", "9999")
    handler.end_headers()
    piece(handler, "The bearings")


def options(server, *more):
    return ("--llm-url", server.url, "--llm-model", "tiny", *more)


# --- a real one -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """Two random layers that talk: what they say means nothing, how it comes is real."""
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


def test_a_served_model_answers_from_the_passages(served, chat_model, db, index):
    answer = ask(index, QUESTION, url=served.url, model=str(chat_model), top_k=3, max_tokens=12)
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
    assert output == f"{answer.text}\n\n" + "".join(
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
    assert user["content"] == (
        "[1] 1998.pdf, page 2\nThe bearings of the seawater pump are of the type 6205-2RS.\n\n"
        "[2] stock.txt\nBearings lie in the drawer.\nPumps stand below.\n\n"
        "[3] 1998.pdf, page 1\nThe seawater pump was painted in May.\n\n"
        f"Question: {QUESTION}"
    )


# --- what reaches the model -----------------------------------------------------------------


def test_the_context_holds_as_many_passages_as_the_budget_in_the_tokens_of_the_index(db, minilm):
    with endpoint(says("Yes.")) as server:
        output = good("ask", QUESTION, "--db", db, *options(server, "--context-tokens", 50))
    ((_, _, body),) = server.requests
    context = body["messages"][1]["content"].removesuffix(f"Question: {QUESTION}")
    assert re.findall(r"^\[\d\] .*$", context, re.MULTILINE) == ["[1] 1998.pdf, page 2", "[2] stock.txt"]
    assert 40 < minilm.count_tokens(context)[0] <= 50
    assert re.findall(r"^\[\d\]", output, re.MULTILINE) == ["[1]", "[2]"]
    assert "max_tokens" not in body


def hits_of(texts):
    return [
        Hit(f"id{i}", text, {"source": f"/a/{i}.txt", "page": i} if i % 2 else {}, 1 / i, 0, 0, i)
        for i, text in enumerate(texts, start=1)
    ]


TOKENIZER = byte_bpe()
COUNTERS = {
    "characters": len,
    "words": lambda text: len(text.split()),
    "tokens": lambda text: len(TOKENIZER(text, verbose=False)["input_ids"]),
}


@pytest.mark.parametrize("count", COUNTERS.values(), ids=COUNTERS)
@settings(deadline=None)
@given(
    # Without what Python takes for a space and Unicode does not, which would be cut off here and not there.
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\x1c\x1d\x1e\x1f"), min_size=1).filter(str.strip),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 150),
)
@example(["\U00010400" * 35], 148)  # fewer bytes than the budget has tokens, and with the heading more tokens
def test_the_passages_of_the_prompt_are_the_first_and_within_the_budget(count, texts, budget):
    hits = hits_of(texts)
    try:
        messages, used = prompt("Why?", hits, budget, count)
    except InvalidInput:
        assert count(f"[1] 1.txt, page 1\n{texts[0].strip()[0]}\n\n") > budget
        return
    content = messages[-1]["content"]
    assert content.endswith("Question: Why?")
    context = content.removesuffix("Question: Why?")
    assert count(context) <= budget
    assert used == hits[: len(used)]
    headings = [f"[{i}] {f'{i}.txt, page {i}' if i % 2 else f'id{i}'}\n" for i in range(1, len(texts) + 1)]
    whole = "".join(f"{heading}{hit.text}\n\n" for heading, hit in zip(headings, used, strict=False))
    if context != whole:  # the first one was too long, and is cut
        assert len(used) == 1
        assert count(whole) > budget
        passage = context.removeprefix(headings[0]).removesuffix("\n\n")
        assert passage
        assert passage in texts[0]
    elif len(used) < len(hits):
        assert count(f"{whole}{headings[len(used)]}{texts[len(used)]}\n\n") > budget


def test_a_first_passage_that_is_too_long_is_cut_at_a_sentence():
    hits = hits_of(["The pump is red. The bearings are new. Spares lie in the drawer, says the engineer."])
    messages, used = prompt("Why?", hits, 55, len)
    assert messages[1]["content"] == "[1] 1.txt, page 1\nThe pump is red.\n\nQuestion: Why?"
    assert used == hits


def test_a_budget_below_one_passage_says_so(db):
    with endpoint(says("Yes.")) as server:
        said = error_of("ask", QUESTION, "--db", db, *options(server, "--context-tokens", 5))
    assert "context_tokens must hold the beginning of a passage and its heading '[1] 1998.pdf, page 2'" in said
    assert server.requests == []


def test_an_encoder_without_a_tokenizer_has_its_words_counted(index, minilm):
    class Bare:
        dimension, fingerprint = minilm.dimension, minilm.fingerprint
        describe, encode_query, encode_document = minilm.describe, minilm.encode_query, minilm.encode_document

    with SmartIndex.open(index.path, Bare()) as bare:
        answer = ask(bare, QUESTION, url="http://127.0.0.1:1/v1", model="tiny", context_tokens=15)
    assert [hit.id for hit in answer.sources] == ["p2"]


# --- images ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """An index of a page, a picture without and one with a text, and a text; the folder has the picture."""
    from smart_rag.demo import sample_folder

    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in (("red", "red"), ("blue", "blue")):
        Image.new("RGB", (300, 200), colour).save(folder / f"{name}.png")
    page = PdfPage(sample_folder() / "engineering_report.pdf", 3)
    with SmartIndex.create(folder / "index", SeeingEncoder()) as index:
        index.add(
            [
                Document("page", "The bearings of the pump.", {"source": str(page.path), "page": 3}, image=page),
                Document("red", image=folder / "red.png"),
                Document("blue", "A blue image", image=folder / "blue.png"),
                Document("text", "Only words."),
            ]
        )
        yield index


def parts_of(server):
    """The last request's user message: its texts, and its images by what is in them."""
    content = server.requests[-1][2]["messages"][1]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    seen = []
    for part in parts:
        if part["type"] == "text":
            seen.append(part["text"])
            continue
        kind, data = part["image_url"]["url"].split(",")
        assert (part["type"], kind) == ("image_url", "data:image/jpeg;base64")
        seen.append(Image.open(io.BytesIO(base64.b64decode(data))))
    return seen


def test_images_go_beside_their_passages(pictures):
    with endpoint(says("Yes.")) as server:
        answer = ask(pictures, "image", url=server.url, model="tiny", images=4)
        assert "".join(answer) == "Yes."
    seen = parts_of(server)
    assert [hit.rank for hit in answer.sources] == [1, 2, 3, 4]
    texts = [part for part in seen if isinstance(part, str)]
    assert texts[-1] == seen[-1] == "Question: image"
    for hit, text in zip(answer.sources, texts[:-1], strict=True):
        assert text.startswith(f"[{hit.rank}] ")
        assert hit.text in text
        following = seen[seen.index(text) + 1]
        assert isinstance(following, str) == (hit.image is None)
        if hit.id in ("red", "blue"):
            assert following.size == (300, 200)
            assert max(range(3), key=following.getpixel((9, 9)).__getitem__) == {"red": 0, "blue": 2}[hit.id]
        elif hit.id == "page":
            assert 1_400_000 < following.width * following.height <= 1_500_000
    system = server.requests[0][2]["messages"][0]["content"]
    assert "An image shows" in system


def test_images_are_few_and_small(pictures):
    with endpoint(says("Yes.")) as server:
        answer = ask(pictures, "image", url=server.url, model="tiny", images=1, image_pixels=1000)
        list(answer)
    seen = parts_of(server)
    (image,) = [part for part in seen if not isinstance(part, str)]
    assert image.width * image.height <= 1000
    first = next(hit for hit in answer.sources if hit.image is not None)
    assert seen[seen.index(image) - 1].startswith(f"[{first.rank}] ")


def test_by_default_the_model_is_given_text_alone(pictures):
    """And an image without a text is no passage; those that are have the numbers that they are cited by."""
    with endpoint(says("Yes.")) as server:
        answer = ask(pictures, "image", url=server.url, model="tiny")
        list(answer)
    assert isinstance(server.requests[0][2]["messages"][1]["content"], str)
    assert "An image shows" not in server.requests[0][2]["messages"][0]["content"]
    assert {hit.id for hit in answer.sources} == {"page", "blue", "text"}
    assert [hit.rank for hit in answer.sources] == [1, 2, 3]
    headings = re.findall(r"^\[(\d)\] (.*)$", parts_of(server)[0], re.MULTILINE)
    assert [number for number, _ in headings] == ["1", "2", "3"]


def test_a_question_may_have_an_image(pictures):
    question = Content("What is it?", pictures.path.parent / "red.png")
    with endpoint(says("Yes.")) as server:
        answer = ask(pictures, question, url=server.url, model="tiny", images=4)
        list(answer)
        *_, text, image = parts_of(server)
        assert (text, image.size) == ("Question: What is it?", (300, 200))
        assert [hit.id for hit in answer.sources] == [hit.id for hit in pictures.search(question)]
        list(ask(pictures, question, url=server.url, model="tiny"))
        assert parts_of(server)[0].endswith("Question: What is it?")  # searched by, not sent


def test_images_on_the_command_line(tmp_path, minilm, pictures):
    """Also from an index whose own model sees none."""
    red = pictures.path.parent / "red.png"
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


def test_images_that_cannot_be_sent(pictures, tmp_path):
    with endpoint(says("Yes.")) as server:
        to = {"url": server.url, "model": "tiny"}
        red = [hit for hit in pictures.search("image") if hit.id == "red"]
        with pytest.raises(InvalidInput, match=r"none of the 1 documents found has a text, the first is 'red'; have"):
            prompt("image", red, 100, len)
        for bad in (-1, True, 1.5):
            with pytest.raises(InvalidInput, match="images must be a whole number"):
                ask(pictures, "image", images=bad, **to)
        with pytest.raises(InvalidInput, match="image_pixels"):
            ask(pictures, "image", images=1, image_pixels=0, **to)
        with pytest.raises(InvalidInput, match="the question has no text"):
            ask(pictures, Content(image=tmp_path / "x.png"), images=1, **to)
        with pytest.raises(DocumentError, match="nowhere"):
            prompt("x", [Hit("x", "", {}, 1, 0, 0, 1, tmp_path / "nowhere.png")], 100, len, images=1)
    assert server.requests == []


def test_a_budget_holds_for_an_image_without_a_text():
    hit = Hit("x", "", {}, 1, 0, 0, 1, Image.new("RGB", (8, 8)))
    messages, used = prompt("What?", [hit], 9, len, images=1)
    assert [part["type"] for part in messages[1]["content"]] == ["text", "image_url", "text"]
    assert used == [hit]
    with pytest.raises(InvalidInput, match="context_tokens must hold"):
        prompt("What?", [hit], 5, len, images=1)


# --- what is shown --------------------------------------------------------------------------


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


def test_nothing_found_is_said_and_nobody_is_asked(db, index):
    with endpoint(says("I make it up.")) as server:
        arguments = ("ask", QUESTION, "--db", db, *options(server, "--where", '{"page": 7}'))
        assert good(*arguments) == "nothing found\n"
        assert json.loads(good(*arguments, "--json")) == {"answer": None, "finish_reason": None, "sources": []}
        assert list(ask(index, QUESTION, url=server.url, model="tiny", where={"page": 7})) == []
    assert server.requests == []


def test_url_and_model_may_come_from_the_environment(db, monkeypatch):
    with endpoint(says("Yes.")) as server:
        monkeypatch.setenv("SMART_RAG_LLM_URL", server.url)
        monkeypatch.setenv("SMART_RAG_LLM_MODEL", "tiny")
        assert good("ask", QUESTION, "--db", db, "--where", '{"page": 1}').splitlines()[0] == "Yes."
    assert server.requests[0][2]["model"] == "tiny"


def test_an_answer_may_be_asked_for_twice(index):
    with endpoint(says("Yes", ".")) as server:
        answer = ask(index, QUESTION, url=server.url, model="tiny")
        assert list(answer) == list(answer) == ["Yes", "."]
    assert (answer.text, answer.finish_reason, len(server.requests)) == ("Yes.", "stop", 2)


# --- refusals -------------------------------------------------------------------------------

NO_MODEL = json.dumps({"error": {"message": "model 'tiny' not found,\ntry pulling it first", "code": None}})


@pytest.mark.parametrize(
    ("respond", "expected"),
    [
        (refuses(400, '{"error": {"message": "context too long"}}'), "400: the request was refused (context too long)"),
        (refuses(401, '{"error": "no"}'), "401: the key is missing or wrong; set the environment variable OPENAI_API_"),
        (refuses(403, '{"detail": "not you"}'), "403: the key does not allow this; set another in the environment "),
        (refuses(404, NO_MODEL), "404: the model 'tiny' is not known there, or the URL is not the endpoint's base, "),
        (refuses(404, NO_MODEL), "usually ends in /v1 (model 'tiny' not found, try pulling it first)"),
        (refuses(404, "", "text/html"), "which usually ends in /v1\n"),
        (refuses(429, '{"error": {"message": "slow down"}}'), "429: too many requests, or no quota left; wait and "),
        (refuses(500, "<h1>Oh</h1>\n" * 99, "text/html"), "500: the server failed; its log says why (<h1>Oh</h1> <h1>"),
        (refuses(200, "<h1>Welcome</h1>", "text/html"), "sent no OpenAI-compatible stream; give the endpoint's base"),
        (refuses(200, '{"choices": []}'), "sent no OpenAI-compatible stream"),
        (sends("hello"), "sent what is not an OpenAI-compatible stream (Expecting value"),
        (sends([1]), "sent what is not an OpenAI-compatible stream"),
        (sends({"choices": 3}), "sent what is not an OpenAI-compatible stream"),
        (sends({"choices": [{"delta": {"content": 3}}]}), "sent what is not an OpenAI-compatible stream"),
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


def test_an_answer_without_a_reason_for_its_end_is_one_with_a_note(db):
    """Some endpoints send none; the answer and its sources are shown, and that it may not be whole."""
    with endpoint(sends({"choices": [{"delta": {"content": "The bearings"}}]})) as server:
        code, output, errors = run("ask", QUESTION, "--db", db, *options(server))
    assert code == 0
    assert output.startswith("The bearings\n")
    assert "[1]" in output
    assert errors == "the endpoint did not say that the answer is complete\n"


def test_an_answer_that_breaks_off_is_no_answer(db):
    with endpoint(breaks_off) as server:
        code, output, errors = run("ask", QUESTION, "--db", db, *options(server))
        assert (code, output) == (1, "The bearings\n")
        assert errors.startswith(f"error: {server.url} broke off before the end of the answer")
        assert len(errors.splitlines()) == 1
        assert "broke off" in error_of("ask", QUESTION, "--db", db, *options(server, "--json"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1/v1", "Connection refused"),
        ("http://localhost:port/v1", "Invalid port"),
    ],
)
def test_no_connection_is_found_out_at_once(db, index, url, expected):
    started = time.monotonic()
    with pytest.raises(LanguageModelError, match=expected):
        list(ask(index, QUESTION, url=url, model="tiny"))
    assert time.monotonic() - started < 10
    said = error_of("ask", QUESTION, "--db", db, "--llm-url", url, "--llm-model", "tiny")
    assert f"error: no connection to {url} (" in said
    assert "expected an OpenAI-compatible endpoint: is it running there?" in said


def test_a_url_without_its_beginning_is_told(db, index):
    with pytest.raises(InvalidInput, match="must begin with http://"):
        ask(index, QUESTION, url="localhost:11434/v1", model="tiny")
    assert "localhost" in error_of("ask", QUESTION, "--db", db, "--llm-url", "localhost:1/v1", "--llm-model", "tiny")


@pytest.mark.parametrize("first", [(), ("The bearings",)])
def test_an_endpoint_that_falls_silent(db, first):
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
def test_numbers_that_cannot_be(db, arguments, expected):
    with endpoint(says("Yes.")) as server:
        assert expected in error_of("ask", QUESTION, "--db", db, *options(server, *arguments))
    assert server.requests == []


def test_without_the_client_it_says_what_to_install(db, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    said = error_of("ask", QUESTION, "--db", db, "--llm-url", "http://127.0.0.1:1/v1", "--llm-model", "tiny")
    assert "pip install 'smart-rag[ask]'" in said


# --- the key --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 500])
def test_the_key_is_sent_and_never_shown(db, index, monkeypatch, caplog, status):
    """Not even by an endpoint that repeats it, in a traceback, or in a log of everything."""
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")

    def respond(handler, body):
        head(handler, status)
        words = json.dumps({"error": {"message": f"not good: {handler.headers['Authorization']}"}})
        handler.wfile.write(f"data: {words}\n\n".encode() if status == 200 else words.encode())

    with endpoint(respond) as server, caplog.at_level(logging.DEBUG):
        with pytest.raises(LanguageModelError) as error:
            list(ask(index, QUESTION, url=server.url, model="tiny"))
        code, output, errors = run("--verbose", "ask", QUESTION, "--db", db, *options(server))
    assert [headers["Authorization"] for _, headers, _ in server.requests] == [f"Bearer {KEY}"] * 2
    assert (code, output) == (1, "")
    assert ("not good: Bearer ***" in errors) == (status != 401)
    shown = errors + "".join(traceback.format_exception(error.value))
    assert KEY not in shown
    assert KEY not in caplog.text


def test_a_key_that_no_header_takes_is_not_shown_either(db, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    with endpoint(says("Yes.")) as server:
        said = error_of("ask", QUESTION, "--db", db, *options(server))
    assert "the environment variable OPENAI_API_KEY holds characters that no key has" in said
    assert KEY not in said
    assert server.requests == []


def test_without_a_key_the_endpoint_is_asked_all_the_same(index):
    with endpoint(says("Yes.")) as server:
        assert "".join(ask(index, QUESTION, url=server.url, model="tiny")) == "Yes."
    assert server.requests[0][1]["Authorization"] == "Bearer none"
