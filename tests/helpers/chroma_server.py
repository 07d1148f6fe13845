"""A server of Chroma."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import chromadb


@contextlib.contextmanager
def server(folder):
    """Run a server with its files in ``folder``, and yield a client."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "chroma", "run", "--path", folder, "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield connected(port)
    finally:
        process.kill()
        process.wait()


def connected(port):
    """Return a client of the server on this port, once it answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return chromadb.HttpClient(host="127.0.0.1", port=port)
        except ValueError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
