"""The worker process: hostile files and crashes cost one file, and no process is left behind."""

from __future__ import annotations

import json
import multiprocessing.spawn
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import bad_parsers
from helpers.hostile_files import many_characters, nested_forms
from helpers.odd_files import fpdf_pages, one_page
from helpers.text_files import write
from helpers.word_encoder import TESTS

from smart_rag import IndexConfig
from smart_rag.errors import DocumentError, InvalidInput, MissingExtra, SmartRagError
from smart_rag.files import limits
from smart_rag.files.content import open_image
from smart_rag.files.reader import Reader, read
from smart_rag.files.worker import call, call_alone
from smart_rag.types import PdfPage

PATH = Path("/a.pdf")
CONFIG = IndexConfig(chunk_overlap=0)
posix = pytest.mark.skipif(os.name != "posix", reason="there is no worker on this system")
linux = pytest.mark.skipif(sys.platform != "linux", reason="this system has no /proc")
pytestmark = posix


def texts(path, *modalities):
    reader = Reader(modalities or ("text",), lambda text: len(text.split()), CONFIG)
    return [document.text for document in reader.read(path).documents]


def reason(question):
    """Return the reason of the error that ``question`` raises: one line."""
    with pytest.raises(DocumentError) as caught:
        question()
    assert "\n" not in caught.value.reason
    return caught.value.reason


def check_the_next_file(tmp_path):
    path = write(tmp_path / "next.pdf", fpdf_pages("One.", "Two."))
    assert texts(path) == [page.text for page in read(path)] == ["One.", "Two."]
    assert open_image(PdfPage(path, 2), 10_000).getextrema()[0][0] < 255


# --- hostile files --------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [False, True])
def test_a_pdf_that_takes_too_much_memory(tmp_path, draw):
    path = nested_forms(tmp_path / "forms.pdf")
    with limits(file_memory=0.3):
        found = reason(lambda: open_image(PdfPage(path, 1), 1_000) if draw else texts(path))
        check_the_next_file(tmp_path)
    assert found == (
        f"{'drawing page 1' if draw else 'reading it'} takes more than 0.3 GB of memory; "
        "smart_rag.files.limits(file_memory=...) or the option --file-memory allows more"
    )


@pytest.mark.parametrize("draw", [False, True])
def test_a_pdf_that_takes_too_long(tmp_path, draw):
    path = nested_forms(tmp_path / "forms.pdf")
    with limits(file_seconds=0.3, file_memory=None):
        begin = time.monotonic()
        found = reason(lambda: open_image(PdfPage(path, 1), 1_000) if draw else texts(path))
        assert time.monotonic() - begin < 30  # the file would take hours
        with limits(file_seconds=60):
            check_the_next_file(tmp_path)
    assert found == (
        f"{'drawing page 1' if draw else 'reading it'} takes more than 0.3 seconds; "
        "smart_rag.files.limits(file_seconds=...) or the option --file-seconds allows more"
    )


def test_a_pdf_of_200_million_characters(tmp_path):
    """pdfium may crash before the worker sees that it takes too much memory."""
    path = many_characters(tmp_path / "characters.pdf")
    assert path.stat().st_size < 300_000
    with limits(file_memory=0.3):
        assert "more than 0.3 GB of memory" in reason(lambda: texts(path))
        check_the_next_file(tmp_path)


# --- parsers that fail ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parser", "name"),
    [("segfault", "SIGSEGV"), ("abort", "SIGABRT"), ("killed", "SIGKILL"), ("leave", "exit code 3")],
)
def test_a_crash_costs_one_call(parser, name):
    before = call(bad_parsers.process, PATH)
    assert reason(lambda: call(getattr(bad_parsers, parser), PATH)) == (
        f"reading it crashed the parser ({name}); the file is damaged, or needs more than 2 GB of memory "
        "(smart_rag.files.limits(file_memory=...) or the option --file-memory allows more)"
    )
    assert call(bad_parsers.process, PATH) not in (before, os.getpid())


def test_a_process_for_one_call():
    """It is another one for each call. A crash or a hang costs this call."""
    alone = {"seconds": 60, "task": "reading it"}
    first, second = (call_alone(bad_parsers.process, PATH, **alone) for _ in range(2))
    assert len({first, second, os.getpid(), call(bad_parsers.process, PATH)}) == 4
    assert call_alone(bad_parsers.echo, PATH, 1, "two", **alone) == [str(PATH), 1, "two"]
    found = reason(lambda: call_alone(bad_parsers.segfault, PATH, **alone))
    assert found == "reading it crashed the parser (SIGSEGV); the file is damaged"


def test_a_crash_without_a_limit_of_memory():
    with limits(file_memory=None):
        found = reason(lambda: call(bad_parsers.abort, PATH, task="drawing page 3"))
    assert found == "drawing page 3 crashed the parser (SIGABRT); the file is damaged"


def test_a_worker_that_ended_between_two_files_is_replaced():
    worker = call(bad_parsers.process, PATH)
    os.kill(worker, signal.SIGKILL)
    while subprocess.run(["ps", "-o", "stat=", "-p", str(worker)], capture_output=True).stdout[:1] not in (b"", b"Z"):
        time.sleep(0.01)
    assert call(bad_parsers.process, PATH) != worker


@pytest.mark.parametrize("parser", ["grow", "allocate_at_once"])
def test_memory_is_limited_in_small_steps_and_in_large_ones(parser):
    if parser == "allocate_at_once" and sys.platform != "linux":
        pytest.skip("only Linux can refuse an allocation")
    with limits(file_memory=0.2):
        assert "reading it takes more than 0.2 GB of memory" in reason(lambda: call(getattr(bad_parsers, parser), PATH))


@pytest.mark.parametrize("parser", ["sleep", "hold_the_interpreter"])
def test_time_is_limited_whatever_the_parser_does(parser):
    with limits(file_seconds=0.2):
        assert "takes more than 0.2 seconds" in reason(lambda: call(getattr(bad_parsers, parser), PATH))


def test_errors_of_a_parser_are_raised_here(tmp_path):
    def fail(error):
        return call(bad_parsers.fail, PATH, error)

    worker = call(bad_parsers.process, PATH)
    with pytest.raises(DocumentError) as caught:
        fail("DocumentError")
    assert (caught.value.path, caught.value.reason) == (PATH, "the reason")
    with pytest.raises(InvalidInput, match=r"^a wrong page$"):
        fail("InvalidInput")
    with pytest.raises(MissingExtra, match=r"reading a\.pdf needs the package 'one'") as missing:
        fail("MissingExtra")
    assert (missing.value.package, missing.value.extra) == ("one", "other")
    assert reason(lambda: fail("KeyError")) == r"cannot be read (KeyError: 'two\nlines')"
    assert reason(lambda: fail("RecursionError")) == "cannot be read (RecursionError: too deep)"
    assert call(bad_parsers.process, PATH) == worker


def message(value, length=None):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return (struct.pack("!QQ", len(text) if length is None else length, 0) + text).hex()


@pytest.mark.parametrize(
    "sent",
    [
        message(b"no JSON"),
        message(b"\xff"),
        message(b"[" * 100_000),
        message([]),
        message({}),
        message({"error": ["SystemExit", "now"]}),
        message({"error": "DocumentError"}),
        message({"value": 1}),
        message(b"", 10**12),
        b"\0".hex() * 16 + b"\xff".hex() * 16,
    ],
)
def test_a_worker_that_lies_is_ended(sent):
    """A file that took over the worker can send any bytes."""
    worker = call(bad_parsers.process, PATH)
    assert "crashed the parser" in reason(lambda: call(bad_parsers.lie, PATH, sent))
    assert call(bad_parsers.process, PATH) != worker


# --- the process ----------------------------------------------------------------------------


def test_one_process_reads_file_after_file_until_the_limits_change():
    first = call(bad_parsers.process, PATH)
    assert call(bad_parsers.process, PATH) == first != os.getpid()
    with limits(file_seconds=60):
        second = call(bad_parsers.process, PATH)
        assert call(bad_parsers.process, PATH) == second != first


def test_without_limits_files_are_read_in_this_process():
    with limits(file_seconds=None, file_memory=None):
        assert call(bad_parsers.process, PATH) == os.getpid()
    for values in ({"file_seconds": None}, {"file_memory": None}):
        with limits(**values):
            assert call(bad_parsers.process, PATH) != os.getpid()


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), True, "60", np.float32(0)])
def test_wrong_limits(wrong):
    for name in ("file_seconds", "file_memory"):
        with pytest.raises(InvalidInput, match=f"{name} "), limits(**{name: wrong}):
            pass


def test_limits_may_be_values_of_numpy():
    with limits(file_seconds=np.int64(60), file_memory=np.float32(1)):
        assert call(bad_parsers.echo, PATH, 1) == [str(PATH), 1]


@linux
def test_a_process_that_keeps_much_memory_is_replaced():
    with limits(file_memory=0.4):
        first = call(bad_parsers.keep, PATH, 1_000)
        assert call(bad_parsers.keep, PATH, 200_000_000) == first
        assert call(bad_parsers.process, PATH) != first


def test_the_worker_is_small():
    """It imports no model and no store."""
    loaded = {name.split(".")[0] for name in call(bad_parsers.modules, PATH)}
    assert "smart_rag" in loaded
    assert not loaded & {"torch", "chromadb", "lmdb", "transformers", "sentence_transformers", "numba", "scipy"}


def test_any_path_and_text_arrives(tmp_path):
    path = Path(os.fsdecode(b"/\xff\xc3\xa4 \n.pdf"))
    assert call(bad_parsers.echo, path, "\udcff ä 語", None, [1.5]) == [str(path), "\udcff ä 語", None, [1.5]]
    odd = write(tmp_path / os.fsdecode(b"\xff.pdf"), one_page())
    assert texts(odd) == ["A few words"]


def test_threads_get_their_own_answers():
    wrong = []

    def work(number):
        for i in range(50):
            if call(bad_parsers.echo, PATH, number, i) != [str(PATH), number, i]:
                wrong.append((number, i))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("executable", ["/nonexistent/python", "/bin/false"])
def test_a_worker_that_cannot_be_started(executable):
    before = multiprocessing.spawn.get_executable()
    multiprocessing.spawn.set_executable(executable)
    try:
        for question in (
            lambda: call(bad_parsers.process, PATH),
            lambda: Reader(("image",), len, CONFIG).count_pages(PATH),
        ):
            with limits(file_seconds=61), pytest.raises(SmartRagError, match=r"cannot be started.*file_memory=None"):
                question()
    finally:
        multiprocessing.spawn.set_executable(before)


# --- programs -------------------------------------------------------------------------------

PRELUDE = f"""
import os, signal, sys, threading, time
sys.path.insert(0, {TESTS!r})
from pathlib import Path
from helpers import bad_parsers
from smart_rag.files import limits
from smart_rag.files.worker import call
path = Path("/a.pdf")
"""


def started(tmp_path, program):
    """Start a program from a file, without a guard for `__main__`."""
    file = write(tmp_path / "program.py", PRELUDE + program)
    return subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output(tmp_path, program):
    with started(tmp_path, program) as process:
        printed, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    return printed.split()


def is_gone(process, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout.strip()
        if not state or state.startswith("Z"):  # nobody may wait for orphans in a container
            return True
        time.sleep(0.05)
    return False


def test_a_program_without_a_guard_runs_once_and_leaves_no_process(tmp_path):
    worker, second = output(tmp_path, "print(call(bad_parsers.process, path))\nprint(call(bad_parsers.process, path))")
    assert worker == second
    assert is_gone(worker)


def test_ctrl_c_ends_a_call_and_the_next_call_gets_its_own_answer(tmp_path):
    program = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests without Ctrl-C
print(call(bad_parsers.process, path))
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    call(bad_parsers.sleep, path)
except KeyboardInterrupt:
    print("interrupted", call(bad_parsers.process, path))
"""
    first, word, second = output(tmp_path, program)
    assert (word, first != second) == ("interrupted", True)
    assert is_gone(first)
    assert is_gone(second)


def test_ctrl_c_of_a_terminal_is_not_for_the_worker(tmp_path):
    """A terminal sends the signal to all processes of the group."""
    program = """
os.setpgrp()
print(call(bad_parsers.process, path))
signal.signal(signal.SIGINT, lambda *_: print("told"))
os.killpg(0, signal.SIGINT)
print(call(bad_parsers.process, path))
"""
    first, word, second = output(tmp_path, program)
    assert (word, first) == ("told", second)


@pytest.mark.parametrize(
    ("parser", "limit"),
    [(None, 100), ("sleep", 100), pytest.param("hold_the_interpreter", 8, marks=pytest.mark.slow)],
)
def test_a_worker_ends_with_a_killed_parent(tmp_path, parser, limit):
    """If the parser lets no other thread run, the worker ends soon after the limit."""
    program = f"""
with limits(file_seconds={limit}):
    print(call(bad_parsers.process, path), flush=True)
    call(bad_parsers.{parser or "sleep"}, path, *{[] if parser else [0]})
    print("idle", flush=True)
    time.sleep(100)
"""
    with started(tmp_path, program) as process:
        worker = process.stdout.readline().strip()
        if parser is None:
            assert process.stdout.readline() == "idle\n"
        else:
            time.sleep(0.5)
        assert not is_gone(worker, seconds=0.1)
        process.kill()
    assert is_gone(worker)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_its_own_worker(tmp_path):
    program = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
print(call(bad_parsers.process, path), flush=True)
thread = threading.Thread(target=call, args=(bad_parsers.sleep, path, 1))  # it holds the lock during the fork
thread.start()
time.sleep(0.3)
child = os.fork()
if not child:
    signal.alarm(30)
    print(call(bad_parsers.process, path), flush=True)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
thread.join()
print(call(bad_parsers.process, path))
"""
    first, second, third = output(tmp_path, program)
    assert first == third != second
    assert is_gone(first)
    assert is_gone(second)


@pytest.mark.parametrize("bytes_more", [0, 1])
def test_large_texts_are_read_by_the_worker(tmp_path, bytes_more):
    """The worker exceeds this limit of time. A small text is read in this process, which has no limit."""
    path = write(tmp_path / "a.txt", "é" * (1 << 19) + "x" * bytes_more)
    with limits(file_seconds=1e-6):
        if bytes_more:
            assert "takes more than 1e-06 seconds" in reason(lambda: texts(path))
        else:
            assert texts(path)
    if bytes_more:
        assert "".join(texts(path)) == path.read_text(encoding="utf-8")
