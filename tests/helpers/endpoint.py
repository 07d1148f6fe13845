"""A language model's endpoint on loopback, which answers as a test says."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from smart_rag import Document

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


class Recorder(BaseHTTPRequestHandler):
    """Keeps each request, then answers as the server's ``respond`` does. The names of headers may have any case."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers, json.loads(body)))
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
