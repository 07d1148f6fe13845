"""Python code that another user runs, and folders that another user can see."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.word_encoder import TESTS

NOBODY = 65534

# The modules are imported first, because the other user may not see the interpreter's folder.
AS_USER = f"""
import os, sys, tempfile, threading, time
sys.path.insert(0, {TESTS!r})
import chromadb, encodings.utf_8_sig, lmdb, numba, semantic_text_splitter, sqlite3, tqdm.auto, tracemalloc
from chromadb.api.rust import RustBindingsAPI
from chromadb.api.client import SharedSystemClient
from smart_rag import Document, SmartIndex, errors
from smart_rag.files.formats import page, text
from smart_rag.index import smart_index
from helpers import environments
from helpers.word_encoder import LetterEncoder, VocabularyEncoder, WordEncoder
user, group, umask, path = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3], 8), sys.argv[4]
os.setgroups([group])
os.setgid(group)
os.setuid(user)
os.umask(umask)
os.environ["SMART_RAG_HOME"] = tempfile.mkdtemp()

def say(*words):
    print(*words, flush=True)
"""


def need_root():
    """Skip the test unless it may become another user."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can become another user")


def start_as(user, path, code, *, group=NOBODY, umask="022"):
    """Return a new process in which ``user`` runs ``code``. The code knows ``path``."""
    need_root()
    return subprocess.Popen(
        [sys.executable, "-c", AS_USER + textwrap.dedent(code), str(user), str(group), umask, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_as(user, path, code, **options):
    """Let ``user`` run ``code`` to its end, and return what it prints."""
    with start_as(user, path, code, **options) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return printed


def open_folder(owner=None):
    """Return a new folder that all users can enter. ``owner``, if given, is its user and group."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    if owner is not None:
        os.chown(folder, *owner)
    return folder


@contextmanager
def as_nobody():
    """Run with the rights of a user who owns nothing, if the tests are run by root."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield
