"""A Chroma server that is killed while a batch is written: the batch was refused, so it is undone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chromadb
import pytest
from faults.test_full_disk import DIMENSION, add, assert_holds, document

from smart_rag import SmartIndex
from smart_rag.errors import ChromaFailure


@contextlib.contextmanager
def server(folder, port):
    """Run a server, and yield its process and a client as soon as it answers."""
    command = [Path(sys.executable).parent / "chroma", "run", "--path", folder, "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(ValueError):
                yield process, chromadb.HttpClient(host="127.0.0.1", port=port)
                return
            time.sleep(0.2)
        raise TimeoutError("the server does not answer")
    finally:
        process.kill()
        process.wait()


def add_until_it_fails(index, held):
    for version in range(1, 1000):
        new = [document(i, version) for i in [*range(100), *range(1000 * version, 1000 * version + 28)]]
        add(index, new)
        held |= {one.id: one for one in new}


@pytest.mark.faults
@pytest.mark.parametrize("after", [0, 0.005, 0.02, 0.05, 0.1])
def test_a_killed_server(tmp_path, after):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    held = {f"d{i}": document(i, 0) for i in range(150)}
    with server(tmp_path / "server", port) as (process, client):
        index = SmartIndex.create(tmp_path / "index", None, dimension=DIMENSION, client=client)
        add(index, list(held.values()))
        kill = f"import os, time; time.sleep({after}); os.kill({process.pid}, {int(signal.SIGKILL)})"
        if after:
            killer = subprocess.Popen([sys.executable, "-c", kill])
        else:
            os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ChromaFailure):
            add_until_it_fails(index, held)
        if after:
            killer.wait()
        with pytest.raises(ChromaFailure):
            index.count()
    with server(tmp_path / "server", port) as (_, client):
        assert_holds(index, held)  # in the same process
        index.close()
        with SmartIndex.open(tmp_path / "index", client=client) as index:
            assert_holds(index, held)
