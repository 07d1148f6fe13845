"""Servers for tests: one in a thread of this process, over any indexes, and one as ``smart-rag serve``."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import uvicorn
from helpers.word_encoder import WordEncoder

from smart_rag import SmartIndex
from smart_rag.serving import serve
from smart_rag.serving.application import application
from smart_rag.serving.metrics import Metrics
from smart_rag.serving.server import _listening
from smart_rag.serving.settings import ServerSettings

ROOT = Path(__file__).parents[2]


class Failing(WordEncoder):
    """Fails for texts with the word "zzcrash", as a broken model would, and keeps what each call was for.

    While ``gate`` is not set, a query with the word "zzslow" does not end.
    """

    def __init__(self):
        self.calls = []
        self.gate = threading.Event()
        self.entered = threading.Event()

    def __reduce__(self):
        return Failing, ()

    def encode_query(self, texts):
        self.calls.append(list(texts))
        if any("zzslow" in text.split() for text in texts):
            self.entered.set()
            assert self.gate.wait(20)
        if any("zzcrash" in text.split() for text in texts):
            raise RuntimeError("the model at /secret/model broke")
        return super().encode_query(texts)

    encode_document = encode_query


@contextlib.contextmanager
def server(indexes, **settings):
    """Serve open indexes, and yield a client. Afterwards, the indexes are closed."""
    settings = ServerSettings(port=0, **{"token": None, **settings})
    with _listening(settings) as listening:
        app = application(indexes, settings, Metrics())
        running = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        port = listening.getsockname()[1]
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
                yield client
        finally:
            running.should_exit = True
            thread.join()


@contextlib.contextmanager
def program(*arguments, **environment):
    """Run ``smart-rag serve`` on a free port, and yield the process and a client."""
    with _running(["-m", "smart_rag", "serve", "--port", "0", *arguments], environment) as running:
        yield running


@contextlib.contextmanager
def inspector(*arguments, **environment):
    """Do the same with ``smart-rag inspect``."""
    with _running(["-m", "smart_rag", "inspect", *arguments], environment) as running:
        yield running


@contextlib.contextmanager
def words_program(folder, workers):
    """Do the same with an index of `Failing`, by `smart_rag.serving.serve`."""
    code = "import sys; from helpers.served import serve_words; serve_words(sys.argv[1], int(sys.argv[2]))"
    with _running(["-c", code, folder, workers], {}) as running:
        yield running


def serve_words(folder, workers):
    settings = ServerSettings(port=0, workers=workers, token=None, mcp=True)
    serve({"words": partial(SmartIndex.open, folder, Failing())}, settings, lambda url: print(f"{url};", flush=True))


@contextlib.contextmanager
def _running(arguments, environment):
    started = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={
            **{**os.environ, "OMP_NUM_THREADS": "1", **environment},
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        },
    )
    try:
        line = started.stdout.readline()
        found = re.search(r"http://\S+(?=;)", line)
        assert found, line + started.stderr.read()
        with httpx.Client(base_url=found[0], timeout=60, trust_env=False) as client:
            yield started, client
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)  # the workers, too, which would keep the pipes open
        started.communicate()


def wait_for(condition, seconds=10):
    """Wait until ``condition`` returns something that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def problem_of(response):
    """Return the problem that a refusal is, and check its form."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["title"]
    assert problem["type"] == "about:blank"
    return problem
